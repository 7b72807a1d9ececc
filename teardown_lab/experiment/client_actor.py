"""The client's core with what it must not do itself: collect the history, look who is there.

Both drivers run it as they run any actor. What it learns it tells the core, as an input.
"""

from collections.abc import Callable

from teardown_lab.checker.settlement import Settlement
from teardown_lab.experiment.client import TIMEOUT_TIMER, Client
from teardown_lab.experiment.standing import Around, ClientState, HistoryRead, ToldClient
from vm_protocol.actor import Actor, Plan
from vm_protocol.effects import Input, JournalRead, TimerFired
from vm_protocol.observations import Event
from vm_protocol.recorder import NO_CAUSE, Cause
from vm_protocol.wire import Record


class ClientActor(Actor[ClientState]):
    """An actor whose journal goes to `on_record`, as far as it is about the client's own VM.

    Args:
        client: The core.
        on_record: Called with each record of the VM, up to the last of the run itself.
        look_around: Called once if the run is out of time; returns who is there, or None when that
            is told later.
    """

    core: Client

    def __init__(
        self,
        client: Client,
        on_record: Callable[[Record], None] = lambda _: None,
        look_around: Callable[[], Around | None] = Around,
    ) -> None:
        super().__init__(client)
        self._vm = client.experiment.vm
        self._settlement = Settlement(self._vm)
        self._on_record = on_record
        self._look_around = look_around
        self._has_finished = False

    def handle(self, event: Input, cause: Cause, at_ns: int, key: str = "") -> Plan:
        """Step the core with any input; of the journal it is told only what that amounts to."""
        if isinstance(event, JournalRead):
            return self.tell(self._collect(event.records), at_ns)
        plan = super().handle(event, cause, at_ns, key)
        if event == TimerFired(TIMEOUT_TIMER) and self.state.phase == "asking":
            around = self._look_around()
            return plan if around is None else self.tell(around, at_ns)
        return plan

    def tell(self, told: ToldClient, at_ns: int) -> Plan:
        """Step the core with something that no broker brings."""
        self.state, effects = self.core.step(self.state, told)
        return self.plan(effects, NO_CAUSE, at_ns)

    def _collect(self, records: tuple[Record, ...]) -> HistoryRead:
        for record in records:
            if record.vm == self._vm and not self._has_finished:
                self._settlement.feed(record)
                self._on_record(record)
                self._has_finished = record.event == Event.RUN_FINISHED
        settled = self._settlement
        return HistoryRead(settled.settled, settled.quiet, settled.has_gaps, self._has_finished)
