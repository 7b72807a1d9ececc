"""The in-memory driver: actors, a simulated broker and virtual time, in one thread.

Deliveries happen in the order in which the broker sent them, each taking HANDLING_NS; timers fire
and messages expire when due. What the actions of a plan bring to a core waits in an inbox until the
plan is performed, as in the other driver. The same actors give the same history every time.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, assert_never

from teardown_lab.simulator.broker import SimulatedBroker
from teardown_lab.simulator.messages import Cancelled, Handed
from teardown_lab.simulator.versions import NEWEST, BrokerVersion
from vm_protocol import codec, effects, limits, topology
from vm_protocol.actor import Action, Actor, Plan
from vm_protocol.codec import Packet
from vm_protocol.intake import Delivery
from vm_protocol.messages import SIGNS_OF_LIFE
from vm_protocol.recorder import NO_CAUSE, Cause, Send
from vm_protocol.topology import Mailbox
from vm_protocol.wire import Observe, Record

HANDLING_NS: Final = 200_000
"""Virtual time that one delivery takes, in a VM of up to HANDLED_AT_ONCE vCPUs."""

HANDLED_AT_ONCE: Final = 64
"""vCPUs above which a delivery takes less: what is posted to all grows with the square of them."""


def handling_ns(vcpus: int) -> int:
    """Return the virtual time of a delivery, so that the time of a run does not grow with a VM.

    Time-outs and periods are for machines that keep up; that takes a faster one for a larger VM.
    """
    return max(1, int(HANDLING_NS * min(1.0, (HANDLED_AT_ONCE / vcpus) ** 2)))


BATCH_RECORDS: Final = 64
"""Records in one batch of the journal of a large VM, as a busy service's socket read brings about.

In a small one each handler's go out at once: their deliveries are what gives the ticker its time.
"""

EPOCH_NS: Final = 1_700_000_000_000_000_000
"""Virtual time at which a world begins."""


@dataclass(frozen=True, slots=True)
class _Timer:
    """A timer as its owner has set it, at `begun_ns`."""

    owner: str
    wanted: effects.SetTimer
    cause: Cause
    begun_ns: int

    @property
    def key(self) -> tuple[str, str]:
        return self.owner, self.wanted.name


class World:
    """Runs actors until somebody has what they want, or nothing can happen any more.

    Args:
        observe: Called with each record.
        version: Whose rules the broker follows.
        handling_ns: Virtual time that one delivery takes.
        batch_records: How many records a batch of the journal waits for.
    """

    def __init__(
        self,
        observe: Observe = lambda _: None,
        version: BrokerVersion = NEWEST,
        handling_ns: int = HANDLING_NS,
        batch_records: int = 1,
    ) -> None:
        self.broker = SimulatedBroker(version, now_ns=EPOCH_NS)
        self._observe = observe
        self._handling_ns = handling_ns
        self._batch_records = batch_records
        self._actors: dict[str, Actor[Any]] = {}
        self._inbox: deque[tuple[Actor[Any], effects.Input, Cause]] = deque()
        self._held: dict[tuple[str, str, str], list[int]] = {}
        self._timers: dict[tuple[str, str], int] = {}
        self._due: list[tuple[int, int, _Timer]] = []
        self._stirred_ns: dict[str, int] = {}
        self._heard_ns: dict[tuple[str, str], int] = {}
        self._paused: dict[str, list[Handed | Cancelled | _Timer]] = {}
        self._journal: list[Record] = []
        self._timer_ids = count()

    @property
    def now_ns(self) -> int:
        """Virtual time, which is the broker's too."""
        return self.broker.now_ns

    def add(self, actor: Actor[Any]) -> None:
        """Start an actor: give it `Started`, and perform what it asks for."""
        self._actors[actor.core.actor] = actor
        self._handle(actor, effects.Started(), NO_CAUSE)

    def run(self, until: Callable[[], bool]) -> bool:
        """Run until `until` holds; return False when nothing can happen before that."""
        while not until():
            if not self.step():
                return False
        return True

    def step(self) -> bool:
        """Let the next thing happen: what the last plan brought, else a timer that is due.

        Else a delivery, else the next timer or expiry.
        """
        if self._inbox:
            self._handle(*self._inbox.popleft())
            return True
        while self._due and self._timers.get(self._due[0][2].key) != self._due[0][1]:
            heapq.heappop(self._due)
        if self._due and self._due[0][0] <= self.now_ns:
            self._fire()
            return True
        match self.broker.next_event():
            case Handed() as handed:
                self._deliver(handed)
            case Cancelled() as cancelled:
                self._cancelled(cancelled)
            case None:
                return self._publish_journal() or self._pass_time()
            case event:
                assert_never(event)
        return True

    def tell(self, name: str, event: effects.Input) -> None:
        """Give an actor an input that no broker brings."""
        self._handle(self._actors[name], event, NO_CAUSE)

    def pause(self, name: str) -> None:
        """Stop an actor: it looks at nothing until `resume` (SIGSTOP)."""
        self._paused[name] = []

    def kill(self, name: str) -> None:
        """End an actor, and with it its connection (SIGKILL)."""
        self.pause(name)
        self.broker.lose(name)

    def resume(self, name: str) -> None:
        """Let an actor go on: with its urgent timers, then with what waited, in its order."""
        waited = self._paused.pop(name)
        for each in sorted(waited, key=lambda each: not _is_urgent(each)):
            match each:
                case Handed():
                    self._deliver(each)
                case Cancelled():
                    self._cancelled(each)
                case _Timer():
                    self._fired(each)

    def _deliver(self, handed: Handed) -> None:
        if handed.actor in self._paused:
            self._paused[handed.actor].append(handed)
            return
        self.broker.advance_to(self.now_ns + self._handling_ns)
        if handed.packet.properties.get("type") not in SIGNS_OF_LIFE:
            self._stirred_ns[handed.actor] = self.now_ns
        self._heard_ns[handed.actor, codec.voice_of(handed.packet)] = self.now_ns
        actor = self._actors[handed.actor]
        delivery = Delivery(handed.queue, handed.packet, handed.redelivered, handed.number)
        plan = actor.deliver(delivery, self.now_ns)
        held = self._held.setdefault((handed.actor, handed.queue, plan.key), [])
        held.append(handed.number)
        self._perform(actor, plan)

    def _cancelled(self, cancelled: Cancelled) -> None:
        """Tell an actor that a mailbox is gone; nobody else's queue is deleted while in use."""
        if cancelled.actor in self._paused:
            self._paused[cancelled.actor].append(cancelled)
            return
        mailbox = topology.parse_mailbox(cancelled.queue)
        if mailbox is not None:
            self._handle(self._actors[cancelled.actor], effects.MailboxGone(mailbox), NO_CAUSE)

    def _pass_time(self) -> bool:
        """Go on to the next timer, or to what expires before it; False when there is neither."""
        expiry_ns = self.broker.next_due_ns()
        if expiry_ns is not None and (not self._due or expiry_ns < self._due[0][0]):
            self.broker.advance_to(expiry_ns)
            return True
        if self._due:
            self._fire()
            return True
        return False

    def _fire(self) -> None:
        due_ns, _, timer = heapq.heappop(self._due)
        self.broker.advance_to(max(self.now_ns, due_ns))
        if timer.owner in self._paused:
            self._paused[timer.owner].append(timer)
        elif self._is_quiet(timer):
            self._fired(timer)

    def _fired(self, timer: _Timer) -> None:
        # A timer that came due in a pause may have been cancelled by what was handled since.
        if self._timers.pop(timer.key, None) is not None:
            fired = effects.TimerFired(timer.wanted.name)
            self._handle(self._actors[timer.owner], fired, timer.cause)

    def _handle(self, actor: Actor[Any], event: effects.Input, cause: Cause) -> None:
        self._perform(actor, actor.handle(event, cause, self.now_ns))

    def _perform(self, actor: Actor[Any], plan: Plan) -> None:
        """Note the records first, then perform the actions in order.

        A batch of the journal is published when it is full or nothing else happens, and before any
        reject: a dead letter must not be seen before its record (the other driver's rule).
        """
        for record in plan.records:
            self._observe(record)
        self._journal += plan.records
        if len(self._journal) >= self._batch_records:
            self._publish_journal()
        for action in plan.actions:
            if isinstance(action, effects.Reject):
                self._publish_journal()
            self._act(actor, action, plan.cause)

    def _publish_journal(self) -> bool:
        """Publish the records that wait, in the order in which they were made; False: none did."""
        if not self._journal:
            return False
        exchange, key = topology.JOURNAL_QUEUE.bindings[0]
        body = codec.encode_records(tuple(self._journal))
        self._journal.clear()
        self.broker.publish(exchange, key, Packet(body, {"type": "Records"}, {}))
        return True

    def _act(self, actor: Actor[Any], action: Action, cause: Cause) -> None:
        name = actor.core.actor
        match action:
            case Send():
                self._send(actor, action, cause)
            case effects.Consume(queue, prefetch, begin):
                self.broker.declare(queue)
                self.broker.consume(name, queue.name, prefetch, begin)
            case effects.StopConsuming(queue_name):
                self._stop_consuming(name, queue_name)
            case effects.ConsumeMailbox(mailbox):
                self._consume_mailbox(actor, mailbox)
            case effects.DeclareMailbox(mailbox):
                self.broker.declare(mailbox.queue())
            case effects.DeleteMailbox(mailbox):
                self.broker.delete(mailbox.name)
            case effects.DeleteQueue(queue_name):
                self.broker.delete(queue_name)
            case effects.Bind(mailbox):
                self.broker.bind(mailbox.name, topology.REQUESTS.name, mailbox.vm)
            case effects.Unbind(mailbox):
                self.broker.unbind(mailbox.name, topology.REQUESTS.name, mailbox.vm)
            case effects.Ack() | effects.Reject():
                self._settle(name, action)
            case effects.SetTimer() as wanted:
                self._set_timer(name, wanted, cause)
            case effects.CancelTimer(timer):
                self._timers.pop((name, timer), None)
            case _:
                assert_never(action)

    def _send(self, actor: Actor[Any], send: Send, cause: Cause) -> None:
        publish = send.publish
        packet = codec.encode(publish.message, send.envelope)
        published = self.broker.publish(
            publish.exchange, publish.routing_key, packet, mandatory=publish.mandatory
        )
        if published.returned:
            self._inbox.append((actor, effects.Returned(publish.message), cause))

    def _consume_mailbox(self, actor: Actor[Any], mailbox: Mailbox) -> None:
        if self.broker.has_queue(mailbox.name):
            self.broker.consume(actor.core.actor, mailbox.name, limits.MAILBOX_PREFETCH)
        else:
            self._inbox.append((actor, effects.MailboxGone(mailbox), NO_CAUSE))

    def _stop_consuming(self, name: str, queue: str) -> None:
        """Cancel a consumer; what is on its way then, the client gives back (pika: channel)."""
        self.broker.cancel(name, queue)
        for handed in self.broker.withdraw(name, queue):
            self.broker.reject(handed.number, requeue=True)

    def _settle(self, name: str, settle: effects.Settle) -> None:
        for number in self._held.pop((name, settle.queue, settle.message_id), ()):
            if isinstance(settle, effects.Ack):
                self.broker.ack(number)
            else:
                self.broker.reject(number, requeue=settle.requeue)

    def _set_timer(self, owner: str, wanted: effects.SetTimer, cause: Cause) -> None:
        self._push_timer(_Timer(owner, wanted, cause, self.now_ns), self.now_ns)

    def _push_timer(self, timer: _Timer, since_ns: int) -> None:
        identity = next(self._timer_ids)
        self._timers[timer.owner, timer.wanted.name] = identity
        due_ns = since_ns + timer.wanted.delay_ms * 1_000_000
        heapq.heappush(self._due, (due_ns, identity, timer))

    def _is_quiet(self, timer: _Timer) -> bool:
        """Tell whether a timer that is due may fire; a quiet one waits on if its actor was busy."""
        if not timer.wanted.quiet:
            return True
        of = timer.wanted.of
        stirred = self._heard_ns.get((timer.owner, of)) if of else self._stirred_ns.get(timer.owner)
        since_ns = max(timer.begun_ns, stirred or 0)
        if since_ns + timer.wanted.delay_ms * 1_000_000 <= self.now_ns:
            return True
        self._push_timer(timer, since_ns)
        return False


def _is_urgent(waited: Handed | Cancelled | _Timer) -> bool:
    return isinstance(waited, _Timer) and waited.wanted.urgent
