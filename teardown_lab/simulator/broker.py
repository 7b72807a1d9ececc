"""A broker in memory, with the semantics of RabbitMQ that this project uses.

Like RabbitMQ it pushes: a message goes to a consumer as soon as that has room, so what a consumer
has not looked at yet is out of reach of expiry and length limits. Each rule names its page of
RabbitMQ's documentation; docs/broker-rules.md lists them with the tests that tie them to brokers.
"""

from collections import deque
from collections.abc import Iterable

from teardown_lab.simulator import dead_letters
from teardown_lab.simulator.consumers import Consumer
from teardown_lab.simulator.deliveries import ConsumerEvent, Deliveries, Unsettled
from teardown_lab.simulator.errors import NotFound, NotSupported, PreconditionFailed
from teardown_lab.simulator.expiry import Expiries
from teardown_lab.simulator.messages import Handed, Published, Stored, refuse_unsimulated
from teardown_lab.simulator.queues import Dying, OrdinaryQueue, QuorumQueue, ordinary_queue
from teardown_lab.simulator.routing import Routes
from teardown_lab.simulator.streams import Stream
from teardown_lab.simulator.versions import NEWEST, BrokerVersion, Ending
from vm_protocol.codec import Packet
from vm_protocol.topology import EXCHANGES, SHARED_QUEUES, Exchange, Queue


class SimulatedBroker:
    """Exchanges, queues and consumers of one virtual host; `now_ns` is virtual time.

    Args:
        version: Whose rules it follows.
        exchanges: What exists from the start; by default the topology that all services share.
        queues: As `exchanges`.
        now_ns: When it begins.
    """

    def __init__(
        self,
        version: BrokerVersion = NEWEST,
        exchanges: Iterable[Exchange] = EXCHANGES,
        queues: Iterable[Queue] = SHARED_QUEUES,
        now_ns: int = 0,
    ) -> None:
        self.version = version
        self.now_ns = now_ns
        self._routes = Routes(exchanges)
        self._queues: dict[str, OrdinaryQueue] = {}
        self._streams: dict[str, Stream] = {}
        self._deliveries = Deliveries()
        self._expiries = Expiries()
        self._dying: deque[tuple[OrdinaryQueue, Dying]] = deque()
        self._last_position = 0
        for queue in queues:
            self.declare(queue)

    # --- topology ------------------------------------------------------------------------

    def declare_exchange(self, exchange: Exchange) -> None:
        """Declare an exchange; repeating it changes nothing.

        Raises:
            PreconditionFailed: It exists with another type.
        """
        self._routes.declare(exchange)

    def declare(self, queue: Queue) -> None:
        """Declare a queue and its bindings; repeating it changes nothing (queues).

        It counts as use of the queue, so it renews the time after which it expires (ttl).

        Raises:
            PreconditionFailed: It exists with other arguments.
            NotSimulated: An argument has no rule here.
            NotFound: An exchange does not exist.
        """
        existing = self._home(queue.name)
        if existing is None:
            if queue.kind == "stream":
                self._streams[queue.name] = Stream(queue)
            else:
                self._queues[queue.name] = ordinary_queue(queue, self.version)
        elif dict(existing.queue.arguments) != dict(queue.arguments):
            raise PreconditionFailed(f"queue {queue.name} exists with other arguments")
        self._renew(queue.name)
        for exchange, key in queue.bindings:
            self.bind(queue.name, exchange, key)

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue; a second equal binding is the same one (queues).

        Raises:
            NotFound: The queue or the exchange does not exist.
        """
        if self._home(queue) is None:
            raise NotFound(f"no queue {queue}")
        self._routes.bind(queue, exchange, key)

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Unbind a queue; what was routed before stays in it (tutorials: amqp-concepts)."""
        self._routes.unbind(queue, exchange, key)

    def delete(self, queue: str) -> tuple[str, ...]:
        """Delete a queue if it exists; its messages are not dead-lettered (dlx).

        Its consumers get a `Cancelled` after what is on its way to them (consumer-cancel); return
        them. What they settle later is ignored.
        """
        home: OrdinaryQueue | Stream | None = self._queues.pop(queue, None)
        home = home or self._streams.pop(queue, None)
        if home is None:
            return ()
        self._routes.forget(queue)
        consumers = home.consumers if isinstance(home, Stream) else home.consumers.all
        for consumer in consumers:
            consumer.is_cancelled = True
            self._deliveries.cancel(consumer)
        return tuple(consumer.actor for consumer in consumers)

    def has_queue(self, queue: str) -> bool:
        """Tell whether a queue exists."""
        return self._home(queue) is not None

    def queue_names(self) -> tuple[str, ...]:
        """Return the names of all queues."""
        return (*self._queues, *self._streams)

    def ready_count(self, queue: str) -> int:
        """Count the messages of a queue that no consumer holds; all of them, of a stream.

        Raises:
            NotFound: The queue does not exist.
        """
        home = self._home(queue)
        if home is None:
            raise NotFound(f"no queue {queue}")
        return home.length if isinstance(home, Stream) else home.ready_count

    # --- consumers -----------------------------------------------------------------------

    def consume(self, actor: str, queue: str, prefetch: int, begin: str | int = "first") -> None:
        """Add a consumer, unless this actor consumes the queue already.

        A stream's reader begins at its first or at its next record (streams: offset).

        Raises:
            NotFound: The queue does not exist.
        """
        home = self._home(queue)
        if home is None:
            raise NotFound(f"no queue {queue}")
        if self._consumer(actor, queue) is not None:
            return
        consumer = Consumer(actor, queue, prefetch)
        if isinstance(home, Stream):
            consumer.offset = home.length if begin == "next" else 0
            home.consumers.append(consumer)
            self._read(home)
        else:
            home.consumers.add(consumer)
            home.lease_ns = None
            self._dispatch(home)

    def cancel(self, actor: str, queue: str) -> None:
        """Cancel a consumer; what it holds and what is on its way stays its own (consumers)."""
        consumer = self._consumer(actor, queue)
        if consumer is not None:
            self._remove(consumer)
            if queue in self._queues:
                self._dispatch(self._queues[queue])

    def withdraw(self, actor: str, queue: str) -> tuple[Handed, ...]:
        """Take what is on its way from a queue to an actor; it stays unsettled."""
        return tuple(self._deliveries.withdraw(actor, queue))

    def lose(self, actor: str) -> None:
        """Lose an actor's connection: its consumers go, and all that it held comes back.

        That includes what was still on its way: it counts as delivered (confirms: automatic
        requeueing). In which order queues learn of it is not defined; here, as they were declared.
        """
        self._leave(actor, is_clean=False)

    def close(self, actor: str) -> None:
        """Close an actor's connection in order: it first cancels, then gives back what it held.

        So the next consumer of a single-active queue is served in between (seen: all versions).
        """
        self._leave(actor, is_clean=True)

    def next_event(self) -> ConsumerEvent | None:
        """Take the oldest delivery or cancellation on its way, None when there is none."""
        return self._deliveries.next_event()

    def held_by(self, actor: str) -> tuple[Handed, ...]:
        """Return what an actor has not settled, oldest first; what is on its way included."""
        return self._deliveries.held_by(actor)

    # --- messages ------------------------------------------------------------------------

    def publish(
        self, exchange: str, key: str, packet: Packet, *, mandatory: bool = False
    ) -> Published:
        """Route a message; a mandatory one that reaches no queue at all is returned (publishers).

        Raises:
            NotFound: The exchange does not exist.
            NotSimulated: The message asks for something that has no rule here.
        """
        refuse_unsimulated(packet)
        targets = self._routes.queues_for(exchange, key)
        trusted = self.version.trusts_client_deaths
        deaths = dead_letters.deaths_claimed(packet) if trusted else ()
        message = Stored(packet, exchange, key, position=0, deaths=deaths)
        for name in targets:
            self._store(name, message)
        self._bury()
        return Published(targets, returned=mandatory and not targets)

    def ack(self, number: int) -> None:
        """Acknowledge a delivery (confirms: consumer acknowledgements).

        Raises:
            PreconditionFailed: It is not unsettled.
        """
        self._resume(self._deliveries.settle(number))

    def reject(self, number: int, *, requeue: bool) -> None:
        """Reject a delivery (`basic.reject`): dead-letter it, or give it back to its queue.

        Raises:
            PreconditionFailed: It is not unsettled.
            NotSupported: It is of a stream, and this version refuses that.
        """
        self._refuse(number, Ending.RETURNED if requeue else Ending.REJECTED)

    def nack(self, number: int, *, requeue: bool) -> None:
        """As `reject`, by `basic.nack`; some versions count it differently (quorum-queues).

        Raises:
            PreconditionFailed: It is not unsettled.
        """
        self._refuse(number, Ending.NACKED_BACK if requeue else Ending.NACKED)

    # --- time ----------------------------------------------------------------------------

    def next_due_ns(self) -> int | None:
        """Return when a message or a queue expires next (ttl)."""
        due = self._expiries.next(self._queues)
        return due[0] if due else None

    def advance_to(self, now_ns: int) -> None:
        """Let virtual time pass, and whatever expires meanwhile expire at its own time."""
        assert now_ns >= self.now_ns, "time does not go back"
        while (due := self._expiries.next(self._queues)) and due[0] <= now_ns:
            self.now_ns, queue = due
            if queue.lease_ns is not None and queue.lease_ns <= self.now_ns:
                self.delete(queue.name)
            else:
                self._die(queue, queue.expire(self.now_ns))
                self._expiries.note(queue)
            self._bury()
        self.now_ns = now_ns

    # --- inside --------------------------------------------------------------------------

    def _leave(self, actor: str, *, is_clean: bool) -> None:
        for name in self.queue_names():
            consumer = self._consumer(actor, name)
            if consumer is not None:
                self._remove(consumer)
        lost: dict[str, list[Unsettled]] = {}
        for unsettled in self._deliveries.lose(actor):
            lost.setdefault(unsettled.home.name, []).append(unsettled)
        for name, queue in tuple(self._queues.items()):
            back = [each.handed.message for each in lost.get(name, ()) if each.home is queue]
            if is_clean or not back:
                self._dispatch(queue)
            if back:
                self._after_return(queue, queue.give_back(back, Ending.LOST))

    def _home(self, queue: str) -> OrdinaryQueue | Stream | None:
        return self._queues.get(queue) or self._streams.get(queue)

    def _consumer(self, actor: str, queue: str) -> Consumer | None:
        home = self._home(queue)
        if home is None:
            return None
        consumers = home.consumers if isinstance(home, Stream) else home.consumers.all
        return next((each for each in consumers if each.actor == actor), None)

    def _remove(self, consumer: Consumer) -> None:
        consumer.is_cancelled = True
        home = self._home(consumer.queue)
        if home is not None:
            home.consumers.remove(consumer)
            self._renew(consumer.queue)

    def _renew(self, name: str) -> None:
        queue = self._queues.get(name)
        if queue is not None:
            queue.renew_lease(self.now_ns)
            self._expiries.note(queue)

    def _store(self, name: str, message: Stored) -> None:
        """Put a message into a queue: to a consumer, else in line, where limits apply to it."""
        self._last_position += 1
        stream = self._streams.get(name)
        if stream is not None:
            stream.append(message.placed(self._last_position))
            self._read(stream)
            return
        queue = self._queues[name]
        ttl_ms = queue.arguments.message_ttl_ms
        expires_ns = None if ttl_ms is None else self.now_ns + ttl_ms * 1_000_000
        queue.push(message.placed(self._last_position, expires_ns))
        self._dispatch(queue, is_direct=queue.ready_count == 1)
        self._die(queue, queue.drop_excess())
        self._expiries.note(queue)

    def _dispatch(self, queue: OrdinaryQueue, *, is_direct: bool = False) -> None:
        """Send what is ready to consumers with room."""
        while queue.head() is not None and (consumer := queue.consumers.next()) is not None:
            self._deliveries.hand(queue, consumer, queue.take(), is_direct=is_direct)
        self._expiries.note(queue)

    def _read(self, stream: Stream) -> None:
        for consumer, message, packet in stream.readable():
            self._deliveries.copy(stream, consumer, message, packet)

    def _refuse(self, number: int, why: Ending) -> None:
        unsettled = self._deliveries.settle(number)
        home, message = unsettled.home, unsettled.handed.message
        if isinstance(home, Stream):
            if not self.version.streams_take_rejects:
                raise NotSupported(f"no basic.nack and basic.reject on stream {home.name}")
            self._resume(unsettled)
        elif self._queues.get(home.name) is not home:
            return  # the queue was deleted
        elif why in (Ending.REJECTED, Ending.NACKED):
            self._die(home, [(home.failed(message, why), dead_letters.REJECTED)])
            self._resume(unsettled)
            self._bury()
        else:
            dying = home.give_back([message], why)
            if self.version.limit_raises_prefetch:
                unsettled.consumer.prefetch += len(dying)
            home.consumers.settled(unsettled.consumer)
            self._after_return(home, dying)

    def _resume(self, unsettled: Unsettled) -> None:
        """Go on after a consumer has got room."""
        home = unsettled.home
        if isinstance(home, Stream):
            self._read(home)
        elif self._queues.get(home.name) is home:
            home.consumers.settled(unsettled.consumer)
            self._dispatch(home)

    def _after_return(self, queue: OrdinaryQueue, dying: list[Dying]) -> None:
        """Go on after messages came back, of which some died.

        A classic queue applies its length limit before it delivers, a quorum queue after (seen).
        """
        if isinstance(queue, QuorumQueue):
            dying += queue.expire(self.now_ns)
            self._dispatch(queue)
            excess = queue.drop_excess()
            is_reversed = self.version.overflow_is_reversed
            dying = excess[::-1] + dying if is_reversed else dying + excess
        else:
            dying += queue.drop_excess()
            dying += queue.expire(self.now_ns)
            self._dispatch(queue)
        self._die(queue, dying)
        self._expiries.note(queue)
        self._bury()

    def _die(self, queue: OrdinaryQueue, dying: list[Dying]) -> None:
        self._dying.extend((queue, each) for each in dying)

    def _bury(self) -> None:
        """Publish what has died, after all else: to a queue's dead-letter exchange, if it is there.

        Without one, with one that does not exist or routes nowhere, and in a cycle, the message is
        gone (dlx).
        """
        while self._dying:
            queue, (message, reason) = self._dying.popleft()
            exchange = queue.arguments.dead_letter_exchange
            if exchange is None or not self._routes.has(exchange):
                continue
            key = queue.arguments.dead_letter_routing_key or message.routing_key
            dead = dead_letters.died(message, queue.name, reason, self.version)
            failures = message.failures if self.version.failures_follow else 0
            dead = Stored(
                dead.packet, exchange, key, position=0, failures=failures, deaths=dead.deaths
            )
            for name in self._routes.queues_for(exchange, key):
                if reason == dead_letters.REJECTED or not dead_letters.is_cycle(name, dead.deaths):
                    self._store(name, dead)
