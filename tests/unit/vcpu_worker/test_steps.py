"""Each worker-side step, alone."""

import pytest
from support.cores import acts, said, sent
from support.worker_bench import (
    COMMANDS,
    REPLIES,
    ROOTS,
    WorkerBench,
    answered,
    command,
    flush,
    rejected,
    to_manager,
    unload_done,
    zap_done,
)

from vcpu_worker.steps import STEPS
from vm_protocol import messages
from vm_protocol.effects import Ack, CancelTimer, Publish, Reject, SetTimer
from vm_protocol.errors import RejectReason
from vm_protocol.messages import Message
from vm_protocol.observations import Event
from vm_protocol.ordering import WORKER_STEPS, WorkerStep

VM = "vm-0"
NOTHING = ((), ())


def test_the_table_has_every_word_of_the_language() -> None:
    assert set(STEPS) == set(WORKER_STEPS)


def state_read(state: str, position: int = 0) -> Message:
    return messages.VmStateRead.model_validate(
        {"vm": VM, "vcpu": 0, "step": "3.0", "position": position, "state": state}
    )


def released(position: int = 0, contexts: object = ROOTS) -> Message:
    return messages.RootsReleased.model_validate(
        {"vm": VM, "vcpu": 0, "step": "3.0", "position": position, "contexts": contexts}
    )


def zap(attempt: int, contexts: object) -> Message:
    return messages.ZapRequested.model_validate(
        {
            "vm": VM,
            "vcpu": 0,
            "step": "3.0",
            "position": 0,
            "attempt": attempt,
            "contexts": contexts,
        }
    )


@pytest.mark.parametrize("step", ["leave_nested", "load_vcpu", "put_vcpu", "clear_async_pf"])
def test_a_step_without_anything_to_do_is_only_said(step: WorkerStep) -> None:
    bench = WorkerBench()
    order = command(step)

    effects = bench.command(order)

    assert acts(effects) == answered(order)
    assert said(effects) == [
        {"event": "step.started", "vcpu": 0, "name": step},
        {"event": "step.finished", "vcpu": 0, "name": step},
    ]


def test_leaving_a_nested_guest_reads_the_irqchip_once() -> None:
    bench = WorkerBench(nested=True)
    order = command("leave_nested", "leave_nested")

    effects = bench.command(order)

    assert acts(effects) == [to_manager(state_read("irqchip"), order), *answered(order)]
    assert not bench.vcpu.nested


def test_with_avic_every_load_and_put_touches_the_vendor_s_state() -> None:
    bench = WorkerBench(avic=True)
    order = command("load_vcpu", "put_vcpu")

    effects = bench.command(order)

    assert acts(effects) == [
        to_manager(state_read("vendor", 0), order),
        to_manager(state_read("vendor", 1), order),
        *answered(order),
    ]


def test_clearing_async_faults_completes_each_and_leaves_none() -> None:
    bench = WorkerBench(async_pf=2)
    order = command("clear_async_pf", "free_vcpu")

    effects = bench.command(order)

    assert acts(effects) == answered(order)
    assert said(effects, Event.ASYNC_PF_COMPLETED) == [
        {"event": "async_pf.completed", "vcpu": 0, "fault": 0, "how": "cleared"},
        {"event": "async_pf.completed", "vcpu": 0, "fault": 1, "how": "cleared"},
    ]


def test_faults_that_were_not_cleared_complete_into_freed_memory() -> None:
    bench = WorkerBench(async_pf=2)
    order = command("free_vcpu")
    faults = [messages.AsyncPfCompleted(vm=VM, vcpu=0, fault=fault) for fault in (0, 1)]

    effects = bench.command(order)
    completed = [acts(bench.take(fault, COMMANDS, epoch=0)) for fault in faults]

    published = [Publish("async-pf", COMMANDS, fault, mandatory=True) for fault in faults]
    assert acts(effects) == [*published, *answered(order)]
    assert completed == [
        [Reject(COMMANDS, fault.identity(), RejectReason.FREED)] for fault in faults
    ]


def test_a_fault_that_completes_into_a_live_vcpu_does_no_harm() -> None:
    bench = WorkerBench()
    fault = messages.AsyncPfCompleted(vm=VM, vcpu=0, fault=0)

    effects = bench.take(fault, COMMANDS, epoch=0)

    assert acts(effects) == [Ack(COMMANDS, fault.identity())]
    assert said(effects) == [{"event": "async_pf.completed", "vcpu": 0, "fault": 0, "how": "late"}]


def test_unload_forgets_the_roots_tells_the_manager_and_waits_for_its_answer() -> None:
    bench = WorkerBench()
    order = command("unload_mmu")

    begun = bench.command(order)
    forgotten = bench.vcpu.contexts
    ended = bench.reply(unload_done())

    assert acts(begun) == [to_manager(released(), order, REPLIES)]
    assert forgotten == NOTHING
    assert acts(ended) == [*answered(order), Ack(REPLIES, unload_done().identity())]


def test_unload_with_no_root_left_sends_nothing_and_waits_for_nothing() -> None:
    bench = WorkerBench()
    bench.command(command("unload_mmu"))
    bench.reply(unload_done())
    again = command("unload_mmu", step="4.0")

    effects = bench.command(again)

    assert acts(effects) == answered(again)
    assert sent(effects)[0].type == "VcpuStepsDone"


@pytest.mark.parametrize(
    "stale",
    [
        unload_done(step="2.0"),
        unload_done(position=1),
        zap_done(0),
        messages.UnloadDone(vm=VM, vcpu=1, step="3.0", position=0, generation=0),
    ],
    ids=["another step", "another position", "another kind", "another vCPU"],
)
def test_an_answer_that_is_not_waited_for_is_acknowledged_and_ignored(stale: Message) -> None:
    bench = WorkerBench()
    bench.command(command("unload_mmu"))
    before = bench.state

    effects = bench.reply(stale)

    assert effects == (Ack(REPLIES, stale.identity()),)
    assert bench.state == before


def test_an_answer_on_the_commands_queue_is_unexpected() -> None:
    bench = WorkerBench()
    bench.command(command("unload_mmu"))
    before = bench.state

    effects = bench.take(unload_done(), COMMANDS)

    refusal = Reject(COMMANDS, unload_done().identity(), RejectReason.UNEXPECTED)
    assert (effects, bench.state) == ((refusal,), before)


def test_zap_until_empty_requeues_the_command_until_no_root_is_left() -> None:
    bench = WorkerBench()
    order = command("zap_all_until_empty")
    requeue = Reject(COMMANDS, order.identity(), RejectReason.ROOTS_PINNED, requeue=True)

    first = bench.command(order)
    left = bench.reply(zap_done(2))
    second = bench.command(order)
    ended = bench.reply(zap_done(0, attempt=2))

    assert acts(first) == [to_manager(zap(1, ROOTS), order, REPLIES)]
    assert acts(left) == [requeue, Ack(REPLIES, zap_done(2).identity())]
    assert acts(second) == [to_manager(zap(2, NOTHING), order, REPLIES)]
    assert acts(ended) == [*answered(order), Ack(REPLIES, zap_done(0, attempt=2).identity())]
    names = [each["event"] for each in said((*first, *left, *second, *ended))]
    assert names == ["step.started", "step.finished"]


@pytest.mark.parametrize("roots_left", [0, 1])
def test_the_answer_to_an_earlier_zap_is_ignored(roots_left: int) -> None:
    bench = WorkerBench()
    bench.command(command("zap_all_until_empty"))
    bench.reply(zap_done(1))
    bench.command(command("zap_all_until_empty"))
    before = bench.state

    effects = bench.reply(zap_done(roots_left))

    assert (effects, bench.state) == ((Ack(REPLIES, zap_done(0).identity()),), before)


def test_an_answer_while_the_command_is_requeued_is_ignored() -> None:
    bench = WorkerBench()
    bench.command(command("zap_all_until_empty"))
    bench.reply(zap_done(1))
    before = bench.state

    effects = bench.reply(zap_done(0, attempt=2))

    assert (effects, bench.state) == ((Ack(REPLIES, zap_done(0, attempt=2).identity()),), before)


def test_a_free_leaves_the_nested_guest_first_and_says_the_generation_it_has_consumed() -> None:
    bench = WorkerBench(nested=True)
    bench.request(flush(1))
    order = command("free_vcpu", generation=1)

    effects = bench.command(order)

    assert acts(effects) == [to_manager(state_read("irqchip"), order), *answered(order)]
    assert said(effects, Event.VCPU_FREED) == [{"event": "vcpu.freed", "vcpu": 0, "generation": 1}]
    assert (bench.vcpu.freed, bench.vcpu.nested, bench.vcpu.contexts) == (True, False, NOTHING)


def test_a_free_that_waits_leaves_its_nested_guest_only_once() -> None:
    bench = WorkerBench(nested=True)
    order = command("free_vcpu", generation=1)

    waiting = bench.command(order)
    ended = bench.request(flush(1))

    assert acts(waiting) == [
        to_manager(state_read("irqchip"), order),
        SetTimer("fence/vcpu.vm-0.0.1", 500, quiet=True),
    ]
    assert acts(ended) == [
        Ack("vcpu.vm-0.0.1", flush(1).identity()),
        CancelTimer("fence/vcpu.vm-0.0.1"),
        *answered(order),
    ]


@pytest.mark.parametrize("step", [step for step in WORKER_STEPS if step != "free_vcpu"])
def test_a_step_on_a_freed_vcpu_is_refused_once_for_the_whole_command(step: WorkerStep) -> None:
    bench = WorkerBench()
    bench.freed()
    order = command(step, "free_vcpu", "unload_mmu")

    effects = bench.command(order)

    assert effects == tuple(rejected(order, RejectReason.FREED))


def test_a_second_free_is_a_double_free() -> None:
    bench = WorkerBench()
    bench.freed()
    order = command("free_vcpu", "unload_mmu")

    effects = bench.command(order)

    assert effects == tuple(rejected(order, RejectReason.DOUBLE_FREE))


def test_a_second_free_in_one_command_is_a_double_free_after_the_first() -> None:
    bench = WorkerBench()
    order = command("free_vcpu", "free_vcpu")

    effects = bench.command(order)

    assert acts(effects) == rejected(order, RejectReason.DOUBLE_FREE)
    assert len(said(effects, Event.VCPU_FREED)) == 1


def test_steps_of_one_command_run_in_their_order_and_one_after_the_other() -> None:
    bench = WorkerBench(async_pf=1)
    order = command("clear_async_pf", "unload_mmu", "free_vcpu")

    begun = bench.command(order)
    ended = bench.reply(unload_done(position=1))

    assert [each["event"] for each in said(begun)] == [
        "step.started",
        "async_pf.completed",
        "step.finished",
        "step.started",
    ]
    assert [each["event"] for each in said(ended)] == [
        "step.finished",
        "step.started",
        "vcpu.freed",
        "step.finished",
    ]
    assert acts(begun) == [to_manager(released(position=1), order, REPLIES)]
