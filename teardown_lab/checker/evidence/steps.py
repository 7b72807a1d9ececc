"""Whether steps, commands and answers tell one story: the ordering's.

A step's records stand between its `step.started` and its `step.finished` at one actor; a command
runs its steps in order and is answered once. Read in a lab's own file only: it has every record.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from teardown_lab.checker import shapes
from teardown_lab.checker.facts import Facts
from teardown_lab.checker.happens_before import Moment
from vm_protocol.messages import REQUEST_TYPE_NAMES
from vm_protocol.observations import Event
from vm_protocol.ordering import WORKER_STEPS
from vm_protocol.wire import Record

_STATE_OF: Final = {"free_irqchip": "irqchip", "vendor_vm_destroy": "vendor"}
_POST_ONCE: Final = ("stop_background_workers", "flush_tlbs")
_STEP_OF: Final = {
    Event.VCPU_FREED: "free_vcpu",
    Event.VCPU_ERASED: "erase_vcpu",
    Event.ASYNC_PF_COMPLETED: "clear_async_pf",
    Event.BACKGROUND_STOPPED: "stop_background_workers",
    Event.ROOT_INVALIDATED: "zap_all_roots",
}
_STEP_BY: Final = {
    Event.REQUEST_POSTED: {
        "pit": "stop_background_workers",
        "zap-all": "zap_all_roots",
        "flush-tlbs": "flush_tlbs",
    },
    Event.ROOT_FREED: {"zap-all": "zap_all_roots", "uninit": "uninit_mmu"},
}


@dataclass(slots=True)
class Frame:
    """A step that began at an actor; `seen` are the events that it brought."""

    name: str
    path: str
    vcpu: int | None
    seen: list[Event] = field(default_factory=list)


class Frames:
    """Walks a lab's file once; collects what is missing, what contradicts, what to doubt."""

    def __init__(self, facts: Facts) -> None:
        self.missing: list[str] = []
        self.contradictions: list[str] = []
        self.frees: set[int] = set()
        self.erases: set[int] = set()
        self.states = False
        self._facts = facts
        self._open: dict[tuple[int, int | None], Frame] = {}
        self._last: dict[int, Record] = {}
        self._commands: dict[tuple[int, int | None], list[str]] = defaultdict(list)
        self._done_commands: set[str] = set()
        self._unloaded: dict[int | None, int] = {}
        self._done: dict[Event, set[object]] = defaultdict(set)
        if facts.run.is_lab_file:
            for moment in facts.moments:
                self._take(moment)

    def _take(self, moment: Moment) -> None:
        record = moment.record
        match record.event:
            case Event.STEP_STARTED:
                self._begin(moment)
            case Event.STEP_FINISHED:
                self._end(moment)
            case Event.MESSAGE_RECEIVED | Event.MESSAGE_SENT:
                self._message(moment)
            case Event.ASYNC_PF_COMPLETED if shapes.text(record, "how") == "late":
                self._completed_late(moment)
            case Event.VCPU_FREED | Event.VCPU_ERASED | Event.ASYNC_PF_COMPLETED:
                self._own(moment)
            case Event.VCPU_HIDDEN:
                self._hidden(moment)
            case Event.VM_STATE_FREED:
                self._state_freed(moment)
            case Event.BACKGROUND_STOPPED | Event.ROOT_INVALIDATED:
                self._inside(moment, _STEP_OF[record.event], of_vm=True)
            case Event.ROOT_FREED | Event.REQUEST_POSTED:
                name = _STEP_BY[record.event].get(shapes.text(record, "by"))
                if name is not None:
                    self._inside(moment, name, of_vm=True)
            case Event.GUEST_LEFT | Event.TLB_FLUSHED:
                self._guest(moment)

    def _begin(self, moment: Moment) -> None:
        record = moment.record
        name = shapes.text(record, "name")
        key = (moment.actor, record.vcpu)
        if key in self._open and self._open[key].name in WORKER_STEPS:
            self._contradict(moment, f"{self._open[key].name} has not ended")
        self._open[key] = Frame(name, record.step or "", record.vcpu)
        if name in WORKER_STEPS:
            body = self._facts.messages.body(self._running(key))
            # Without its command there, nobody asked for this step: what it frees proves nothing.
            if name not in body.texts("steps") or record.step != body.text("step"):
                self.frees.add(record.vcpu or 0)
                self._contradict(moment, f"no command with {name} had reached its worker")

    def _end(self, moment: Moment) -> None:
        record = moment.record
        name = shapes.text(record, "name")
        frame = self._open.pop((moment.actor, record.vcpu), None)
        if frame is None or (frame.name, frame.path) != (name, record.step or ""):
            self._contradict(moment, f"{name} had not begun")
            return
        self._ended(frame, record)

    def _ended(self, frame: Frame, record: Record) -> None:
        """Note what a step that has ended must have recorded and has not."""
        wanted: tuple[Event, object] | None = None
        if frame.name == "free_vcpu":
            wanted = Event.VCPU_FREED, frame.vcpu
        elif frame.name == "erase_vcpu":
            wanted = Event.VCPU_ERASED, frame.vcpu
        elif frame.name in _STATE_OF:
            wanted = Event.VM_STATE_FREED, _STATE_OF[frame.name]
        elif frame.name == "stop_background_workers":
            wanted = Event.BACKGROUND_STOPPED, None
        if wanted is not None and wanted[1] not in self._done[wanted[0]]:
            self._lack(f"{frame.name} ended ({_place(record)}) without its {wanted[0]}")
        posts = frame.seen.count(Event.REQUEST_POSTED)
        owed = frame.name == "flush_tlbs" or Event.BACKGROUND_STOPPED in frame.seen
        if frame.name in _POST_ONCE and posts != owed:
            self._lack(f"{frame.name} ended ({_place(record)}) with {posts} requests posted")
        if frame.name == "clear_async_pf" and frame.vcpu is not None:
            faults = range(self._facts.async_faults(frame.vcpu))
            if any((frame.vcpu, fault) not in self._facts.guests.faults_done for fault in faults):
                self._lack(f"clear_async_pf ended ({_place(record)}) without async_pf.completed")

    def _inside(self, moment: Moment, name: str, *, of_vm: bool = False) -> bool:
        """Take a record that only one step brings; return whether it stands in that step."""
        record = moment.record
        vcpu = None if of_vm else record.vcpu
        frame = self._open.get((moment.actor, vcpu))
        self._done[record.event].add(vcpu)
        inside = frame is not None and frame.name == name
        once = record.event in (Event.VCPU_FREED, Event.VCPU_ERASED, Event.BACKGROUND_STOPPED)
        again = once and frame is not None and record.event in frame.seen
        if frame is not None:
            frame.seen.append(record.event)
        if not inside:
            self._contradict(moment, f"no {name} was under way")
        elif again:
            self._contradict(moment, f"{name} did so already")
        return inside and not again

    def _message(self, moment: Moment) -> None:
        record = moment.record
        if record.event is Event.MESSAGE_SENT:
            if shapes.text(record, "type") == "VcpuStepsDone":
                self._answer(moment)
            return
        self._last[moment.actor] = record
        message = record.message_id or ""
        if self._facts.messages.types.get(message) == "DestroyVcpu":
            self._command(moment, message)
        elif self._facts.messages.types.get(message) == "UnloadDone":
            generation = self._facts.messages.body(message).number("generation") or 0
            self._unloaded[record.vcpu] = max(generation, self._unloaded.get(record.vcpu, 0))

    def _command(self, moment: Moment, message: str) -> None:
        """Take a command that reached its worker; the copy of one that is done runs nothing.

        Copies come at any later time (at-least-once), also while another command waits.
        """
        waiting = self._commands[moment.actor, moment.record.vcpu]
        if message in waiting or message in self._done_commands:
            return
        waiting.append(message)
        self._unloaded.pop(moment.record.vcpu, None)

    def _answer(self, moment: Moment) -> None:
        """End the command that an answer names; a repeated answer ends nothing more."""
        command = shapes.answered_command(moment.record)
        waiting = self._commands[moment.actor, moment.record.vcpu]
        if command in waiting:
            waiting.remove(command)
        if shapes.body(moment.record).text("outcome") == "done":
            self._done_commands.add(command)

    def _running(self, key: tuple[int, int | None]) -> str:
        """Return the id of the command that runs, the last one that came; empty if none does."""
        return self._commands[key][-1] if self._commands[key] else ""

    def _own(self, moment: Moment) -> None:
        """Take what one step does to its vCPU; a free or erase elsewhere is not to be trusted."""
        record = moment.record
        if record.event is Event.VCPU_FREED:
            self._check_command(moment)
        if self._inside(moment, _STEP_OF[record.event]):
            return
        if record.event is Event.VCPU_FREED:
            self.frees.add(record.vcpu or 0)
        elif record.event is Event.VCPU_ERASED:
            self.erases.add(record.vcpu or 0)

    def _check_command(self, moment: Moment) -> None:
        """A free has to be asked for by the command that runs, and to stand behind its fence."""
        record = moment.record
        command = self._running((moment.actor, record.vcpu))
        body = self._facts.messages.body(command)
        if record.message_id != command or record.step != body.text("step"):
            self._contradict(moment, f"{command or 'no command'} was running")
        fence = max(body.number("generation") or 0, self._unloaded.get(record.vcpu, 0))
        consumed = shapes.number(record, "generation")
        if consumed is None or (body.truth("fence") and consumed < fence):
            self._contradict(moment, f"its mailbox was not consumed up to {fence}")

    def _hidden(self, moment: Moment) -> None:
        frame = self._open.get((moment.actor, shapes.number(moment.record, "hole")))
        if frame is None or frame.name != "erase_vcpu":
            self._contradict(moment, "no erase_vcpu of the hole was under way")

    def _state_freed(self, moment: Moment) -> None:
        state = shapes.text(moment.record, "state")
        frame = self._open.get((moment.actor, None))
        self._done[Event.VM_STATE_FREED].add(state)
        if frame is None or _STATE_OF.get(frame.name) != state:
            self.states = True
            self._contradict(moment, f"no step that frees {state} was under way")
        elif Event.VM_STATE_FREED in frame.seen:
            self.states = True
            self._contradict(moment, f"{frame.name} did so already")
        else:
            frame.seen.append(Event.VM_STATE_FREED)

    def _completed_late(self, moment: Moment) -> None:
        """A fault that no step cleared completes by a message of its own, while the vCPU lives."""
        last = self._last.get(moment.actor)
        is_own = last is not None and last.vcpu == moment.record.vcpu
        if last is None or not is_own or shapes.text(last, "type") != "AsyncPfCompleted":
            self._contradict(moment, "no AsyncPfCompleted had reached its worker")

    def _guest(self, moment: Moment) -> None:
        """A vCPU leaves its guest, or flushes its TLB, because of a request in its mailbox."""
        record = moment.record
        last = self._last.get(moment.actor)
        kind = shapes.text(last, "type") if last is not None and last.vcpu == record.vcpu else ""
        wanted = ("TlbFlush",) if record.event is Event.TLB_FLUSHED else REQUEST_TYPE_NAMES
        if kind not in wanted:
            self._contradict(moment, "no request had reached the vCPU")

    def _lack(self, text: str) -> None:
        self.missing.append(text)

    def _contradict(self, moment: Moment, why: str) -> None:
        record = moment.record
        vcpu = f" of vCPU {record.vcpu}" if record.vcpu is not None else ""
        self.contradictions.append(
            f"{self._facts.told(record)} says {record.event}{vcpu}, but {why}"
        )


def _place(record: Record) -> str:
    vcpu = f", vCPU {record.vcpu}" if record.vcpu is not None else ""
    return f"step {record.step}{vcpu}"


def unanswered(facts: Facts) -> Iterator[str]:
    """Yield commands of a freed VM whose answer or settlement is not in the history."""
    for message_id in facts.messages.of_type("DestroyVcpu"):
        answer = facts.messages.answers.get(message_id)
        outcome = answer.outcome if answer else None
        delivery = (message_id, facts.messages.vcpu_of.get(message_id))
        if delivery[1] in facts.hosts.vcpus:
            continue
        acked = delivery in facts.deliveries.acked
        rejected = delivery in facts.deliveries.rejected
        if outcome is None and facts.life.freed is not None and facts.run.is_lab_file:
            yield f"{message_id} was never answered, yet the VM was freed"
        elif outcome is not None and not acked and not rejected and facts.run.is_lab_file:
            yield f"{message_id} was answered {outcome}, but neither acknowledged nor rejected"
        elif outcome == "done" and rejected and not acked:
            yield f"{message_id} was answered done, but rejected"
        # A repetition of a finished command is acknowledged.
        elif outcome in ("refused", "stuck") and acked and not rejected:
            yield f"{message_id} was answered {outcome}, but acknowledged"
