"""More VMs than places: everybody gets a true answer, and nothing that frees waits behind it."""

from dataclasses import dataclass, field
from typing import Any

from support.simulated import STEPS_MAX

from teardown_lab.checker.findings import Verdict
from teardown_lab.checker.history import History
from teardown_lab.checker.verdict import judge
from teardown_lab.experiment.client import Client, Experiment
from teardown_lab.experiment.client_actor import ClientActor
from teardown_lab.simulator.world import World
from vcpu_worker import VcpuWorker
from vm_manager import DeadLetterMonitor, VmManager
from vm_manager.catalogue import catalogue_entry
from vm_protocol import effects, limits, messages, topology
from vm_protocol.actor import Actor
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

ORDERING = catalogue_entry("unload-in-destroy").ordering
TIMEOUT_MS = 600_000


@dataclass
class Lab:
    """A stack with few places, and the clients that want more; `remove` clears their VMs away."""

    places: tuple[int, ...]
    world: World = field(default_factory=World)
    clients: dict[str, ClientActor] = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)
    manager: Actor[Any] = field(default_factory=lambda: Actor(VmManager(), limits.MANAGER_EPOCH))

    def __post_init__(self) -> None:
        self.world.add(self.manager)
        self.world.add(Actor(DeadLetterMonitor(), limits.MANAGER_EPOCH))
        for number, capacity in enumerate(self.places):
            self.world.add(Actor(VcpuWorker(f"worker-{number}", capacity)))

    def want(self, vm: str, vcpus: int, timeout_ms: int = TIMEOUT_MS) -> None:
        scenario = Scenario(vcpus=vcpus)
        experiment = Experiment(vm, ORDERING, scenario, "simulated", "simulated", timeout_ms)
        self.records[vm] = []
        self.clients[vm] = ClientActor(NamedClient(experiment), self.records[vm].append)
        self.world.add(self.clients[vm])

    def run(self) -> None:
        steps = 0
        while any(each.state.phase != "done" for each in self.clients.values()):
            assert self.world.step(), "nothing happens any more"
            steps += 1
            assert steps < 20 * STEPS_MAX

    def verdict(self, vm: str) -> Verdict:
        return judge(History.of(tuple(self.records[vm])), vm).verdict

    def left(self) -> list[str]:
        names = self.world.broker.queue_names()
        return [name for name in names if name.startswith(("vcpu.vm-", "client.vm-"))]


class NamedClient(Client):
    """A client beside others in one world, which tells actors apart by their names."""

    @property
    def actor(self) -> str:
        return f"lab.{self.experiment.vm}"


def refusals(lab: Lab) -> dict[str, str]:
    refused = {vm: each.state.refusal for vm, each in lab.clients.items()}
    return {vm: code for vm, code in refused.items() if code is not None}


def test_more_vms_than_places_are_all_placed_in_turn_and_judged() -> None:
    lab = Lab(places=(1, 1))
    for number in range(8):
        lab.want(f"vm-{number}", vcpus=1 + number % 2)

    lab.run()

    assert refusals(lab) == {}
    assert {lab.verdict(vm) for vm in lab.clients} == {Verdict.SAFE}
    assert lab.left() == []


def test_a_teardown_that_frees_places_is_not_behind_all_the_creations_that_want_them() -> None:
    lab = Lab(places=(1,))
    lab.want("vm-first", vcpus=1)
    flood = [
        messages.CreateVm(vm=f"flood-{number}", scenario=Scenario(vcpus=1, ticker=False))
        for number in range(limits.CREATIONS_WAITING_MAX + 10)
    ]

    ask(lab, *flood)
    lab.run()

    assert lab.verdict("vm-first") == Verdict.SAFE
    assert lab.clients["vm-first"].state.outcome == "settled"
    assert len(lab.manager.state.waiting) <= limits.CREATIONS_WAITING_MAX
    assert lab.left() == []


def test_a_vm_that_can_never_be_placed_is_refused_with_the_places_and_blocks_nobody() -> None:
    lab = Lab(places=(2, 2))
    lab.want("vm-small-1", vcpus=2)
    lab.want("vm-huge", vcpus=9)
    lab.want("vm-small-2", vcpus=4)

    lab.run()

    assert refusals(lab) == {"vm-huge": "no-places"}
    assert "9 vCPUs" in lab.clients["vm-huge"].state.why
    assert "4 were free" in lab.clients["vm-huge"].state.why
    assert lab.verdict("vm-small-1") == lab.verdict("vm-small-2") == Verdict.SAFE
    assert lab.left() == []


def test_a_vm_that_waits_in_vain_for_places_that_others_keep_is_refused() -> None:
    lab = Lab(places=(2,))
    keeper = messages.CreateVm(vm="keeper", scenario=Scenario(vcpus=1, ticker=False))
    ask(lab, keeper)
    lab.want("vm-late-1", vcpus=2)
    lab.want("vm-late-2", vcpus=2)

    lab.run()

    assert refusals(lab) == {"vm-late-1": "no-places", "vm-late-2": "no-places"}
    assert list(lab.manager.state.vms) == ["keeper"]
    assert lab.left() == []


def test_a_client_that_is_out_of_time_takes_its_waiting_creation_with_it() -> None:
    lab = Lab(places=(1,))
    keeper = messages.CreateVm(vm="keeper", scenario=Scenario(vcpus=1, ticker=False))
    ask(lab, keeper)
    lab.want("vm-head", vcpus=1, timeout_ms=2_000)
    lab.want("vm-waits", vcpus=1, timeout_ms=1_000)

    lab.run()

    assert [each.state.outcome for each in lab.clients.values()] == ["timed-out-alive"] * 2
    assert lab.manager.state.waiting == ()
    assert list(lab.manager.state.vms) == ["keeper"]
    assert lab.left() == []


def test_a_vm_whose_client_is_gone_when_it_is_created_gives_its_places_back() -> None:
    lab = Lab(places=(1,))
    orphan = messages.CreateVm(vm="orphan", scenario=Scenario(vcpus=1, ticker=False))
    ask(lab, orphan, reply_to="client.gone.replies")
    lab.want("vm-next", vcpus=1)

    lab.run()

    assert lab.verdict("vm-next") == Verdict.SAFE
    assert not lab.manager.state.vms


class Asker:
    """Sends commands, and acts on no answer."""

    actor = "lab.asker"

    def __init__(self, commands: tuple[messages.Message, ...], reply_to: str | None) -> None:
        self._commands = commands
        self._reply_to = reply_to

    def initial(self) -> None:
        return None

    def step(self, state: Any, event: Any) -> Any:
        replies = topology.client_replies("asker")
        if isinstance(event, effects.Started):
            return state, (effects.Consume(replies, 1_000), effects.SetTimer("now", 0))
        if isinstance(event, effects.TimerFired):
            return state, tuple(
                effects.Publish(
                    topology.COMMANDS.name,
                    topology.MANAGER_COMMANDS_QUEUE.name,
                    command,
                    mandatory=True,
                    reply_to=self._reply_to or replies.name,
                )
                for command in self._commands
            )
        return state, ()


def ask(lab: Lab, *commands: messages.Message, reply_to: str | None = None) -> None:
    """Have commands sent by somebody who does nothing more, and let the first be taken."""
    lab.world.add(Actor(Asker(commands, reply_to)))
    lab.world.run(lambda: bool(lab.manager.state.vms))
