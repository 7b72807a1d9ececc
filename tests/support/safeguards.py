"""The rows of the mutation table (tests/simulation/test_safeguards.py).

A safeguard whose loss nothing can notice in an exploration stands in REDUNDANT: a second one does
the same work. In no table are those that an exploration has no use for, as it has one epoch, one
VM, one incarnation, and begins when that is created: `stale-epoch`, `not-owned`, answers to
placements, the quarantine. The unit tests of the cores hold these.
"""

from dataclasses import dataclass
from typing import Any, Final

from support.exploring import loop, ordering, schedule, shipped
from teardown_lab.explorer.faults import Budget
from teardown_lab.explorer.schedule import Schedule
from vm_protocol.ordering import Ordering
from vm_protocol.scenario import Scenario

Changes = tuple[tuple[str, str], ...]
NO_FAULT, TICK = Budget(), Budget(ticks=1)
TWICE, LATE = Budget(duplicate=1), Budget(hold=1)
QUIET = Scenario(vcpus=2, ticker=False)
TICKING = Scenario(vcpus=2)
PATCH, ALL_FIRST = "unload-in-destroy", "unload-all-first-erase-each"


def quiet(**shape: Any) -> Scenario:
    return QUIET.model_copy(update=shape)


@dataclass(frozen=True)
class Row:
    """Where a safeguard stands and what is changed there; an ordering in which that shows.

    `shown_as` is an invariant or a doubt, met after `steps`. `alone` tells that the real cores are
    safe in that place; where they are not, the row shows that no verdict rests on this refusal.
    """

    place: str
    changes: Changes
    ordering: Ordering | str
    shown_as: str
    steps: int
    faults: Budget = NO_FAULT
    scenario: Scenario = QUIET
    alone: str = "safe"

    def begin(self) -> Schedule:
        return schedule(self.ordering, self.scenario, self.faults)


TAKE = "vcpu_worker.requests:take"
FREE = "vcpu_worker.steps:free_vcpu"
RUN = "vcpu_worker.commands:_run"
COMMAND = "vcpu_worker.worker:VcpuWorker._destroy"
SEEN = "vcpu_worker.vcpu:Vcpu.has_consumed"
LEAVE_GUEST = "vcpu_worker.requests:_leave_guest"
READ = "vm_manager.unloading:read_vm_state"
AWAITS = "vcpu_worker.worker:_what_then"
ERASE = "vm_manager.vm_steps:erase_vcpu"
POST = "vm_manager.requests:post"
UNLOAD = "vm_manager.unloading:unload"
RELEASE = "vm_manager.roots:release"
ZAP = "vm_manager.vm_steps:_zap_shadow"
STOP = "vm_manager.vm_steps:stop_background_workers"
TICK_CANCELLED = "CancelTimer(TimerKind.TICK.of(vm.name)), "
DESTROY = "vm_manager.manager:VmManager._destroy"
ANY_WAIT = ("running.then(", "replace(running, waiting=commands.Wait.UNLOAD).then(")
ANY_PLACE = ("if place and ", "if ")
REACHED = "left.vcpu.consumed < running.awaited"


def awaiting(words: str) -> Changes:
    return ((REACHED, REACHED.replace("running.awaited", words)),)


HIDE_EACH_FIRST = ordering(
    "stop_background_workers",
    "zap_all_roots",
    loop("erase_vcpu", "clear_async_pf", "unload_mmu", "free_vcpu"),
    "free_irqchip",
    "uninit_mmu",
    "vendor_vm_destroy",
)
ZAP_FIRST = ordering(
    "zap_all_roots",
    "stop_background_workers",
    loop("clear_async_pf", "unload_mmu", "free_vcpu", "erase_vcpu"),
    "free_irqchip",
    "uninit_mmu",
    "vendor_vm_destroy",
)

TABLE: Final[dict[str, Row]] = {
    # the fence
    "fence": Row(FREE, ((REACHED, "False"),), PATCH, "use-after-free", 5),
    "fence: the command's generation": Row(
        FREE, awaiting("running.fence"), ALL_FIRST, "use-after-free", 11
    ),
    "fence: the unload's generation": Row(
        FREE, awaiting("running.command.generation"), PATCH, "use-after-free", 9
    ),
    "fence: the larger of both": Row(
        FREE, awaiting("min(running.command.generation, running.fence)"), PATCH, "use-after-free", 9
    ),
    "fence: the answer is kept": Row(
        "vcpu_worker.worker:VcpuWorker._answered",
        (("max(vcpu.running.fence, fence)", "0"),),
        PATCH,
        "use-after-free",
        9,
    ),
    "fence: only what is routed to this mailbox": Row(
        POST, ((" if slot.bound else slot", ""),), HIDE_EACH_FIRST, "stuck", 15
    ),
    "fence: consumed without a gap": Row(
        "vcpu_worker.vcpu:Vcpu.consume",
        (("consumed, ahead = self.consumed", "consumed, ahead = max(self.consumed, generation)"),),
        PATCH,
        "use-after-free",
        10,
        LATE,
    ),
    # the tombstone
    "tombstone": Row(
        TAKE,
        (("    if vcpu.freed:", "    if False:"),),
        "unload-in-destroy-wipe-last",
        "use-after-free",
        13,
        alone="violated",
    ),
    "tombstone: what was consumed": Row(
        SEEN,
        (("return ", "return not self.freed and ("), ("self.ahead", "self.ahead)")),
        PATCH,
        "unfounded-reject",
        11,
        TWICE,
    ),
    "tombstone: at or below": Row(SEEN, (("<=", "<"),), PATCH, "unfounded-reject", 11, TWICE),
    "tombstone: what was consumed out of order": Row(
        SEEN,
        ((" or generation in self.ahead", ""),),
        shipped(PATCH, fence=False),
        "unfounded-reject",
        8,
        Budget(hold=1, duplicate=1),
        alone="violated",
    ),
    "tombstone: commands": Row(
        RUN,
        (("if vcpu.freed:", "if False:"),),
        ordering(loop("free_vcpu"), loop("unload_mmu")),
        "use-after-free",
        6,
        alone="violated",
    ),
    "tombstone: a second free": Row(
        RUN,
        (("if vcpu.freed:", "if False:"),),
        ordering(loop("free_vcpu"), loop("free_vcpu")),
        "double-free",
        6,
        alone="violated",
    ),
    "tombstone: completions": Row(
        "vcpu_worker.worker:VcpuWorker._complete_fault",
        (("if vcpu.freed:", "if False:"),),
        "async-pf-not-cleared",
        "use-after-free",
        10,
        scenario=quiet(async_pf=1),
        alone="violated",
    ),
    # idempotence
    "idempotence: a finished command": Row(
        COMMAND,
        (("vcpu.outcome_of(event.message_id)", "None"),),
        PATCH,
        "use-after-free",
        11,
        TWICE,
    ),
    "idempotence: a running command": Row(
        COMMAND, (("if vcpu.running is None:", "if True:"),), PATCH, "use-after-free", 10, TWICE
    ),
    "idempotence: an answer that nobody awaits": Row(
        AWAITS, (ANY_WAIT, ANY_PLACE), PATCH, "leak", 16, TWICE
    ),
    "idempotence: RootsReleased": Row(
        UNLOAD, (("if released.doomed:", "if True:"),), PATCH, "use-after-free", 13, TWICE
    ),
    "idempotence: VcpuStepsDone": Row(
        "vm_manager.interpreter:part_done",
        (('index == vcpu and f"{_position(vm)}.{part}" == path', "index == vcpu"),),
        ALL_FIRST,
        "leak",
        19,
        TWICE,
    ),
    "idempotence: DestroyVm": Row(
        DESTROY,
        (('vm.phase == "destroying" and vm.teardown is not None', "False"),),
        PATCH,
        "use-after-free",
        12,
        TWICE,
    ),
    "idempotence: DestroyVm after the end": Row(
        DESTROY, (('vm.phase in ("freed", "stuck")', "False"),), PATCH, "double-free", 26, TWICE
    ),
    "idempotence: VmStateRead": Row(
        READ,
        (("if message.identity() in vm.reads:", "if False:"),),
        PATCH,
        "vm-state-used-after-free",
        23,
        TWICE,
        quiet(nested=(0,)),
    ),
    # the array and its recipients
    "erase per vCPU": Row(
        ERASE, (("if not slot.present:", "if True:"),), PATCH, "use-after-free", 13
    ),
    "erase unbinds": Row(
        ERASE, (("effects.append(Unbind(vm.mailbox(vcpu)))", "pass"),), PATCH, "use-after-free", 13
    ),
    "recipients: all that are visible": Row(
        POST, (("vm.visible()", "vm.visible()[:-1]"),), PATCH, "lost-request", 1
    ),
    "recipients: only who is visible": Row(
        POST,
        (("recipients=recipients\n", "recipients=tuple(range(len(vm.slots)))\n"),),
        PATCH,
        "unaccounted",
        12,
    ),
    "recipients: nobody behind a hole": Row(
        "vm_manager.vm:Vm.visible",
        (("slot.bound", "slot.present"),),
        "unload-in-destroy-stop-at-hole",
        "unaccounted",
        12,
        alone="violated",
    ),
    "a generation for each request": Row(
        POST, (("vm.generation + 1", "max(vm.generation, 1)"),), PATCH, "use-after-free", 6
    ),
    # roots and guests
    "zap: roots become invalid": Row(
        ZAP, (("replace(root, invalid=True)", "root"),), PATCH, "leak", 17
    ),
    "zap: the flush": Row(
        ZAP,
        (('requests.flush_tlb(vm, "zap-all")', "(vm, (), frozenset())"),),
        ZAP_FIRST,
        "stale-tlb",
        1,
        scenario=quiet(in_guest=(0,)),
    ),
    "flush: vCPUs in guest are waited for": Row(
        "vm_manager.requests:in_guest",
        (("if vcpu in vm.in_guest", "if False"),),
        PATCH,
        "stale-tlb",
        1,
        scenario=quiet(in_guest=(0,)),
    ),
    "flush: the guest is left, its TLB dropped": Row(
        LEAVE_GUEST,
        (("if vcpu.tlb and", "if False and"), ("if vcpu.in_guest:", "if False:")),
        PATCH,
        "stale-tlb",
        3,
        scenario=quiet(in_guest=(0,)),
    ),
    "unload: pins are dropped": Row(
        UNLOAD,
        (
            (
                "roots.release(vm.name, vm.roots, message.vcpu, context, names)",
                "roots.Released(vm.roots, (), ())",
            ),
        ),
        PATCH,
        "pinned-root-freed",
        17,
    ),
    "unload: no pins but one's own": Row(
        RELEASE,
        ((" and (pin.vcpu, pin.context) == (vcpu, context)", ""),),
        PATCH,
        "pinned-root-freed",
        3,
        scenario=quiet(roots="shared"),
    ),
    "flush: the guest is left": Row(
        LEAVE_GUEST,
        (("replace(vcpu, in_guest=False)", "vcpu"),),
        PATCH,
        "freed-while-running",
        10,
        scenario=quiet(in_guest=(0,)),
    ),
    # the rest of the VM
    "the ticker is stopped": Row(
        STOP,
        (("replace(vm, background=False)", "vm"), (TICK_CANCELLED, "")),
        PATCH,
        "use-after-free",
        11,
        TICK,
        TICKING,
    ),
    "reads of freed VM state": Row(
        READ,
        (("    if gone:", "    if False:"),),
        "vm-state-before-vcpus",
        "vm-state-used-after-free",
        11,
        scenario=quiet(nested=(0,)),
        alone="violated",
    ),
    "a command at its delivery limit is stuck": Row(
        "vm_manager.manager:VmManager._reply",
        (
            (
                'self._stuck(state, message, f"delivery limit reached{lost}", ack)',
                "(state, (ack,))",
            ),
        ),
        "zap-all-per-vcpu",
        "stuck",
        67,
        alone="violated",
    ),
}

UNCONFIRMED: Final = {
    "a generation for each request": "different requests carry one id",
    "idempotence: VmStateRead": "the history shows no free before it",
    "flush: the guest is left": "the checker sees no such violation",
    "fence: consumed without a gap": "when it came first is not in the history",
    "idempotence: an answer that nobody awaits": "without its vcpu.freed",
    "idempotence: DestroyVm": "the history shows no free before it",
    "idempotence: DestroyVm after the end": "began 2 times in the history",
    "zap: roots become invalid": "is not recorded",
    "zap: the flush": "raised 2 of 3 requests",
    "flush: the guest is left, its TLB dropped": "guest.left is not in the history",
    "unload: pins are dropped": "is not recorded",
    "unload: no pins but one's own": "are not those that it recorded",
}
"""Where a core's state and its records part, a record is missing that the others ask for, or two
messages cannot be told apart, the checker does not confirm what the explorer saw: it cannot tell a
faulty core from a damaged history. The verdict says so, and is inconclusive, never safe."""

REDUNDANT: Final[dict[str, Row]] = {
    "the ticker's timer (a late tick finds the background stopped)": Row(
        STOP, ((TICK_CANCELLED, ""),), PATCH, "safe", 0, TICK, TICKING
    ),
    "the ticker's flag (its timer is gone)": Row(
        STOP, (("replace(vm, background=False)", "vm"),), PATCH, "safe", 0, TICK, TICKING
    ),
    "the larger of both, with an answer (it is never older than its command)": Row(
        FREE, awaiting("(running.fence or running.command.generation)"), PATCH, "safe", 0
    ),
    "the fence, looked at when a request comes (the free looks again)": Row(
        "vcpu_worker.commands:after_consuming", (("running.awaited", "0"),), PATCH, "safe", 0
    ),
    "an answer's place (only one is ever awaited, as roots are given up once)": Row(
        AWAITS, (ANY_PLACE,), PATCH, "safe", 0, TWICE
    ),
    "what a command waits for (each place has one answer)": Row(
        AWAITS, (ANY_WAIT,), PATCH, "safe", 0, TWICE
    ),
    "pins that a repeated RootsReleased drops (a doomed root has left the table)": Row(
        RELEASE, (("bool(dropped) and ", ""),), PATCH, "safe", 0, TWICE
    ),
    "the TLB that is dropped (the guest is left)": Row(
        LEAVE_GUEST,
        (("replace(vcpu, tlb=())", "vcpu"),),
        PATCH,
        "safe",
        0,
        scenario=quiet(in_guest=(0,)),
    ),
    "a repeated request acknowledged again (a handler and its publishes are atomic)": Row(
        TAKE, (("duplicated, *settled", "duplicated, settled[-1]"),), PATCH, "safe", 0, TWICE,
        quiet(in_guest=(0,)),
    ),
    "one answer to a repeated RootsReleased that waits (no invariant forbids two)": Row(
        UNLOAD,
        (("any(_is_for(wait, message) for wait in vm.waits)", "False"),),
        shipped(PATCH, flush_wait="all"),
        "safe",
        0,
        TWICE,
        quiet(in_guest=(0,)),
    ),
}  # fmt: skip
