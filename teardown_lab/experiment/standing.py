"""Where a run stands, and how it knows that it is over: `ending` is the one place that says so.

After `ending` the client still writes the end down (`closing`) and has its VM removed (`removing`);
then it is `done`, which stops the driver. Whatever else ends a run raises, and there is no verdict:
a service that ends (stack.py), a broker that is silent (watch.py) or holds another topology, a
bug of ours, a signal.
"""

from dataclasses import dataclass
from typing import Literal

RunOutcome = Literal["settled", "timed-out-alive", "timed-out", "lost", "refused"]
RunPhase = Literal["creating", "destroying", "settling", "asking", "closing", "removing", "done"]
"""`asking`: out of time; whoever runs the client looks who is there, and tells it `Around`."""


@dataclass(frozen=True, slots=True)
class HistoryRead:
    """Told to the client: what its VM's records amount to so far (checker.settlement).

    `has_finished`: the last of them has come back, which the client itself wrote.
    """

    is_settled: bool = False
    is_quiet: bool = True
    has_gaps: bool = False
    has_finished: bool = False


@dataclass(frozen=True, slots=True)
class Around:
    """Told to the client that is out of time: do the services answer, and who or what is gone?"""

    services_answer: bool = True
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """Told to the client by whoever watches: somebody is gone, and waiting is of no use."""

    missing: tuple[str, ...]


ToldClient = HistoryRead | Around | Lost


@dataclass(frozen=True, slots=True)
class ClientState:
    """Where the run stands, and how it ended; `refusal` is the manager's code, if it refused.

    `why` are the manager's words for a refusal. `patient`: a teardown is stuck, and the run waits
    for its other commands to end. `hopeful`: missing records are still waited for. `given_up`
    is what was seen when there was nothing more to wait for.
    """

    phase: RunPhase = "creating"
    outcome: RunOutcome | None = None
    refusal: str | None = None
    why: str = ""
    patient: bool = False
    hopeful: bool = True
    history: HistoryRead = HistoryRead()
    given_up: Around | Lost | None = None

    @property
    def is_waiting(self) -> bool:
        """Tell whether a loss or the time-out can still end the run."""
        return self.phase in ("creating", "destroying", "settling")


def ending(state: ClientState) -> RunOutcome | None:
    """Return how a run ends now; None: it is not over.

    A run is over when the manager refuses it, when the watch finds somebody gone, when it is out of
    time and somebody has looked who is there, or when the teardown is answered and its history
    settled: every delivery is accounted for, nobody is at work on a command (waited for only after
    a stuck teardown, and not for ever), and no record is missing that may still come.
    """
    history = state.history
    if state.refusal is not None:
        return "refused"
    if isinstance(state.given_up, Lost):
        return "lost"
    if state.given_up is not None:
        return "timed-out-alive" if state.given_up.services_answer else "timed-out"
    is_quiet = history.is_quiet or not state.patient
    is_whole = not history.has_gaps or not state.hopeful
    answered = state.phase == "settling"
    return "settled" if answered and history.is_settled and is_quiet and is_whole else None
