"""What may not happen to the VM: leak, vm-state-used-after-free, stuck."""

from collections.abc import Iterator
from typing import Final

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Found, Invariant, Violation
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.invariants_mmu import RootLife
from teardown_lab.checker.invariants_vcpu import refused_otherwise
from vm_protocol.errors import RejectReason

OUT_OF_TIME: Final = "timed-out-alive"
"""Outcome of a run that ended although all services still answered."""


def leaks(facts: Facts, lives: dict[str, RootLife]) -> Iterator[Found]:
    """Yield what a freed VM left behind: roots, pending async faults, vCPUs with mailboxes.

    A vCPU's free counts only if it is certain to come first. A tombstone's mailbox is in quarantine
    and no leak; a stuck teardown frees no VM, so nothing is judged.
    """
    end = facts.vm_freed
    if end is None or facts.stuck:
        return
    for life in lives.values():
        freed = any(not before(end, free.moment) for free in life.frees)
        if life.allocated is not None and not freed:
            text = explain.leaked_root(life.root, life.invalidated is not None)
            yield _found(end, Invariant.LEAK, life.holder, text)
    for vcpu, fault in _pending_faults(facts):
        if (vcpu, fault) not in facts.faults_done:
            yield _found(end, Invariant.LEAK, vcpu, explain.leaked_fault(vcpu, fault))
    for vcpu in facts.vcpus():
        frees = facts.freed.get(vcpu)
        if not frees or not before(frees[0].moment, end):
            yield _found(end, Invariant.LEAK, vcpu, explain.leaked_vcpu(vcpu))


def _pending_faults(facts: Facts) -> Iterator[tuple[int, int]]:
    placed = {
        facts.vcpu_of[message_id]: facts.body(message_id).number("async_pf")
        for message_id, name in facts.types.items()
        if name == "PlaceVcpu"
    }
    default = facts.scenario().get("async_pf", 0)
    for vcpu in facts.vcpus():
        count = placed.get(vcpu)
        if count is None:
            count = default if isinstance(default, int) else 0
        yield from ((vcpu, fault) for fault in range(count))


def state_uses(facts: Facts) -> Iterator[Found]:
    """Yield touches of VM-level state that the manager had freed, one per message and vCPU."""
    seen: set[tuple[str | None, int | None]] = set()
    for delivery, arrival in facts.arrivals.items():
        message_id, vcpu = delivery
        if facts.types.get(message_id) != "VmStateRead" or refused_otherwise(facts, delivery):
            continue
        seen.add(delivery)
        state = facts.body(message_id).text("state") or message_id.rpartition("/")[2]
        if _is_freed(facts, state, arrival):
            yield _state_use(arrival, state, message_id, vcpu)
    for read in facts.state_reads:
        message = read.record.message_id or read.record.caused_by
        key = (message, read.record.vcpu)
        state = shapes.text(read.record, "state")
        if (message is None or key not in seen) and _is_freed(facts, state, read):
            seen.add(key)
            yield _state_use(read, state, message, read.record.vcpu)


def _is_freed(facts: Facts, state: str, moment: Moment) -> bool:
    freed = facts.state_freed.get(state)
    return freed is not None and before(freed, moment)


def _state_use(moment: Moment, state: str, message_id: str | None, vcpu: int | None) -> Found:
    text = explain.vm_state(state, message_id, vcpu)
    violation = Violation(Invariant.VM_STATE_USED_AFTER_FREE, vcpu, message_id, text)
    return Found(moment.position, violation)


def stuck_steps(facts: Facts) -> Iterator[Found]:
    """Yield steps that cannot end: one per command, and one for a teardown that names none."""
    vcpus: set[int | None] = set()
    lost = given_up(facts)
    for found in _stuck_commands(facts):
        vcpus.add(found.violation.vcpu)
        yield found
    for stuck in facts.stuck:
        vcpu = stuck.record.vcpu
        if vcpu in vcpus or (vcpu is None and vcpus):
            continue
        command = _last_command(facts, vcpu)
        if command in lost or was_impatient(facts, stuck):
            continue
        vcpus.add(vcpu)
        why = shapes.text(stuck.record, "why") or "the manager recorded teardown.stuck"
        yield _stuck(facts, stuck, vcpu, command or stuck.record.caused_by, why)
    answered = "VmDestroyed" in facts.types.values()
    unfinished = facts.vm_freed is None and not answered
    if facts.outcome() == OUT_OF_TIME and not vcpus and not lost and unfinished:
        why = "the run ran out of time while all services answered"
        yield _stuck(facts, facts.moments[-1], None, None, why)


def _stuck_commands(facts: Facts) -> Iterator[Found]:
    for (message_id, vcpu), rejected in facts.rejected.items():
        if shapes.text(rejected.record, "reason") == RejectReason.FENCE_NOT_REACHED:
            why = "its mailbox was not consumed up to the free's generation within fence_ms"
            yield _stuck(facts, rejected, vcpu, message_id, why)
    limited = (letter for letter in facts.letters if at_delivery_limit(facts, letter))
    for delivery in dict.fromkeys(facts.delivery(letter.record) for letter in limited):
        if delivery not in facts.rejected:
            why = "the worker rejected it, as roots are still pinned, up to the delivery limit"
            yield _stuck(facts, facts.requeued[delivery], delivery[1], delivery[0], why)


def at_delivery_limit(facts: Facts, letter: Moment) -> bool:
    """Return whether a dead letter is a command that its worker gave back again and again.

    Lost connections count towards a broker's delivery limit too; only recorded rejects tell.
    """
    reached = shapes.text(letter.record, "reason") == "delivery_limit"
    return reached and facts.delivery(letter.record) in facts.requeued


def was_impatient(facts: Facts, stuck: Moment) -> bool:
    """Tell whether a teardown gave up waiting for a flush that no vCPU had refused.

    Each missing acknowledgement came later, or never because its delivery has not ended: a worker
    or the broker was slow, or gone, and the ordering is not at fault.
    """
    missing = {
        (shapes.number(waited.record, "generation"), vcpu)
        for waited in facts.flush_waits
        if before(waited, stuck)
        for vcpu in shapes.numbers(waited.record, "missing")
    }
    for (message_id, vcpu), arrival in facts.arrivals.items():
        if facts.types.get(message_id) == "RequestAcked" and before(arrival, stuck):
            missing.discard((facts.body(message_id).number("generation"), vcpu or 0))
    lettered = {facts.delivery(letter.record) for letter in facts.letters}
    refused = {
        (facts.body(message_id).number("generation"), vcpu)
        for message_id, vcpu in facts.rejected.keys() | lettered
    }
    return stuck.record.vcpu is None and bool(missing) and not missing & refused


def given_up(facts: Facts) -> tuple[str, ...]:
    """Return the commands that lost connections brought to their delivery limit, and again.

    The first time such a command is sent once more, and the letter is not classified.
    """
    letters = (
        letter
        for letter in facts.letters
        if shapes.text(letter.record, "reason") == "delivery_limit"
        and not at_delivery_limit(facts, letter)
    )
    return tuple(dict.fromkeys(letter.record.message_id or "" for letter in letters))


def _last_command(facts: Facts, vcpu: int | None) -> str | None:
    commands = (
        message_id
        for message_id, name in facts.types.items()
        if name == "DestroyVcpu" and vcpu is not None and facts.vcpu_of.get(message_id) == vcpu
    )
    return next(iter(reversed(tuple(commands))), None)


def _stuck(facts: Facts, moment: Moment, vcpu: int | None, command: str | None, why: str) -> Found:
    steps = (each for each in reversed(facts.worker_steps) if each.vcpu == vcpu)
    about = f"{facts.types.get(command, 'message')} {command}" if command else "the teardown"
    text = explain.stuck_step(next(steps, None), vcpu, about, why)
    return Found(moment.position, Violation(Invariant.STUCK, vcpu, command, text))


def _found(moment: Moment, invariant: Invariant, vcpu: int | None, text: str) -> Found:
    return Found(moment.position, Violation(invariant, vcpu, moment.record.caused_by, text))
