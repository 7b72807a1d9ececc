"""Requests: one publish to all visible vCPUs, with the next generation."""

import pytest
from support.cores import acts, said

from vm_manager import requests
from vm_manager.vm import Slot, Vm
from vm_protocol import messages
from vm_protocol.effects import Publish
from vm_protocol.scenario import Scenario


def vm(*bound: bool) -> Vm:
    slots = tuple(Slot(worker="w", bound=each, present=each) for each in bound)
    return Vm("vm-0", 1, Scenario(vcpus=len(bound)), "client", "vm-0.1/create-vm", slots=slots)


POSTS = {
    "tlb-flush": (lambda vm: requests.flush_tlb(vm, "flush-tlbs"), "TlbFlush", "flush-tlbs"),
    "drop-obsolete-roots": (
        lambda vm: requests.drop_obsolete_roots(vm, "root-0"),
        "DropObsoleteRoots",
        "zap-all",
    ),
    "scan-ioapic": (requests.scan_ioapic, "ScanIoapic", "pit"),
    "clock-update": (requests.clock_update, "ClockUpdate", "ticker"),
}


@pytest.mark.parametrize("kind", POSTS)
def test_a_request_is_one_publish_with_its_recipients_and_the_next_generation(kind: str) -> None:
    post, name, by = POSTS[kind]

    after, effects = post(vm(True, False, True))

    (publish,) = acts(effects)
    assert isinstance(publish, Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == (
        "vm.requests",
        "vm-0",
        True,
    )
    assert isinstance(publish.message, messages.REQUEST_TYPES)
    assert (publish.message.type, publish.message.generation) == (name, 1)
    assert publish.message.recipients == (0, 2)
    assert said(effects) == [
        {
            "event": "request.posted",
            "vcpu": None,
            "kind": kind,
            "by": by,
            "generation": 1,
            "recipients": (0, 2),
        }
    ]
    assert after.generation == 1
    assert [slot.routed for slot in after.slots] == [1, 0, 1]


def test_generations_count_all_kinds_of_one_vm_together() -> None:
    posted, _ = requests.clock_update(vm(True))
    posted, _ = requests.flush_tlb(posted, "zap-all")
    posted, _ = requests.scan_ioapic(posted)

    assert (posted.generation, posted.slots[0].routed) == (3, 3)


@pytest.mark.parametrize("kind", POSTS)
def test_a_request_to_nobody_is_said_but_neither_published_nor_counted(kind: str) -> None:
    post, _, by = POSTS[kind]
    nobody = vm(False, False)

    after, effects = post(nobody)

    assert after == nobody
    assert acts(effects) == []
    assert [(e["generation"], e["recipients"], e["by"]) for e in said(effects)] == [(0, (), by)]


def test_a_flush_names_the_vcpu_whose_unload_raised_it() -> None:
    _, effects = requests.flush_tlb(vm(True, True), "unload", 1)

    assert [(each["vcpu"], each["by"]) for each in said(effects)] == [(1, "unload")]
