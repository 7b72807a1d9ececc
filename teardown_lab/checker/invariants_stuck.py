"""stuck: a step that cannot end, where the history shows so; slowness and death are something else.

Three waits can be hopeless. A flush waits for a vCPU that is freed, or that it was never sent to. A
fence waits for a request that was not routed to its mailbox, or that the vCPU has refused. A 2007
loop spins on roots whose holders have nothing under way that gives them up. Everything else that
ran out of time, or that a service gave up, only was not waited for long enough: see `patience`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from teardown_lab.checker import explain, shapes
from teardown_lab.checker.facts import DeliveryId, Facts
from teardown_lab.checker.findings import Found, Violation
from teardown_lab.checker.happens_before import Moment, before
from teardown_lab.checker.invariants_mmu import RootLife
from vm_protocol.errors import RejectReason
from vm_protocol.invariants import Invariant

_GIVE_UP_STEPS: Final = frozenset({"unload_mmu", "zap_all_until_empty"})
"""Worker steps that give up the roots of their vCPU."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A free that gave up: it needs every request to `vcpu` up to `generation`.

    `missing` are the generations whose request had not arrived by then.
    """

    moment: Moment
    command: str
    vcpu: int
    generation: int
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnackedFlush:
    """A wait for a flush; `missing` are the (generation, vCPU) that never acknowledged it."""

    moment: Moment
    missing: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Waits:
    """What is needed to tell a hopeless wait from an impatient one; gathered once."""

    facts: Facts
    lives: dict[str, RootLife]
    requests: dict[int, str] = field(default_factory=dict)
    refused: set[DeliveryId] = field(default_factory=set)

    @staticmethod
    def of(facts: Facts, lives: dict[str, RootLife]) -> "Waits":
        """Return the waits of a history."""
        waits = Waits(facts, lives)
        for message_id in facts.messages.sent:
            generation = facts.messages.body(message_id).number("generation")
            if generation is not None and facts.messages.is_request(message_id):
                waits.requests.setdefault(generation, message_id)
        for delivery, rejected in facts.deliveries.rejected.items():
            if shapes.text(rejected.record, "reason") == RejectReason.FREED:
                waits.refused.add(delivery)
        for letter in facts.deliveries.letters:
            if shapes.text(letter.record, "reason") == "rejected":
                message_id, vcpu = facts.messages.delivery(letter.record)
                known = facts.deliveries.rejected.get((message_id, vcpu))
                # Its worker's record of the reject is lost, but the dead letter shows that it
                # refused.
                if known is None and vcpu is not None and facts.memory.freed.get(vcpu):
                    waits.refused.add((message_id, vcpu))
        return waits

    def is_hopeless(self, generation: int, vcpu: int) -> bool:
        """Tell whether the request of a generation can never be taken by a vCPU that lives.

        It was not routed to the vCPU, or the vCPU was freed when it was sent or has refused it.
        """
        message_id = self.requests.get(generation)
        # Nothing is known of that request, so nothing is concluded.
        if message_id is None:
            return False
        recipients = self.facts.messages.recipients(message_id)
        if recipients and vcpu not in recipients:
            return True
        sent = self.facts.messages.sent[message_id]
        is_late = self.facts.memory.freed_before(vcpu, sent) is not None
        return is_late or (message_id, vcpu) in self.refused

    # --- fences ----------------------------------------------------------------------------

    def fences(self) -> Iterator[Fence]:
        """Yield the frees that gave up, each with what it had waited for."""
        for (message_id, vcpu), rejected in self.facts.deliveries.rejected.items():
            reason = shapes.text(rejected.record, "reason")
            if reason == RejectReason.FENCE_NOT_REACHED and vcpu is not None:
                generation = self._fence_of(message_id, vcpu)
                missing = tuple(self._not_arrived(vcpu, generation, rejected))
                yield Fence(rejected, message_id, vcpu, generation, missing)

    def _fence_of(self, command: str, vcpu: int) -> int:
        """Return the generation that a free waits for: its command's, or a later unload's."""
        body = self.facts.messages.body(command)
        fences = [body.number("generation") or 0]
        for message_id, name in self.facts.messages.types.items():
            if name == "UnloadDone" and self.facts.messages.vcpu_of.get(message_id) == vcpu:
                answer = self.facts.messages.body(message_id)
                if answer.text("step") == body.text("step"):
                    fences.append(answer.number("generation") or 0)
        return max(fences)

    def _not_arrived(self, vcpu: int, fence: int, by: Moment) -> Iterator[int]:
        for generation in range(1, fence + 1):
            message_id = self.requests.get(generation, "")
            arrival = self.facts.deliveries.in_mailboxes.get((message_id, vcpu))
            if arrival is None or not before(arrival, by):
                yield generation

    # --- flushes ---------------------------------------------------------------------------

    def flush_waits(self) -> Iterator[UnackedFlush]:
        """Yield the waits for flushes of which some acknowledgement never came."""
        messages = self.facts.messages
        acked = {
            (messages.body(message_id).number("generation"), vcpu)
            for message_id, vcpu in self.facts.deliveries.arrivals
            if messages.types.get(message_id) == "RequestAcked"
        }
        for waited in self.facts.requests.flush_waits:
            generation = shapes.number(waited.record, "generation")
            missing = tuple(
                (generation, vcpu)
                for vcpu in shapes.numbers(waited.record, "missing")
                if generation is not None and (generation, vcpu) not in acked
                if vcpu not in self.facts.hosts.vcpus
            )
            if missing:
                yield UnackedFlush(waited, missing)

    # --- spins -----------------------------------------------------------------------------

    def spins(self) -> Iterator[tuple[DeliveryId, frozenset[int]]]:
        """Yield commands given back up to the limit, with the vCPUs that still pin roots."""
        facts = self.facts
        letters = facts.deliveries.letters
        limited = (letter.record for letter in letters if at_delivery_limit(facts, letter))
        for delivery in dict.fromkeys(map(facts.messages.delivery, limited)):
            if delivery not in facts.deliveries.rejected:
                yield delivery, frozenset(self._holders())

    def _holders(self) -> Iterator[int]:
        for life in self.lives.values():
            if not life.frees:
                yield from (int(pin.partition(".")[0]) for pin in life.pins)

    def keeps_for_good(self, holder: int) -> bool:
        """Tell whether nothing is under way that makes a vCPU give up its roots."""
        messages, settled = self.facts.messages, self.facts.deliveries
        settles = (*settled.acked, *settled.rejected, *settled.requeued)
        ended = {message_id for message_id, _ in settles}
        return not any(
            messages.vcpu_of.get(message_id) == holder
            and message_id not in ended
            and not _GIVE_UP_STEPS.isdisjoint(messages.body(message_id).texts("steps"))
            for message_id in messages.of_type("DestroyVcpu")
        )


def stuck_steps(facts: Facts, lives: dict[str, RootLife]) -> Iterator[Found]:
    """Yield the steps that the history shows cannot end: one per command, and one for a flush."""
    # A teardown that has come to its end was not stuck, whatever was slow on the way.
    if facts.life.freed is not None:
        return
    waits = Waits.of(facts, lives)
    for fence in waits.fences():
        lost = [each for each in fence.missing if waits.is_hopeless(each, fence.vcpu)]
        if lost:
            message_id = waits.requests[lost[0]]
            why = f"its fence needs {message_id}, which can never reach vCPU {fence.vcpu}"
            yield _stuck(facts, fence.moment, fence.vcpu, fence.command, why)
    for delivery, holders in waits.spins():
        # Roots whose holders still had a command that gives them up were only not waited for.
        if any(waits.keeps_for_good(holder) for holder in holders):
            why = "the worker rejected it, as roots are still pinned, up to the delivery limit"
            yield _stuck(facts, facts.deliveries.requeued[delivery], delivery[1], delivery[0], why)
    for waited in waits.flush_waits():
        dead = [each for each in waited.missing if waits.is_hopeless(*each)]
        if dead:
            generation, vcpu = dead[0]
            whole = (each for each in facts.life.stuck if each.record.vcpu is None)
            told = next(whole, waited.moment)
            why = f"vCPU {vcpu} can never acknowledge the flush of generation {generation}"
            yield _stuck(facts, told, None, told.record.caused_by, why)
            return


def at_delivery_limit(facts: Facts, letter: Moment) -> bool:
    """Return whether a dead letter is a command that its worker gave back again and again.

    Lost connections count towards a broker's delivery limit too; only recorded rejects tell.
    """
    reached = shapes.text(letter.record, "reason") == "delivery_limit"
    return reached and facts.messages.delivery(letter.record) in facts.deliveries.requeued


def given_up(facts: Facts) -> tuple[str, ...]:
    """Return the commands that lost connections brought to their delivery limit twice.

    After the first time the monitor sends the command once more and does not classify the letter.
    """
    letters = (
        letter
        for letter in facts.deliveries.letters
        if shapes.text(letter.record, "reason") == "delivery_limit"
        and not at_delivery_limit(facts, letter)
    )
    return tuple(dict.fromkeys(letter.record.message_id or "" for letter in letters))


def _stuck(facts: Facts, moment: Moment, vcpu: int | None, command: str | None, why: str) -> Found:
    steps = (each for each in reversed(facts.steps.by_workers) if each.vcpu == vcpu)
    name = facts.messages.types.get(command or "", "message")
    about = f"{name} {command}" if command else "the teardown"
    text = explain.stuck_step(next(steps, None), vcpu, about, why)
    return Found(moment.position, Violation(Invariant.STUCK, vcpu, command, text))
