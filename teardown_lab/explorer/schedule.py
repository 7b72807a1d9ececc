"""A schedule in words: which delivery comes when, named so that a real run knows it too.

Keys of deliveries (`keys`) are the same whatever the VM and the workers are called.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal
from zlib import compress, decompressobj, error

from pydantic import ValidationError

from teardown_lab.explorer.cast import VM, assemble
from teardown_lab.explorer.choice import (
    COMPLETE,
    CRASH,
    DEADLINE,
    DELIVER,
    DUPLICATE,
    HOLD,
    LOSE,
    REDELIVER,
    RELEASE,
    TICK,
    VANISH,
    split_choice,
)
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.follow import NotEnabled, follow
from teardown_lab.explorer.keys import delivery_key, timer_key
from teardown_lab.explorer.model import Model, State
from teardown_lab.explorer.steps import MANAGER
from teardown_lab.explorer.strategy import Path
from vm_protocol import limits
from vm_protocol.message_ids import name_in_vm
from vm_protocol.messages import AsyncPfCompleted
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

Act = Literal[
    "deliver",
    "copy",
    "redeliver",
    "lose",
    "hold",
    "release",
    "tick",
    "deadline",
    "complete",
    "crash",
    "supersede",
    "stale",
    "drop",
]
TOKEN_PREFIX: Final = "td1."  # noqa: S105 - no secret, a schedule
SCHEDULE_CHARACTERS_MAX: Final = 4_000_000
"""Of a token, of a file, and of what a token unpacks to: a path of 100,000 choices fits."""

_FORMAT: Final = 1
_PARTS: Final = {"o": "ordering", "s": "scenario", "f": "faults", "p": "path"}
"""The keys of a token, and those of a file."""


class ScheduleError(ValueError):
    """The file or token is no schedule; the text says why."""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The manager crashes in the step of a turn, which is logged.

    `out` of the `effects` that go to the services were performed, if `acked` also the
    acknowledgements.
    """

    out: int
    effects: int
    acked: bool

    @property
    def text(self) -> str:
        """Return what was out, in words."""
        if self.acked:
            return f"all {self.effects} effects and the acknowledgement out"
        return f"{self.out} of {self.effects} effects out"


@dataclass(frozen=True, slots=True)
class Turn:
    """One step of a schedule: what is done with which delivery; ticks and timers have names.

    `returned` are the deliveries that a lost connection brings back: of "redeliver" the one that is
    handled just before and all that its consumer holds, of "lose" only the latter. `crashed` tells
    that the manager crashes in this turn; the turn "crash" is that it does so before it has logged
    anything. "supersede" is that another one takes over, and the old one handles the delivery or
    timer all the same; "stale" is that something arrives which that one sent.
    """

    act: Act
    key: str
    returned: tuple[str, ...] = ()
    crashed: Crashed | None = None


_ACTS: Final[dict[int, Act]] = {
    DELIVER: "deliver",
    REDELIVER: "redeliver",
    DUPLICATE: "copy",
    HOLD: "hold",
    RELEASE: "release",
    VANISH: "drop",
}


def turns(model: Model, path: Path) -> tuple[Turn, ...]:
    """Return the path's choices in words.

    Raises:
        NotEnabled: The path is none of this model's.
    """
    states, _ = follow(model, path)
    return tuple(_turn(model, state, choice) for state, choice in zip(states, path, strict=False))


def _turn(model: Model, state: State, number: int) -> Turn:
    choice = split_choice(number)
    if choice.out is not None:
        begun = replace(choice, out=None)
        step = model.step_of(state, begun.number)
        assert step is not None, "only a step of the manager's can be met by its crash"
        count = len(step.effects)
        crashed = Crashed(min(choice.out, count), count, acked=choice.out > count)
        return replace(_turn(model, state, begun.number), crashed=crashed)
    if choice.stale:
        begun = replace(choice, stale=False)
        returned = _held(model, state, MANAGER)
        return Turn("supersede", _turn(model, state, begun.number).key, returned)
    if choice.kind == TICK:
        return Turn("tick", "tick")
    if choice.kind == DEADLINE:
        timer = model.sets.value(state[model.timers_at])[choice.index]
        return Turn("deadline", timer_key(model.steps.timers.value(timer)[1]))
    if choice.kind == COMPLETE:
        vcpu, fault = divmod(choice.index, limits.FAULTS_MAX)
        done = AsyncPfCompleted(vm=VM, vcpu=vcpu, fault=fault)
        return Turn("complete", name_in_vm(done.identity()))
    if choice.kind == CRASH:
        return Turn("crash", "manager", _held(model, state, MANAGER))
    if choice.kind == LOSE:
        name = f"worker/{choice.index - 1}" if choice.index else "manager"
        return Turn("lose", name, _held(model, state, choice.index))
    if choice.kind == RELEASE:
        queue, entry = model.hands.value(state[model.floating_at])[choice.index]
    else:
        queue = choice.index
        entry = model.contents.value(state[model.first_queue + queue])[0]
    key = _key(model, queue, entry[0])
    if choice.kind == RELEASE and model.is_stale(entry):
        return Turn("stale", key)
    returned = (
        (key, *_held(model, state, model.consumer_of(queue))) if choice.kind == REDELIVER else ()
    )
    return Turn(_ACTS[choice.kind], key, returned)


def _held(model: Model, state: State, actor: int) -> tuple[str, ...]:
    held = model.held_by(state, actor)
    return tuple(_key(model, queue, entry[0]) for queue, entry in held)


def _key(model: Model, queue: int, letter: int) -> str:
    return delivery_key(model.steps.letters.identity(letter), model.cast.queues[queue])


@dataclass(frozen=True, slots=True)
class Schedule:
    """A path with all that is needed to walk it again."""

    ordering: Ordering
    scenario: Scenario
    faults: Budget
    path: Path

    def model(self) -> Model:
        """Return the model that the path belongs to."""
        return Model(assemble(self.ordering, self.scenario), self.faults)

    def token(self) -> str:
        """Return the schedule as one line that `teardown replay` takes."""
        defaults = Scenario().model_dump(mode="json")
        scenario = self.scenario.model_dump(mode="json")
        data = {
            "o": _ordering(self.ordering, exclude_defaults=True),
            "s": {key: value for key, value in scenario.items() if value != defaults[key]},
            "f": {key: value for key, value in asdict(self.faults).items() if value},
            "p": self.path,
        }
        packed = compress(json.dumps(data, separators=(",", ":")).encode(), 9)
        return TOKEN_PREFIX + urlsafe_b64encode(packed).decode().rstrip("=")

    def as_json(self) -> dict[str, Any]:
        """Return the schedule as the JSON object of a saved file."""
        return {
            "schema": _FORMAT,
            "ordering": _ordering(self.ordering),
            "scenario": self.scenario.model_dump(mode="json"),
            "faults": asdict(self.faults),
            "path": list(self.path),
            "turns": [asdict(turn) for turn in turns(self.model(), self.path)],
            "token": self.token(),
        }


def _ordering(ordering: Ordering, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """Return an ordering as data, with the lines of its steps where they are known."""
    data = ordering.model_dump(mode="json", exclude_defaults=exclude_defaults)
    return {**data, "lines": list(ordering.lines)} if ordering.lines else data


_DAMAGED = (
    "the token was cut short or changed on its way: copy all of it, or replay the file that "
    "`explore --save` writes"
)


def read_schedule(text: str) -> Schedule:
    """Return the schedule of a saved file's text, or of a token.

    Raises:
        ScheduleError: It is neither, or does not fit its own ordering.
    """
    try:
        schedule = _build(_parts(text.strip()))
        follow(schedule.model(), schedule.path)
    except KeyError as missing:
        raise ScheduleError(f"no schedule of `teardown explore`: {missing} is missing") from None
    except RecursionError:
        raise ScheduleError("no schedule of `teardown explore`: nested too deeply") from None
    except (ValueError, TypeError, error) as wrong:
        reason = wrong.errors()[0]["msg"] if isinstance(wrong, ValidationError) else str(wrong)
        raise ScheduleError(f"no schedule of `teardown explore`: {reason}") from None
    except NotEnabled as wrong:
        raise ScheduleError(f"the schedule does not fit its ordering: {wrong}") from None
    return schedule


def _parts(text: str) -> dict[str, Any]:
    """Return what a token or a file holds, under the keys of a file."""
    if len(text) > SCHEDULE_CHARACTERS_MAX:
        raise ValueError(f"longer than {SCHEDULE_CHARACTERS_MAX} characters")
    if not text.startswith(TOKEN_PREFIX):
        data = json.loads(text)
        return {key: data[key] for key in _PARTS.values()}
    # A terminal may have broken the line that was copied.
    packed = "".join(text.removeprefix(TOKEN_PREFIX).split())
    unpacker = decompressobj()
    try:
        raw = unpacker.decompress(
            urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), SCHEDULE_CHARACTERS_MAX
        )
    except (ValueError, error):
        raise ValueError(_DAMAGED) from None
    if not unpacker.eof:
        raise ValueError(_DAMAGED if not unpacker.unconsumed_tail else "it unpacks to too much")
    data = json.loads(raw)
    return {key: data[short] for short, key in _PARTS.items()}


def _build(parts: dict[str, Any]) -> Schedule:
    faults, path = parts["faults"], parts["path"]
    if not isinstance(faults, dict) or not isinstance(path, list):
        raise TypeError("`faults` is a mapping, and `path` a list")
    known = {field.name for field in fields(Budget)}
    if not all(name in known and _is_count(count) for name, count in faults.items()):
        raise ValueError(f"`faults` maps {', '.join(sorted(known))} to whole numbers")
    if not all(_is_count(choice) for choice in path):
        raise ValueError("`path` is a list of whole numbers")
    return Schedule(
        Ordering.model_validate_json(json.dumps(parts["ordering"])),
        Scenario.model_validate_json(json.dumps(parts["scenario"])),
        Budget(**faults),
        tuple(path),
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0
