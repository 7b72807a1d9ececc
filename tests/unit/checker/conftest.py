"""Hand-written histories: a `Story` says, in the order of a teardown, what the services did."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from teardown_lab.checker import History, Judgement, judge
from vm_protocol.observations import Event
from vm_protocol.topology import Mailbox
from vm_protocol.wire import Record

WORKER = "worker.w0"
REPLIES = "manager.replies"
COMMANDS = "worker.w0.commands"
TYPES = {
    "tlb-flush": "TlbFlush",
    "drop-obsolete-roots": "DropObsoleteRoots",
    "scan-ioapic": "ScanIoapic",
    "clock-update": "ClockUpdate",
}


class Story:
    """Writes records as the services would, with numbers and Lamport times of each actor."""

    def __init__(self, vcpus: int = 2, vm: str = "vm-a", **scenario: Any) -> None:
        self.vm = vm
        self.manager = "manager.1"
        self.scenario = {"vcpus": vcpus, "mmu": "shadow", "roots": "distinct", **scenario}
        self.records: list[Record] = []
        self._seq: dict[str, int] = {}
        self._lamport: dict[str, int] = {}
        self._sent: dict[str, tuple[int, str]] = {}
        self._generation = 0
        self._commands = 0
        self._now_ns = 1_000

    # --- the two bricks ---------------------------------------------------------------

    def say(self, actor: str, event: str, vcpu: int | None = None, **fields: Any) -> Record:
        """Add one record; what is no field of a record is one of its details."""
        own = {name: fields.pop(name) for name in ("step", "message_id", "caused_by", "vm")
               if name in fields}  # fmt: skip
        seq = self._seq.get(actor, 0)
        self._seq[actor] = seq + 1
        record = Record(
            seq=seq,
            actor=actor,
            event=Event(event),
            vcpu=vcpu,
            lamport=self._lamport.get(actor, 0),
            at_ns=self._now_ns,
            details=fields,
            **{"vm": self.vm, **own},
        )
        self.records.append(record)
        return record

    def send(self, actor: str, kind: str, place: str, **body: Any) -> str:
        """Send a message; return its id."""
        caused_by = body.pop("caused_by", None)
        message_id = f"{self.vm}.1/{place}"
        self._lamport[actor] = self._lamport.get(actor, 0) + 1
        self._sent[message_id] = (self._lamport[actor], kind)
        self.say(
            actor,
            "message.sent",
            body.get("vcpu"),
            message_id=message_id,
            caused_by=caused_by,
            type=kind,
            exchange="x",
            routing_key="k",
            body={"type": kind, "vm": self.vm, **body},
        )
        return message_id

    def receive(
        self, actor: str, message_id: str, queue: str, vcpu: int | None = None, **details: Any
    ) -> None:
        lamport, kind = self._sent.get(message_id, (0, details.pop("type", "Unknown")))
        self._lamport[actor] = max(self._lamport.get(actor, 0), lamport) + 1
        self.say(
            actor, "message.received", vcpu,
            message_id=message_id, type=kind, queue=queue, **{"redelivered": False, **details},
        )  # fmt: skip

    def take_over(self, entry: int = 7, repeated: int = 0, seq: int | None = None) -> None:
        """Let the next manager go on where this one has stopped: what it has said counts."""
        before, epoch = self.manager, int(self.manager.partition(".")[2])
        self.manager = f"manager.{epoch + 1}"
        self._lamport[self.manager] = self._lamport[before]
        end = self._seq[before] if seq is None else seq
        self.say(self.manager, "manager.took-over",
                 predecessor=epoch, entry=entry, seq=end, repeated=repeated)  # fmt: skip

    # --- the run and the VM -------------------------------------------------------------

    def begin(self, ordering: str = "some-ordering", **details: Any) -> "Story":
        """Start the run, create the VM with its roots pinned, begin the teardown."""
        self.say(
            "lab", "run.started",
            broker="simulated", source="simulated", ordering=ordering, scenario=self.scenario,
            **details,
        )  # fmt: skip
        create = self.send("lab", "CreateVm", "create-vm")
        self.receive(self.manager, create, "manager.commands")
        count = self.scenario["vcpus"]
        for vcpu in range(count):
            self.allocate(f"root-{vcpu}", vcpu)
        for vcpu in range(count):
            self.say(self.manager, "vcpu.visible", vcpu, mailbox=self.mailbox(vcpu))
            faults = self.scenario.get("async_pf", 0)
            place = self.send(
                self.manager, "PlaceVcpu", f"place-vcpu/{vcpu}",
                vcpu=vcpu, async_pf=faults, caused_by=create,
            )  # fmt: skip
            self.receive(WORKER, place, "vcpu.placement", vcpu)
            self.say(WORKER, "vcpu.created", vcpu, caused_by=place)
            if vcpu in self.scenario.get("in_guest", ()):
                self.say(WORKER, "guest.entered", vcpu, pages=[f"root-{vcpu}"], caused_by=place)
            self.reply(f"vcpu-placed/{vcpu}", "VcpuPlaced", vcpu)
        self.say(self.manager, "vm.created", scenario=self.scenario, workers=["w0"])
        created = self.send(self.manager, "VmCreated", "vm-created")
        self._now_ns += 1_500_000_000
        self.receive("lab", created, "client.x.replies")
        destroy = self.send("lab", "DestroyVm", "destroy-vm")
        self.receive(self.manager, destroy, "manager.commands")
        self.say(self.manager, "teardown.started", ordering={"name": ordering})
        return self

    def clean(self) -> "Story":
        """Do what no teardown may leave out, where the story has not told it yet."""
        told = {(each.event, each.details.get("root")) for each in self.records}
        if (Event.BACKGROUND_STOPPED, None) not in told:
            self.say(self.manager, "background.stopped")
        roots = [each.details["root"] for each in self.records
                 if each.event == Event.ROOT_ALLOCATED]  # fmt: skip
        for root in roots:
            if (Event.PAGE_FREED, root) not in told:
                self.say(self.manager, "page.freed", root=root)
        self.free_state()
        return self

    def free_state(self) -> None:
        """Free the VM-level state that is not freed yet."""
        told = {each.details["state"] for each in self.records
                if each.event == Event.VM_STATE_FREED}  # fmt: skip
        for state in ("irqchip", "vendor"):
            if state not in told:
                self.say(self.manager, "vm_state.freed", state=state)

    def end(self, outcome: str = "settled", free_roots: bool = True, clean: bool = True) -> "Story":
        """Free the VM, by default with its roots and all else, and end the run."""
        if clean:
            self.clean()
        if free_roots:
            for vcpu in range(self.scenario["vcpus"]):
                self.unpin(f"root-{vcpu}", vcpu)
                self.free_root(f"root-{vcpu}")
        self.say(self.manager, "vm.freed", caused_by=f"{self.vm}.1/destroy-vm")
        destroyed = self.send(self.manager, "VmDestroyed", "vm-destroyed")
        self._now_ns += 250_000_000
        self.receive("lab", destroyed, "client.x.replies")
        return self.finish(outcome)

    def finish(self, outcome: str = "settled") -> "Story":
        self.say("lab", "run.finished", outcome=outcome)
        return self

    # --- vCPUs ---------------------------------------------------------------------------

    def mailbox(self, vcpu: int) -> str:
        return Mailbox(self.vm, vcpu).name

    def reply(self, place: str, kind: str, vcpu: int, **body: Any) -> str:
        message_id = self.send(WORKER, kind, place, vcpu=vcpu, **body)
        self.receive(self.manager, message_id, REPLIES, vcpu)
        return message_id

    def command(self, vcpu: int, *steps: str, caused_by: str | None = None) -> str:
        """Send a DestroyVcpu and let the worker receive it."""
        self._commands += 1
        message_id = self.send(
            self.manager, "DestroyVcpu", f"destroy-vcpu/{vcpu}/{self._commands}",
            vcpu=vcpu, steps=list(steps), generation=0, fence=True,
            caused_by=caused_by or f"{self.vm}.1/destroy-vm",
        )  # fmt: skip
        self.receive(WORKER, message_id, COMMANDS, vcpu)
        return message_id

    def step(self, vcpu: int, name: str, command: str | None = None) -> None:
        self.say(WORKER, "step.started", vcpu, name=name, step="2.0", caused_by=command)

    def free(self, vcpu: int) -> str:
        """Destroy a vCPU by one command with one step; return the command's id."""
        command = self.command(vcpu, "free_vcpu")
        self.step(vcpu, "free_vcpu", command)
        self.say(WORKER, "vcpu.freed", vcpu, generation=0, caused_by=command)
        self.done(vcpu, command)
        return command

    def done(self, vcpu: int, command: str, outcome: str = "done") -> None:
        self.reply(f"vcpu-steps-done/{command}/{outcome}", "VcpuStepsDone", vcpu, caused_by=command)
        if outcome == "done":
            self.say(WORKER, "message.acked", message_id=command, queue=COMMANDS)

    def erase(self, vcpu: int) -> None:
        self.say(self.manager, "step.started", vcpu, name="erase_vcpu", step="2.1")
        self.say(self.manager, "vcpu.erased", vcpu)

    def vm_step(self, name: str) -> None:
        self.say(self.manager, "step.started", name=name, step="1")
        self.say(self.manager, "step.finished", name=name, step="1")

    def destroy_all(self) -> "Story":
        """Free and erase every vCPU, one after the other."""
        for vcpu in range(self.scenario["vcpus"]):
            self.free(vcpu)
            self.erase(vcpu)
        return self

    # --- requests ------------------------------------------------------------------------

    def post(
        self,
        to: list[int],
        kind: str = "tlb-flush",
        by: str = "unload",
        vcpu: int | None = None,
        caused_by: str | None = None,
    ) -> str:
        """Post a request; return its id, "" when it reaches nobody."""
        if not to:
            self.say(self.manager, "request.posted", vcpu, caused_by=caused_by, kind=kind, by=by,
                     generation=0, recipients=[])  # fmt: skip
            return ""
        self._generation += 1
        generation = self._generation
        message_id = f"{self.vm}.1/request/{generation}"
        self.say(self.manager, "request.posted", vcpu, message_id=message_id, caused_by=caused_by,
                 kind=kind, by=by, generation=generation, recipients=to)  # fmt: skip
        return self.send(
            self.manager, TYPES[kind], f"request/{generation}",
            generation=generation, recipients=to, caused_by=caused_by,
        )  # fmt: skip

    def arrive(self, request: str, vcpu: int, redelivered: bool = False) -> None:
        self.receive(
            WORKER, request, self.mailbox(vcpu), vcpu,
            redelivered=redelivered, generation=int(request.rpartition("/")[2]),
        )  # fmt: skip

    def ack(self, message_id: str, queue: str, actor: str = WORKER) -> None:
        self.say(actor, "message.acked", message_id=message_id, queue=queue)

    def deliver(self, request: str, *vcpus: int) -> None:
        """Let vCPUs take a request, and acknowledge it."""
        for vcpu in vcpus:
            self.arrive(request, vcpu)
            kind = next(name for name, sort in TYPES.items() if sort == self._sent[request][1])
            self.say(WORKER, "request.delivered", vcpu, caused_by=request, kind=kind,
                     generation=int(request.rpartition("/")[2]), outcome="posted")  # fmt: skip
            self.ack(request, self.mailbox(vcpu))

    def reject(
        self, message_id: str, queue: str, reason: str,
        vcpu: int | None = None, invariant: str | None = None,
        *, requeue: bool = False, actor: str = WORKER,
    ) -> None:  # fmt: skip
        """Reject a delivery; a final reject becomes a dead letter, as the monitor sees it."""
        self.say(actor, "message.rejected", vcpu, message_id=message_id, queue=queue,
                 reason=reason, requeue=requeue)  # fmt: skip
        if not requeue:
            self.letter(message_id, queue, "rejected", vcpu, invariant, reason)

    def refuse(self, request: str, vcpu: int) -> None:
        """Let a tombstone reject a request, as it should."""
        self.arrive(request, vcpu)
        self.reject(request, self.mailbox(vcpu), "freed", vcpu, "use-after-free")

    def letter(
        self, message_id: str, queue: str, reason: str,
        vcpu: int | None = None, invariant: str | None = None, why: str = "",
    ) -> None:  # fmt: skip
        self.say("monitor", "dead_letter.classified", vcpu, message_id=message_id, reason=reason,
                 queue=queue, invariant=invariant, why=why)  # fmt: skip

    # --- roots ---------------------------------------------------------------------------

    def allocate(self, root: str, *vcpus: int) -> None:
        self.say(self.manager, "root.allocated", root=root, mmu=self.scenario["mmu"])
        for vcpu in vcpus:
            self.say(self.manager, "root.pinned", vcpu, root=root, context=0, slot=0)

    def unpin(self, root: str, vcpu: int) -> None:
        self.say(self.manager, "root.unpinned", vcpu, root=root, context=0, slot=0)

    def free_root(self, root: str, by: str = "unload", pins: tuple[str, ...] = ()) -> None:
        self.say(self.manager, "root.freed", root=root, by=by, pins=list(pins))

    # --- the judge -------------------------------------------------------------------------

    def history(self) -> History:
        return History.of(self.records)

    def judge(self) -> Judgement:
        return judge(self.history())

    def lines(self) -> str:
        return "".join(record.to_line() + "\n" for record in self.records)


def summarise(judgement: Judgement) -> dict[str, Any]:
    """Return all of a judgement that is empty when nothing happened; texts aside."""
    found: dict[str, Any] = {
        "verdict": str(judgement.verdict),
        "violations": [
            (str(each.invariant), each.vcpu, each.message_id) for each in judgement.violations
        ],
        "hazards": [(str(each.hazard), each.vcpu) for each in judgement.hazards],
        "dead_letters": [
            (each.reason, each.queue, each.vcpu, each.invariant and str(each.invariant))
            for each in judgement.dead_letters
        ],
        "notes": list(judgement.notes),
    }
    assert all(each.explain.endswith(".") for each in judgement.violations)
    json.dumps(judgement.to_json("h.jsonl"))
    return {name: value for name, value in found.items() if value}


@pytest.fixture
def new_story() -> type[Story]:
    return Story


@pytest.fixture
def summary() -> Callable[[Judgement], dict[str, Any]]:
    return summarise
