"""Violations in words: one or two sentences, in kernel terms and in messages; decides nothing."""

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts, Freeing, Messages, StepBegun
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.kernel_names import (
    MESSAGE_FUNCTIONS,
    RAISERS,
    REQUEST_CALLS,
    ROOT_FREERS,
    STATE_FREERS,
    STATE_READERS,
    STEP_FUNCTIONS,
)
from vm_protocol.messages import REQUEST_KINDS
from vm_protocol.topology import parse_mailbox


def call(facts: Facts, message_id: str | None, post: Moment | None = None) -> str:
    """Return the call that a request stands for, and who raised it."""
    if post is None and message_id is not None:
        post = facts.requests.post_of.get(message_id)
    if post is None:
        kind = REQUEST_KINDS.get(facts.messages.types.get(message_id or "", ""), "")
        return REQUEST_CALLS.get(kind, "kvm_make_all_cpus_request()")
    kind = shapes.text(post.record, "kind")
    by = shapes.text(post.record, "by")
    name = REQUEST_CALLS.get(kind, f"kvm_make_all_cpus_request({kind})")
    raiser = RAISERS.get(by, by)
    if not raiser or raiser == name:
        return name
    of_vcpu = f" of vCPU {post.record.vcpu}" if post.record.vcpu is not None else ""
    return f"{name}, raised by {raiser}{of_vcpu},"


def function_of(messages: Messages, message_id: str) -> str:
    """Return the kernel function that a message stands for."""
    name = messages.types.get(message_id, "")
    if name == "VmStateRead":
        state = messages.body(message_id).text("state")
        return STATE_READERS.get(state, MESSAGE_FUNCTIONS[name])
    return MESSAGE_FUNCTIONS.get(name, "?")


def request_after_free(facts: Facts, message_id: str, arrival: Moment, free: Freeing) -> str:
    """Explain a request that reached a freed vCPU."""
    vcpu = free.moment.record.vcpu
    kind = facts.messages.types.get(message_id, "request")
    queue = shapes.text(arrival.record, "queue") or f"of vCPU {vcpu}"
    erased = facts.array.erased.get(vcpu) if vcpu is not None else None
    sent = facts.requests.post_of.get(message_id) or facts.messages.sent.get(message_id)
    still = ""
    if erased is not None and sent is not None and before(erased, sent):
        still = " Its xa_erase() came before the post, yet the array still showed it."
    return (
        f"{call(facts, message_id)} wrote to vCPU {vcpu}, which kvm_vcpu_destroy() had freed: "
        f"{kind} {message_id} arrived in mailbox {queue} after {free.command or 'the free'}.{still}"
    )


def expired_after_free(facts: Facts, message_id: str, letter: Moment, free: Freeing) -> str:
    """Explain a request that was posted to a freed vCPU and that nobody consumed."""
    vcpu = free.moment.record.vcpu
    return (
        f"{call(facts, message_id)} wrote to vCPU {vcpu}, which kvm_vcpu_destroy() had freed: "
        f"{facts.messages.types.get(message_id, 'request')} {message_id} was sent to mailbox "
        f"{shapes.text(letter.record, 'queue')} after {free.command or 'the free'} and left it "
        f"as a dead letter ({shapes.text(letter.record, 'reason')})."
    )


def completion_after_free(messages: Messages, message_id: str, free: Freeing) -> str:
    """Explain an async page fault that completed into a freed vCPU."""
    vcpu = free.moment.record.vcpu
    fault = messages.body(message_id).number("fault")
    return (
        f"async_pf_execute() completed fault {fault} of vCPU {vcpu}, which kvm_vcpu_destroy() had "
        f"freed; kvm_clear_async_pf_completion_queue() had not waited for it: AsyncPfCompleted "
        f"{message_id} arrived after {free.command or 'the free'}."
    )


def step_after_free(name: str, command: str | None, free: Freeing) -> str:
    """Explain a step that began on a freed vCPU."""
    vcpu = free.moment.record.vcpu
    function = STEP_FUNCTIONS.get(name, name or "kvm_vcpu_destroy")
    where = f"DestroyVcpu {command}" if command else "a command"
    return (
        f"{function}() ran on vCPU {vcpu}, which kvm_vcpu_destroy() had freed: {where} began "
        f"{name or 'a step'} after {free.command or 'the free'}."
    )


def double_free(vcpu: int | None, command: str | None, first: str | None) -> str:
    """Explain a second free of one vCPU."""
    where = f"DestroyVcpu {command}" if command else "a command"
    return (
        f"kmem_cache_free() ran a second time for vCPU {vcpu}: {where} began free_vcpu after "
        f"{first or 'another free'} had freed it."
    )


def visible_after_erase(facts: Facts, message_id: str | None, vcpu: int, how: str) -> str:
    """Explain a vCPU that the array still shows after its erase."""
    what = f"{facts.messages.types.get(message_id or '', 'request')} {message_id}"
    if how == "shown":
        return (
            f"vCPU {vcpu} entered kvm->vcpu_array again after its xa_erase(): its mailbox was "
            f"bound to vm.requests once more."
        )
    verb = "counted vCPU {} as a recipient" if how == "recipient" else "reached vCPU {}"
    return (
        f"{call(facts, message_id)} {verb.format(vcpu)} after its xa_erase(): {what} was sent "
        f"after the mailbox had been unbound from vm.requests."
    )


def lost_post(facts: Facts, post: Moment, vcpu: int) -> str:
    """Explain a request that missed a vCPU."""
    record = post.record
    what = facts.messages.types.get(record.message_id or "", shapes.text(record, "kind"))
    sent = f"{what} {record.message_id}" if record.message_id else f"the {what} was not published:"
    hidden = facts.array.hidden.get(vcpu)
    why = f"vCPU {vcpu} is not among its recipients"
    if hidden is not None and before(hidden, post):
        hole = shapes.number(hidden.record, "hole")
        why = f"the hole at {hole} in the array hides vCPU {vcpu}, which is"
        why += " neither freed nor erased"
    return (
        f"{call(facts, None, post)} missed vCPU {vcpu}: {sent} {_because(record.message_id, why)}."
    )


def owed_flush(messages: Messages, message_id: str, vcpu: int) -> str:
    """Explain a flush that an unload, or the loss of a host, owed and did not raise."""
    is_unload = messages.types.get(message_id) == "RootsReleased"
    unload = f"kvm_mmu_unload() of vCPU {messages.vcpu_of.get(message_id)}"
    return (
        f"kvm_flush_remote_tlbs() never ran for vCPU {vcpu}: "
        f"{unload if is_unload else 'the loss of a host'} released the last pin of an invalid root "
        f"({message_id}), and no TlbFlush was raised."
    )


def _because(message_id: str | None, why: str) -> str:
    return f"was not routed to it, as {why}" if message_id else why


def lost_letter(facts: Facts, message_id: str, vcpu: int, letter: Moment) -> str:
    """Explain a request that a live vCPU never took."""
    reason = shapes.text(letter.record, "reason")
    how = {"expired": "it expired", "maxlen": "the mailbox was full"}.get(reason, reason)
    return (
        f"{call(facts, message_id)} never reached vCPU {vcpu}, which was alive: "
        f"{facts.messages.types.get(message_id, 'request')} {message_id} left mailbox "
        f"{shapes.text(letter.record, 'queue')} as a dead letter, as {how}."
    )


def pinned_root_freed(root: str, by: str, pins: tuple[str, ...]) -> str:
    """Explain a root that was freed under its holders."""
    held = ", ".join(pins[:4]) + (", ..." if len(pins) > 4 else "")
    function = ROOT_FREERS.get(by, by or "a step")
    return (
        f"{function}() freed {root} while it was still a root of a vCPU: the manager freed it "
        f"with pins {held} (vCPU.context.slot) that no unload had released."
    )


def root_freed_twice(root: str, by: str) -> str:
    """Explain a second free of one root."""
    return (
        f"kvm_mmu_free_shadow_page() ran a second time for {root}: the manager freed it again"
        f"{f' ({by})' if by else ''}."
    )


def leaked_root(root: str, zapped: bool) -> str:
    """Explain a root that outlived its VM."""
    why = (
        "no vCPU's unload released its last pin"
        if zapped
        else "kvm_mmu_zap_all() never made it invalid, so no unload could free it"
    )
    return (
        f"{root} was still on the VM's list when kvm_destroy_vm() freed the VM: {why}; the "
        f"manager recorded vm.freed without freeing it."
    )


def leaked_fault(vcpu: int, fault: int) -> str:
    """Explain an async page fault that nobody completed."""
    return (
        f"async page fault {fault} of vCPU {vcpu} was still queued when kvm_destroy_vm() freed the "
        f"VM: no kvm_clear_async_pf_completion_queue() ran and no AsyncPfCompleted was sent."
    )


def leaked_vcpu(vcpu: int) -> str:
    """Explain a vCPU that outlived its VM."""
    return (
        f"kvm_vcpu_destroy() never freed vCPU {vcpu}: kvm_destroy_vm() freed the VM while the "
        f"vCPU's worker still held it and its mailbox."
    )


def vm_state(state: str, message_id: str | None, vcpu: int | None) -> str:
    """Explain VM-level state that was used after its free."""
    reader = STATE_READERS.get(state, "a vCPU's step")
    freer = STATE_FREERS.get(state, "the VM")
    message = f"VmStateRead {message_id}" if message_id else "the read"
    return (
        f"{reader}() of vCPU {vcpu} touched the VM's {state} state after {freer}() had freed it: "
        f"{message} reached the manager after vm_state.freed."
    )


def leaked_state(state: str) -> str:
    """Explain VM-level state that outlived its VM."""
    freer = STATE_FREERS.get(state, "its free")
    return (
        f"{freer}() never ran: kvm_destroy_vm() freed the VM while its {state} state was still "
        f"allocated."
    )


def state_freed_twice(state: str) -> str:
    """Explain a second free of VM-level state."""
    freer = STATE_FREERS.get(state, "its free")
    return (
        f"{freer}() ran a second time: the manager freed the VM's {state} state again, which was "
        f"gone."
    )


def workers_outlived() -> str:
    """Explain background workers that nobody had stopped as the VM was freed."""
    return (
        "kvmclock_sync_fn() and the PIT could still run when kvm_destroy_vm() freed the VM, and "
        "both use it: no kvm_arch_pre_destroy_vm() had stopped the background workers before."
    )


def freed_while_running(vcpu: int, free: Freeing) -> str:
    """Explain a vCPU that was freed in its guest."""
    return (
        f"kvm_vcpu_destroy() freed vCPU {vcpu} while it was IN_GUEST_MODE, and its processor runs "
        f"on in what is freed: no request had made it leave the guest before "
        f"{free.command or 'the free'}."
    )


def memory_mapped(root: str, by: str) -> str:
    """Explain guest memory that went back to its owner while a root mapped it."""
    freed = f"; {ROOT_FREERS.get(by, by)}() had freed the root without that" if by else ""
    return (
        f"exit_mmap() took the guest's memory back while {root} still mapped a page of it: no "
        f"kvm_mmu_zap_all() had unmapped it when kvm_destroy_vm() freed the VM{freed}."
    )


def stale_tlb(root: str, vcpu: int, *, with_vm: bool = False) -> str:
    """Explain a page that was given back under a TLB; `with_vm`: as the VM was freed."""
    who = "exit_mmap()" if with_vm else "kvm_mmu_zap_all()"
    return (
        f"{who} freed the page of {root} while vCPU {vcpu}, IN_GUEST_MODE, could still "
        f"translate to it: no request reached the vCPU's mailbox before."
    )


def stuck_step(step: StepBegun | None, vcpu: int | None, message: str, why: str) -> str:
    """Explain a teardown that cannot end; `message` is what it was about, with its type."""
    name = step.name if step else ""
    function = f" in {STEP_FUNCTIONS[name]}()" if name in STEP_FUNCTIONS else ""
    of_vcpu = f" of vCPU {vcpu}" if vcpu is not None and function else ""
    return f"kvm_destroy_vm() hangs{function}{of_vcpu}: {message}: {why}."


def mailbox_vcpu(queue: str) -> int | None:
    """Return the vCPU whose mailbox a queue is, None for other queues."""
    mailbox = parse_mailbox(queue)
    return mailbox.vcpu if mailbox else None
