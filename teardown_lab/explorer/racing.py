"""Which two deliveries race in a schedule that ends in a use of something freed.

They race if nothing orders them: the use was sent by an actor that did not know of the free, or it
was raised by the ticker, which nothing orders. If the free itself leads to the use, the use comes
after it in every run, and there is no race.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Violation
from teardown_lab.checker.gathering import gather
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.history import History
from teardown_lab.explorer.cast import VM
from teardown_lab.explorer.keys import DeliveryKey
from vm_protocol.invariants import Invariant
from vm_protocol.message_ids import name_in_vm
from vm_protocol.wire import Record

_OF_A_VCPU = (Invariant.USE_AFTER_FREE, Invariant.DOUBLE_FREE)


@dataclass(frozen=True, slots=True)
class Race:
    """The keys of the use and of the delivery that frees, and both in words."""

    keys: tuple[str, ...] = ()
    text: str = ""


def race_of(records: Sequence[Record], violation: Violation) -> Race | None:
    """Return the race that a violation comes from, None where the order is always this one."""
    if violation.message_id is None:
        return None
    facts = gather(History.of(records), VM)
    freed, what = _freeing(facts, violation)
    used = facts.messages.sent.get(violation.message_id)
    if freed is None or used is None:
        return None
    post = facts.requests.post_of.get(violation.message_id)
    is_tick = post is not None and shapes.text(post.record, "by") == "ticker"
    if before(freed, used) and not is_tick:
        return None
    recipient = violation.vcpu if post is not None else None
    used_by = DeliveryKey(name_in_vm(violation.message_id), recipient)
    keys = str(used_by), name_in_vm(freed.record.caused_by)
    if not keys[1] or keys[0] == keys[1]:
        return None
    kind = facts.messages.types.get(violation.message_id, "message")
    return Race(keys, f"{kind} {keys[0]} and {keys[1]}, which frees {what}")


def _freeing(facts: Facts, violation: Violation) -> tuple[Moment | None, str]:
    """Return the free that the violation is about, and what it frees."""
    if violation.invariant in _OF_A_VCPU and violation.vcpu is not None:
        frees = facts.memory.freed.get(violation.vcpu)
        return (frees[0].moment if frees else None), f"vCPU {violation.vcpu}"
    if violation.invariant is Invariant.VM_STATE_USED_AFTER_FREE:
        state = facts.messages.body(violation.message_id or "").text("state")
        return facts.vm_state.freed.get(state), f"the VM's {state} state"
    return None, ""
