"""The same actors with their recorders, moved turn by turn: a schedule becomes a history.

Where the model knows numbers, the stage has the messages; what the checker judges comes from here.
The monitor and the client read the journal at once; nothing else happens between two turns.
"""

from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from itertools import count
from typing import Any, assert_never

from teardown_lab.checker.history import History
from teardown_lab.checker.judgement import Judgement
from teardown_lab.checker.verdict import judge
from teardown_lab.experiment.client import TIMEOUT_TIMER, Client, Experiment
from teardown_lab.experiment.client_actor import ClientActor
from teardown_lab.explorer.cast import MANAGER_COMMANDS, VM, worker_name
from teardown_lab.explorer.keys import timer_key
from teardown_lab.explorer.parcels import Parcel, is_counted
from teardown_lab.explorer.schedule import Crashed, Schedule, Turn
from vcpu_worker import VcpuWorker
from vm_manager import DeadLetterMonitor, VmManager
from vm_protocol import effects, limits, messages, topology
from vm_protocol.actor import Actor, Plan
from vm_protocol.message_ids import MessageId
from vm_protocol.recorder import NO_CAUSE, Cause, Send
from vm_protocol.timers import DEADLINES, TimerKind, parse_timer
from vm_protocol.wire import Record

STEP_NS = 200_000
BEGIN_NS = 1_700_000_000_000_000_000
TURNS_MAX = 200_000
"""Turns after which a run that has not ended is given up (our bug, or an endless ordering)."""


class Stage:
    """A VM, created and about to be destroyed; `follow` and `finish` move it."""

    def __init__(self, schedule: Schedule) -> None:
        scenario = schedule.scenario
        experiment = Experiment(VM, schedule.ordering, scenario, "simulated", "simulated", 600_000)
        epoch = limits.MANAGER_EPOCH
        workers = [Actor(VcpuWorker(worker_name(v), 1)) for v in range(scenario.vcpus)]
        self._client: Actor[Any] = ClientActor(Client(experiment))
        self._monitor: Actor[Any] = Actor(DeadLetterMonitor(), epoch)
        manager: Actor[Any] = Actor(VmManager(), epoch)
        self._readers = (self._monitor, self._client)
        self._now_ns = BEGIN_NS
        self._arrivals = count()
        self._bindings: dict[str, None] = {}
        self._queues: dict[str, deque[Parcel]] = {}
        self._consumers: dict[str, list[Actor[Any]]] = {}
        self._held: dict[tuple[str, str], list[Parcel]] = {}
        self._given_back: set[tuple[str, str]] = set()
        self._crashed: Crashed | None = None
        self._ended: tuple[tuple[int, int], ...] = ()
        self._floating: list[Parcel] = []
        self._timers: dict[tuple[str, str], tuple[Actor[Any], Cause]] = {}
        self.records: list[Record] = []
        self.trace: list[str] = []
        for actor in (manager, self._monitor, *workers, self._client):
            self._handle(actor, effects.Started(), NO_CAUSE)
        self._create()

    def _create(self) -> None:
        """Run first in, first out until DestroyVm is on its way."""
        self.fire("run-begin")
        while self._client.state.phase == "creating":
            parcel = self.oldest()
            assert parcel is not None, "creating a VM cannot get stuck"
            self.deliver(parcel)
        while (parcel := self.oldest()) is not None:
            if isinstance(parcel.message, messages.DestroyVm):
                break
            self.deliver(parcel)
        self.trace.clear()

    # --- turns ---------------------------------------------------------------------------

    def take(self, turn: Turn) -> None:
        """Do one turn of a schedule."""
        self._crashed = turn.crashed
        if turn.act == "tick":
            self.tick()
        elif turn.act == "deadline":
            self.fire_deadline(turn.key)
        elif turn.act == "complete":
            self._complete(turn.key)
        elif turn.act in ("lose", "crash"):
            self._lose(turn.key)
        elif turn.act == "supersede":
            self._supersede(turn.key)
        elif turn.act in ("release", "stale"):
            is_stale = turn.act == "stale"
            own = (each for each in self._floating if bool(each.entry) == is_stale)
            parcel = next(each for each in own if each.key == turn.key)
            self._floating.remove(parcel)
            self.deliver(parcel)
        else:
            self._take_head(turn, self.find(turn.key))

    def _take_head(self, turn: Turn, parcel: Parcel) -> None:
        if turn.act == "copy":
            self._floating.append(replace(parcel, arrival=next(self._arrivals)))
            return
        self._queues[parcel.queue].remove(parcel)
        if turn.act == "hold":
            self._floating.append(parcel)
            return
        if turn.act == "drop":
            return
        if turn.act == "redeliver":
            self._redeliver(parcel)
            return
        self.deliver(parcel)

    def _redeliver(self, handled: Parcel) -> None:
        """Let a consumer handle a delivery, and get it and all that it holds once more."""
        kept = self._held_by(self._consumers[handled.queue][0])
        self._given_back.clear()
        self.deliver(handled)
        self._return([handled, *kept])

    def _held_by(self, actor: Actor[Any]) -> list[Parcel]:
        own = [key for key in self._held if self._consumers[key[0]][0] is actor]
        return [parcel for key in own for parcel in self._held[key]]

    def _return(self, unsettled: list[Parcel]) -> None:
        for parcel in unsettled:
            key = parcel.queue, parcel.envelope.message_id
            self._held.pop(key, None)
            if key not in self._given_back:
                again = replace(parcel, returns=parcel.returns + 1)
                self._queues[parcel.queue].appendleft(again)

    def _lose(self, name: str) -> None:
        """Let a consumer lose its connection with nothing in hand but what it holds."""
        service, _, vcpu = name.partition("/")
        queue = MANAGER_COMMANDS
        if service == "worker":
            queue = topology.worker_commands(worker_name(int(vcpu))).name
        self._given_back.clear()
        self._return(self._held_by(self._consumers[queue][0]))

    def find(self, key: str) -> Parcel:
        """Return the head of a queue that has this key."""
        return next(each for each in self.heads() if each.key == key)

    def heads(self) -> list[Parcel]:
        """Return what could be delivered next, of each queue its head."""
        return [queue[0] for name, queue in self._queues.items() if queue and self._has(name)]

    def _has(self, queue: str) -> bool:
        return bool(self._consumers.get(queue))

    def oldest(self, held: Callable[[Parcel], bool] = lambda _: False) -> Parcel | None:
        """Return the delivery that first in, first out would do next."""
        floating = (parcel for parcel in self._floating if self._may_arrive(parcel))
        free = [parcel for parcel in (*self.heads(), *floating) if not held(parcel)]
        return min(free, key=lambda parcel: parcel.arrival, default=None)

    def finish(self, held: Callable[[Parcel], bool] = lambda _: False) -> None:
        """Go on first in, first out until nothing is left; deadlines fire when nothing else can.

        What `held` names waits until nothing else can happen.
        """
        for _ in range(TURNS_MAX):
            parcel = self.oldest(held) or self.oldest()
            if parcel is not None:
                self.deliver(parcel)
            elif not self.fire_deadline(*DEADLINES) and not self._time_out():
                return
        raise AssertionError("a teardown ends, or a deadline ends it")

    def deliver(self, parcel: Parcel) -> None:
        """Hand a message to its queue's consumer."""
        queue = self._queues.setdefault(parcel.queue, deque())
        if parcel in queue:
            queue.remove(parcel)
        if parcel in self._floating:
            self._floating.remove(parcel)
        self.trace.append(parcel.key)
        self._now_ns += STEP_NS
        self._held.setdefault((parcel.queue, parcel.envelope.message_id), []).append(parcel)
        self._handle(self._consumers[parcel.queue][0], parcel.received(), parcel.cause())

    def fire(self, name: str) -> None:
        """Let the timer of this name fire."""
        (owner, _), (actor, cause) = next(
            item for item in self._timers.items() if item[0][1] == name
        )
        del self._timers[owner, name]
        self._handle(actor, effects.TimerFired(name), cause)

    def _timer(self, keys: Sequence[str]) -> str | None:
        """Return the first timer with one of these keys, or of one of these kinds, that is set."""
        own = self._client.core.actor
        names = (name for owner, name in self._timers if owner != own)
        wanted = (each for each in names if {parse_timer(each).kind, timer_key(each)} & {*keys})
        return next(wanted, None)

    def is_ticking(self) -> bool:
        """Tell whether the ticker will fire."""
        return self._timer((TimerKind.TICK,)) is not None

    def tick(self) -> None:
        """Let the ticker fire."""
        self.trace.append("tick")
        self.fire(TimerKind.TICK.of(VM))

    def fire_deadline(self, *keys: str) -> bool:
        """Let a deadline with one of these keys or kinds fire; False: none is set."""
        name = self._timer(keys)
        if name is not None:
            self.fire(name)
        return name is not None

    def _time_out(self) -> bool:
        """End a run that nothing can end any more, as the client of a real one would."""
        if self._client.state.phase not in ("destroying", "settling"):
            return False
        self.fire(TIMEOUT_TIMER)
        return True

    def _complete(self, key: str) -> None:
        named = messages.AsyncPfCompleted.fields_of(str(MessageId(VM, 1, key)))
        vcpu, fault = int(named["vcpu"]), int(named["fault"])
        message = messages.AsyncPfCompleted(vm=VM, vcpu=vcpu, fault=fault)
        queue = topology.worker_commands(worker_name(vcpu)).name
        actor = self._consumers[queue][0]
        publish = effects.Publish(topology.ASYNC_PF.name, queue, message)
        sent, record = actor.recorder.send(publish, self._now_ns, NO_CAUSE)
        self._note((record,))
        parcel = Parcel(message, sent.envelope, publish, queue, next(self._arrivals))
        self.deliver(parcel)

    # --- performing ----------------------------------------------------------------------

    def _handle(self, actor: Actor[Any], event: effects.Input, cause: Cause) -> None:
        crashed, self._crashed = self._crashed, None
        plan = actor.handle(event, cause, self._now_ns)
        self._note(plan.records)
        if crashed is None:
            self._perform(actor, plan)
        else:
            self._crash(actor, plan, crashed)

    def _crash(self, manager: Actor[Any], plan: Plan, crashed: Crashed) -> None:
        """Let the manager crash with some of a plan performed; the successor performs all of it.

        The records are those of the entry, which go out with it: whoever reads the journal keeps
        one of two equal ones.
        """
        out = [each for each in plan.actions if is_counted(each)][: crashed.out]
        done = plan.actions if crashed.acked else tuple(out)
        self._perform(manager, replace(plan, actions=done))
        self._given_back.clear()
        self._return(self._held_by(manager))
        self._perform(manager, plan)

    def _note(self, records: tuple[Record, ...]) -> None:
        if not records:
            return
        self.records += [record for record in records if record.vm == VM]
        for reader in self._readers:
            self._handle(reader, effects.JournalRead(records), NO_CAUSE)

    def _perform(self, actor: Actor[Any], plan: Plan) -> None:
        for action in plan.actions:
            match action:
                case Send():
                    self._send(action)
                case effects.Consume(queue):
                    if queue.kind != "stream":
                        self._consumers.setdefault(queue.name, []).append(actor)
                case effects.ConsumeMailbox(mailbox):
                    self._consumers.setdefault(mailbox.name, []).append(actor)
                case effects.StopConsuming(name):
                    self._consumers[name].remove(actor)
                case effects.Bind(mailbox):
                    self._bindings[mailbox.name] = None
                case effects.Unbind(mailbox):
                    self._bindings.pop(mailbox.name, None)
                case effects.Ack(name, message_id):
                    self._held.pop((name, message_id), None)
                case effects.Reject():
                    self._reject(action)
                case effects.SetTimer(name):
                    self._timers[actor.core.actor, name] = (actor, plan.cause)
                case effects.CancelTimer(name):
                    self._timers.pop((actor.core.actor, name), None)
                case effects.DeclareMailbox() | effects.DeleteMailbox() | effects.DeleteQueue():
                    pass  # a queue is there from its first message on, and stays
                case _:
                    assert_never(action)

    def _send(self, send: Send) -> None:
        for parcel in self._parcels(send):
            self._queues.setdefault(parcel.queue, deque()).append(parcel)

    def _parcels(self, send: Send) -> list[Parcel]:
        """Return a message for each queue that it is routed to."""
        publish = send.publish
        targets = [publish.routing_key]
        if publish.exchange == topology.REQUESTS.name:
            targets = list(self._bindings)
        return [
            Parcel(
                publish.message,
                send.envelope,
                publish,
                queue,
                next(self._arrivals),
                ended=self._ended if send.envelope.epoch else (),
            )
            for queue in targets
        ]

    # --- take-overs ----------------------------------------------------------------------

    def _supersede(self, key: str) -> None:
        """Let another manager take over, and the old one still handle a delivery or timer.

        What the old one records stands behind its end, where no reader looks.
        """
        manager = self._consumers[MANAGER_COMMANDS][0]
        event, cause = self._input(key)
        old: Actor[Any] = Actor(manager.core)
        old.state, old.recorder = manager.state, copy(manager.recorder)
        for send in filter(is_counted, old.handle(event, cause, self._now_ns).actions):
            if isinstance(send, Send):
                self._floating += [replace(each, entry=1) for each in self._parcels(send)]
        self._ended = (*self._ended, (manager.recorder.epoch, 0))
        manager.recorder.epoch += 1
        self._lose("manager")

    def _input(self, key: str) -> tuple[effects.Input, Cause]:
        """Return what a timer or delivery of this key is to the manager."""
        timer = self._timer((key,))
        if timer is not None:
            return effects.TimerFired(timer), NO_CAUSE
        parcel = next(each for each in (*self.heads(), *self._floating) if each.key == key)
        return parcel.received(), parcel.cause()

    def _may_arrive(self, parcel: Parcel) -> bool:
        """Tell whether something floating may be delivered: a stale one after the successor's."""
        if not parcel.entry:
            return True
        return parcel.envelope.epoch in self._consumers[parcel.queue][0].state.ended

    def _reject(self, reject: effects.Reject) -> None:
        if reject.requeue:
            self._given_back.add((reject.queue, reject.message_id))
        for parcel in self._held.pop((reject.queue, reject.message_id), ()):
            again = replace(parcel, returns=parcel.returns + 1)
            if not reject.requeue:
                self._dead_letter(parcel, "rejected")
            elif again.returns > limits.DELIVERY_LIMIT:
                self._dead_letter(parcel, "delivery_limit")
            else:
                self._queues[parcel.queue].appendleft(again)

    def _dead_letter(self, parcel: Parcel, reason: str) -> None:
        letter = effects.DeadLettered(
            letter=f"letter:{next(self._arrivals)}",
            reason=reason,
            queue=parcel.queue,
            message_id=parcel.envelope.message_id,
            message=parcel.message,
        )
        self._handle(self._monitor, letter, NO_CAUSE)

    # --- judging -------------------------------------------------------------------------

    def judgement(self) -> Judgement:
        """Return the checker's judgement of what has happened."""
        return judge(History.of(self.records), VM)
