"""The first sentence of a violation: which step of the ordering is at fault, and where it stands.

The culprit comes first, then what it met: "`unload_mmu`, line 5, of vCPU 0 began after its
`free_vcpu`, line 4." Decides nothing; where a history does not tell a step, no sentence is made up.
"""

from collections.abc import Callable, Mapping
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.findings import Found
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.places import Place, Places
from vm_protocol.invariants import Invariant
from vm_protocol.messages import CLOCK_UPDATE, DROP_OBSOLETE_ROOTS, SCAN_IOAPIC, TLB_FLUSH
from vm_protocol.observations import Event

_KINDS: Final = {
    TLB_FLUSH: "a TLB flush",
    DROP_OBSOLETE_ROOTS: "a request to drop obsolete roots",
    SCAN_IOAPIC: "a request to scan the IOAPIC",
    CLOCK_UPDATE: "a clock update",
}
_TICKER: Final = "ticker"
_STEP_OF_RAISER: Final = {
    "zap-all": "zap_all_roots",
    "flush-tlbs": "flush_tlbs",
    "pit": "stop_background_workers",
}
_STEP_OF_FREER: Final = {"uninit": "uninit_mmu", "zap-all": "zap_all_roots"}
_STEP_OF_STATE: Final = {"irqchip": "free_irqchip", "vendor": "vendor_vm_destroy"}
_FREE: Final = "free_vcpu"
_GIVES_UP: Final = ("unload_mmu", "zap_all_until_empty")


class Culprits:
    """Makes the first sentences for one history."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.places = Places(facts)

    def sentence(self, found: Found) -> str:
        """Return the sentence of a violation, "" where the history does not tell the step."""
        make = _SENTENCES.get(found.violation.invariant)
        moments = self.facts.timeline.moments
        if make is None or not 0 <= found.position < len(moments):
            return ""
        return make(self, found, moments[found.position])

    # --- places ------------------------------------------------------------------------------

    def raiser(self, post: Moment) -> Place | None:
        """Return the step that raised a request; None for the ticker's."""
        by, vcpu = shapes.text(post.record, "by"), post.record.vcpu
        if by == "unload":
            said = self.places.of_message(post.record.caused_by, vcpu)
            return said or Place("unload_mmu", None, vcpu)
        step = _STEP_OF_RAISER.get(by)
        return (self.places.last(post, step) or Place(step)) if step else None

    def free_of(self, vcpu: int) -> Place:
        """Return the step that freed a vCPU."""
        frees = self.facts.memory.freed.get(vcpu)
        place = self.places.last(frees[0].moment, _FREE, vcpu) if frees else None
        return place or Place(_FREE, None, vcpu)

    def erase_of(self, vcpu: int) -> Place:
        """Return the step that erased a vCPU."""
        erased = self.facts.array.erased.get(vcpu)
        place = self.places.last(erased, "erase_vcpu", vcpu) if erased else None
        return place or Place("erase_vcpu", None, vcpu)

    def root_freer(self, freed: Moment) -> Place | None:
        """Return the step that freed a root."""
        by = shapes.text(freed.record, "by")
        if by in _STEP_OF_FREER:
            return self.places.last(freed, _STEP_OF_FREER[by])
        return self.sender(freed)

    def root_frees(self, root: str) -> list[Moment]:
        """Return the frees of a root, in their order."""
        return [
            each
            for each in self.facts.mmu.roots
            if each.record.event == Event.ROOT_FREED and shapes.text(each.record, "root") == root
        ]

    def sender(self, moment: Moment) -> Place | None:
        """Return the step that sent the message in whose handling something happened."""
        cause = moment.record.caused_by
        vcpu = self.facts.messages.vcpu_of.get(cause) if cause is not None else None
        return self.places.of_message(cause, vcpu)

    def planned(self, step: str, vcpu: int | None = None) -> Place | None:
        """Return where the ordering has a step of this name, None where it has none."""
        leaves = self.places.outline.named(step)
        return leaves[0].of(vcpu) if leaves else None

    def gave_up(self, vcpu: int, by: Moment) -> bool:
        """Tell whether a vCPU had begun by then to give up its roots."""
        return any(
            step.vcpu == vcpu and step.name in _GIVES_UP and not before(by, step.moment)
            for step in self.facts.steps.by_workers
        )

    # --- parts of sentences ------------------------------------------------------------------

    def posted(self, post: Moment) -> str:
        """Return who posted what, as the beginning of a sentence."""
        kind = shapes.text(post.record, "kind")
        what = _KINDS.get(kind, f"a request ({kind})")
        raiser = self.raiser(post)
        if raiser is not None:
            return f"{raiser.subject} posted {what}"
        if shapes.text(post.record, "by") != _TICKER:
            return f"Somebody posted {what}"
        stop = self.planned("stop_background_workers")
        if stop is None:
            return f"The ticker, which no step stops, posted {what}"
        return f"{stop.aside} had not stopped the ticker yet: it posted {what}"

    def met(self, vcpu: int, sent: Moment) -> str:
        """Return between which steps of a freed vCPU a request was posted that met it."""
        free = self.free_of(vcpu)
        frees = self.facts.memory.freed.get(vcpu)
        if frees and before(sent, frees[0].moment):
            return f"{free.aside} which had not waited for it"
        if not frees or not before(frees[0].moment, sent):
            return f"{free.aside} and nothing orders the two"
        erased = self.facts.array.erased.get(vcpu)
        if erased is None:
            return f"{free.aside} with nothing to erase the vCPU"
        order = "after" if before(erased, sent) else "before"
        return f"{free.aside} and {order} its {self.erase_of(vcpu).name}"


def _use_after_free(culprits: Culprits, found: Found, moment: Moment) -> str:
    message_id, vcpu = found.violation.message_id or "", found.violation.vcpu
    if vcpu is None:
        return ""
    if culprits.facts.messages.types.get(message_id) == "AsyncPfCompleted":
        fault = culprits.facts.messages.body(message_id).number("fault")
        clear = culprits.planned("clear_async_pf")
        why = f"{clear.aside} had not come before" if clear else "no `clear_async_pf` comes before"
        free = culprits.free_of(vcpu)
        return f"{free.subject} freed it with async page fault {fault} pending: {why}."
    if not culprits.facts.messages.is_request(message_id):
        return _late_step(culprits, found, moment)
    post = culprits.facts.requests.post_of.get(message_id)
    if post is None:
        return ""
    return (
        f"{culprits.posted(post)}, which reached vCPU {vcpu} after its {culprits.met(vcpu, post)}."
    )


def _late_step(culprits: Culprits, found: Found, moment: Moment) -> str:
    command, vcpu = found.violation.message_id or "", found.violation.vcpu
    place: Place | None
    if moment.record.event == Event.STEP_STARTED:
        place = culprits.places.of_started(moment)
    elif moment.record.event == Event.VCPU_FREED:
        place = culprits.places.last(moment, _FREE, vcpu)
    else:
        place = culprits.places.next_of(command, vcpu, moment)
    if place is None or vcpu is None:
        return ""
    return f"{place.subject} began after its {culprits.free_of(vcpu).name}."


def _double_free(culprits: Culprits, found: Found, moment: Moment) -> str:
    if found.violation.vcpu is not None:
        return _late_step(culprits, found, moment)
    state = shapes.text(moment.record, "state")
    again, first = culprits.places.last_of_vm(moment), culprits.facts.vm_state.freed.get(state)
    earlier = culprits.places.last_of_vm(first) if first else None
    if again is None or earlier is None:
        return ""
    return f"{again.subject} freed the VM's {state} state again, after {earlier.name}."


def _visible_after_erase(culprits: Culprits, found: Found, _moment: Moment) -> str:
    vcpu, post = (
        found.violation.vcpu,
        culprits.facts.requests.post_of.get(found.violation.message_id or ""),
    )
    if vcpu is None:
        return ""
    erase = culprits.erase_of(vcpu)
    if post is None:
        return f"{erase.subject} did not last: the array shows the vCPU again."
    return f"{culprits.posted(post)} that counts vCPU {vcpu} in, after its {erase.name}."


def _pinned_root_freed(culprits: Culprits, found: Found, moment: Moment) -> str:
    place, root = culprits.root_freer(moment), shapes.text(moment.record, "root")
    if place is None:
        return ""
    vcpu = found.violation.vcpu
    if vcpu is None:
        return f"{place.subject} freed {root} while several vCPUs pinned it."
    if culprits.gave_up(vcpu, moment):
        return f"{place.subject} freed {root} while vCPU {vcpu} pinned it."
    unload = culprits.planned("unload_mmu", vcpu) or culprits.planned("zap_all_until_empty", vcpu)
    before_it = f"before {unload.subject} gave it up" if unload else "and no step unloads its vCPU"
    return f"{place.subject} freed {root} {before_it}."


def _root_freed_twice(culprits: Culprits, _found: Found, moment: Moment) -> str:
    root = shapes.text(moment.record, "root")
    frees = culprits.root_frees(root)
    again, first = culprits.root_freer(moment), culprits.root_freer(frees[0]) if frees else None
    if again is None:
        return ""
    earlier = f", after {first.subject.rstrip(',')}" if first else ""
    return f"{again.subject} freed {root} again{earlier}."


def _stale_tlb(culprits: Culprits, found: Found, moment: Moment) -> str:
    vcpu, page = found.violation.vcpu, f"the page of {found.about}"
    if moment.record.event == Event.VM_FREED:
        return _at_the_end(culprits, f"vCPU {vcpu} still runs on {page}", [])
    place = culprits.places.last_of_vm(moment)
    if culprits.facts.messages.types.get(moment.record.caused_by or "") == "ZapRequested":
        place = culprits.sender(moment)
    if place is None:
        return ""
    return f"{place.subject} gave {page} back while vCPU {vcpu} ran on it."


def _memory_mapped(culprits: Culprits, found: Found, _moment: Moment) -> str:
    root = found.about
    freed = next((each for each in culprits.root_frees(root)), None)
    place = culprits.root_freer(freed) if freed else None
    if place is not None:
        return f"{place.subject} freed {root} before any zap had unmapped its page."
    return _at_the_end(culprits, f"{root} still maps its page", ["zap_all_roots"])


def _at_the_end(culprits: Culprits, left: str, needed: list[str]) -> str:
    """Say what is left after the last step, and which steps that would have needed."""
    end = culprits.places.end()
    why = _lacking(culprits, needed) if needed else ""
    return f"{end.subject} is the last step, and {left}{why}." if end else ""


def _lost_request(culprits: Culprits, found: Found, moment: Moment) -> str:
    vcpu = found.violation.vcpu
    if vcpu is None:
        return ""
    if moment.record.event != Event.REQUEST_POSTED:
        owing = found.violation.message_id
        unload = culprits.places.of_message(owing, culprits.facts.messages.vcpu_of.get(owing or ""))
        return f"{unload.subject} raised no TLB flush, and vCPU {vcpu} missed it." if unload else ""
    hidden = culprits.facts.array.hidden.get(vcpu)
    hole = shapes.number(hidden.record, "hole") if hidden else None
    if hidden is None or hole is None or not before(hidden, moment):
        return f"{culprits.posted(moment)} that misses vCPU {vcpu}."
    erase, posted = culprits.erase_of(hole), culprits.posted(moment)
    return f"{erase.subject} left a hole that hides vCPU {vcpu}: {posted} that misses it."


def _vm_state(culprits: Culprits, found: Found, moment: Moment) -> str:
    message_id, vcpu = found.violation.message_id, found.violation.vcpu
    state = culprits.facts.messages.body(message_id or "").text("state")
    state = state or shapes.text(moment.record, "state")
    user, freed = (
        culprits.places.of_message(message_id, vcpu),
        culprits.facts.vm_state.freed.get(state),
    )
    freer = culprits.places.last(freed, _STEP_OF_STATE.get(state, "")) if freed else None
    if moment.record.event == Event.VM_FREED:
        needed = ["stop_background_workers"]
        return _at_the_end(culprits, "the ticker and the PIT still run", needed)
    if user is None or freer is None:
        return ""
    return f"{user.subject} used the VM's {state} state after {freer.name}."


def _leak(culprits: Culprits, found: Found, _moment: Moment) -> str:
    vcpu, about = found.violation.vcpu, found.about
    if about.startswith("async page fault"):
        left, needed = f"{about} of vCPU {vcpu}", ["clear_async_pf"]
    elif about in _STEP_OF_STATE:
        left, needed = f"the VM's {about} state", [_STEP_OF_STATE[about]]
    elif about:
        left, needed = about, ["zap_all_roots", "unload_mmu", "uninit_mmu"]
    else:
        left, needed = f"vCPU {vcpu}", [_FREE]
    return _at_the_end(culprits, f"{left} is still there", needed)


def _lacking(culprits: Culprits, needed: list[str]) -> str:
    """Return which of the steps that something needs are missing, or in the wrong order."""
    lacking = [f"no `{step}`" for step in needed if culprits.planned(step) is None]
    if lacking:
        return f": the ordering has {' and '.join(lacking)}"
    places = [culprits.planned(step) for step in needed]
    return f", though {places[0].aside} had its turn" if places[0] and len(places) == 1 else ""


def _stuck(culprits: Culprits, found: Found, moment: Moment) -> str:
    vcpu = found.violation.vcpu
    begun = [
        each
        for steps in culprits.facts.steps.by_actor.values()
        for each in steps
        if vcpu in (None, each.record.vcpu) and each.position <= moment.position
    ]
    if not begun:
        return ""
    last = max(begun, key=lambda each: each.position)
    return f"{culprits.places.of_started(last).subject} cannot end."


def _freed_while_running(culprits: Culprits, found: Found, _moment: Moment) -> str:
    vcpu = found.violation.vcpu
    if vcpu is None:
        return ""
    return f"{culprits.free_of(vcpu).subject} freed it in its guest: nothing had made it leave."


_Sentence = Callable[[Culprits, Found, Moment], str]
_SENTENCES: Final[Mapping[Invariant, _Sentence]] = {
    Invariant.USE_AFTER_FREE: _use_after_free,
    Invariant.DOUBLE_FREE: _double_free,
    Invariant.VISIBLE_AFTER_ERASE: _visible_after_erase,
    Invariant.PINNED_ROOT_FREED: _pinned_root_freed,
    Invariant.ROOT_FREED_TWICE: _root_freed_twice,
    Invariant.STALE_TLB: _stale_tlb,
    Invariant.LOST_REQUEST: _lost_request,
    Invariant.VM_STATE_USED_AFTER_FREE: _vm_state,
    Invariant.LEAK: _leak,
    Invariant.MEMORY_MAPPED: _memory_mapped,
    Invariant.FREED_WHILE_RUNNING: _freed_while_running,
    Invariant.STUCK: _stuck,
}
