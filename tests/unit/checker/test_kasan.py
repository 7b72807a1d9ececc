from typing import get_args

from teardown_lab.checker.gathering import gather
from teardown_lab.checker.kernel_names import MESSAGE_FUNCTIONS, STEP_FUNCTIONS
from teardown_lab.report.kasan import kasan_report
from vm_protocol.messages import Message
from vm_protocol.ordering import VCPU_STEPS, VM_STEPS


def test_every_message_and_every_step_has_its_kernel_function():
    assert set(MESSAGE_FUNCTIONS) == {kind.__name__ for kind in get_args(Message)}
    assert set(STEP_FUNCTIONS) == {*VM_STEPS, *VCPU_STEPS}


def test_a_safe_run_has_no_report(new_story):
    story = new_story().begin().destroy_all().end()

    assert kasan_report(story.judge(), gather(story.history())) == ""


def test_a_use_after_free_is_reported_with_its_three_chains(new_story):
    story = new_story(vcpus=2).begin()
    story.free(0)
    command = story.command(1, "unload_mmu", caused_by="vm-a.1/vcpu-steps-done/0")
    released = story.reply("roots-released/1", "RootsReleased", 1, caused_by=command)
    request = story.post([0, 1], vcpu=1, caused_by=released)
    story.deliver(request, 1)
    story.refuse(request, 0)
    story.end()

    assert (
        kasan_report(story.judge(), gather(story.history()))
        == """\
==================================================================
BUG: KASAN: slab-use-after-free in kvm_make_all_cpus_request
Write to vCPU 0 of VM vm-a by TlbFlush vm-a.1/request/1

Used by:
 kvm_flush_remote_tlbs(), raised by kvm_mmu_unload() of vCPU 1
 kvm_make_all_cpus_request    TlbFlush vm-a.1/request/1 by manager
 kvm_mmu_free_roots           RootsReleased vm-a.1/roots-released/1 by worker.w0
 kvm_arch_vcpu_destroy        DestroyVcpu vm-a.1/destroy-vcpu/1/2 by manager
 ?                            ? vm-a.1/vcpu-steps-done/0

Freed by:
 kmem_cache_free              free_vcpu of vCPU 0 by worker.w0
 kvm_arch_vcpu_destroy        DestroyVcpu vm-a.1/destroy-vcpu/0/1 by manager
 kvm_destroy_vm               DestroyVm vm-a.1/destroy-vm by lab

Allocated by:
 kvm_vm_ioctl_create_vcpu     PlaceVcpu vm-a.1/place-vcpu/0 by manager
 kvm_create_vm                CreateVm vm-a.1/create-vm by lab

The buggy address belongs to the object of struct kvm_vcpu, vCPU 0,
 mailbox vcpu.vm-a.0.1
==================================================================
"""
    )


def test_the_chain_of_the_free_is_its_commands_even_when_the_fence_waited(new_story):
    """A free that waits for its mailbox happens while a request is handled."""
    story = new_story(vcpus=1).begin()
    command = story.command(0, "free_vcpu")
    awaited = story.post([0], "scan-ioapic", "pit")
    story.arrive(awaited, 0)
    story.say("worker.w0", "vcpu.freed", 0, caused_by=awaited, generation=1)
    story.ack(awaited, story.mailbox(0))
    story.done(0, command)
    story.refuse(story.post([0], "clock-update", "ticker"), 0)
    story.erase(0)
    story.end()

    report = kasan_report(story.judge(), gather(story.history()))

    assert f"\n kvm_arch_vcpu_destroy        DestroyVcpu {command} by manager\n" in report


def test_long_chains_and_many_reports_are_cut(new_story):
    story = new_story(vcpus=1).begin()
    story.free(0)
    cause = "vm-a.1/destroy-vm"
    for number in range(12):
        cause = story.reply(f"roots-released/{number}", "RootsReleased", 0, caused_by=cause)
    for _ in range(3):
        story.refuse(story.post([0], vcpu=0, caused_by=cause), 0)
    story.end()

    report = kasan_report(story.judge(), gather(story.history()), reports_max=1)

    assert report.count("BUG: KASAN") == 1
    assert " ... 7 messages more (--verbose) ...\n kvm_destroy_vm " in report
    assert report.endswith("... 2 more reports; --verbose shows them all ...\n")
    whole = kasan_report(story.judge(), gather(story.history()), whole_chains=True)
    assert whole.count("BUG: KASAN") == 3
    assert " more" not in whole
    assert whole.count(" RootsReleased ") == 3 * 12
