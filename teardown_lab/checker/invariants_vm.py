"""What may not happen to the VM: leak, vm-state-used-after-free."""

from collections.abc import Iterator

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import Facts, VmState
from teardown_lab.checker.findings import Found, Violation
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.invariants_mmu import RootLife
from teardown_lab.checker.invariants_vcpu import refused_otherwise
from vm_protocol.invariants import Invariant
from vm_protocol.messages import VmStateRead


def leaks(facts: Facts, lives: dict[str, RootLife]) -> Iterator[Found]:
    """Yield what a freed VM left behind: roots, pending async faults, vCPUs with mailboxes.

    A vCPU's free counts only if it is certain to come first. A tombstone's mailbox is in quarantine
    and no leak; a stuck teardown frees no VM, so nothing is judged. Nor is what a lost host had.
    """
    end = facts.life.freed
    if end is None or facts.life.stuck:
        return
    for life in lives.values():
        freed = any(not before(end, free.moment) for free in life.frees)
        if life.allocated is not None and not freed:
            text = explain.leaked_root(life.root, life.invalidated is not None)
            yield _found(end, Invariant.LEAK, life.holder, text, life.root)
    for vcpu, fault in _pending_faults(facts):
        if (vcpu, fault) not in facts.guests.faults_done and vcpu not in facts.hosts.vcpus:
            text = explain.leaked_fault(vcpu, fault)
            yield _found(end, Invariant.LEAK, vcpu, text, f"async page fault {fault}")
    for vcpu in facts.vcpus():
        frees = facts.memory.freed.get(vcpu)
        if vcpu in facts.hosts.vcpus:
            continue
        if not frees or not before(frees[0].moment, end):
            yield _found(end, Invariant.LEAK, vcpu, explain.leaked_vcpu(vcpu))


def _pending_faults(facts: Facts) -> Iterator[tuple[int, int]]:
    for vcpu in facts.vcpus():
        yield from ((vcpu, fault) for fault in range(facts.async_faults(vcpu)))


def state_uses(facts: Facts) -> Iterator[Found]:
    """Yield touches of VM-level state that the manager had freed, one per message and vCPU."""
    seen: set[tuple[str | None, int | None]] = set()
    for delivery, arrival in facts.deliveries.arrivals.items():
        message_id, vcpu = delivery
        if facts.messages.types.get(message_id) != "VmStateRead" or refused_otherwise(
            facts.deliveries, delivery
        ):
            continue
        if facts.deliveries.is_seen_again(delivery, arrival):
            continue
        seen.add(delivery)
        named = VmStateRead.fields_of(message_id).get("state", "")
        state = facts.messages.body(message_id).text("state") or named
        if _is_freed(facts.vm_state, state, arrival):
            yield _state_use(arrival, state, message_id, vcpu)
    for read in facts.vm_state.reads:
        message = read.record.message_id or read.record.caused_by
        key = (message, read.record.vcpu)
        state = shapes.text(read.record, "state")
        if (message is None or key not in seen) and _is_freed(facts.vm_state, state, read):
            seen.add(key)
            yield _state_use(read, state, message, read.record.vcpu)


def _is_freed(vm_state: VmState, state: str, moment: Moment) -> bool:
    freed = vm_state.freed.get(state)
    return freed is not None and before(freed, moment)


def _state_use(moment: Moment, state: str, message_id: str | None, vcpu: int | None) -> Found:
    text = explain.vm_state(state, message_id, vcpu)
    violation = Violation(Invariant.VM_STATE_USED_AFTER_FREE, vcpu, message_id, text)
    return Found(moment.position, violation)


def _found(
    moment: Moment, invariant: Invariant, vcpu: int | None, text: str, about: str = ""
) -> Found:
    violation = Violation(invariant, vcpu, moment.record.caused_by, text)
    return Found(moment.position, violation, about)
