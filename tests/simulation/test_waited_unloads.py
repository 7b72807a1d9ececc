"""An answer to an unload may wait for a flush while others post requests; its fence is its own."""

from support.exploring import loop, ordering
from support.simulated import run

from teardown_lab.checker.history import History
from teardown_lab.checker.verdict import judge
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario
from vm_protocol.wire import Record

UNLOADS_AT_ONCE = ordering(
    "stop_background_workers",
    "zap_all_roots",
    loop("load_vcpu", "clear_async_pf"),
    loop("unload_mmu", parallel="all"),
    loop("put_vcpu", "free_vcpu", "erase_vcpu"),
    "free_irqchip",
    "uninit_mmu",
    "vendor_vm_destroy",
    flush_wait="all",
)
SCENARIO = Scenario(vcpus=3, ticker=False, roots="mixed", previous_roots=2, in_guest=(2,))


def test_unloads_that_wait_beside_each_other_come_to_a_verdict() -> None:
    judgement = run(UNLOADS_AT_ONCE, SCENARIO, workers=2).judgement

    assert (judgement.verdict, judgement.notes) == ("safe", ())


def test_an_answer_that_waited_with_a_fence_that_is_not_its_own_is_told() -> None:
    found = run(UNLOADS_AT_ONCE, SCENARIO, workers=2)
    waited = [each for each in found.records if _is_late_answer(each)]
    assert waited, "no answer was sent by what ended its wait"

    for answer in waited:
        body = {**answer.details["body"], "generation": answer.details["body"]["generation"] + 1}
        forged = answer.model_copy(update={"details": {**answer.details, "body": body}})
        judgement = judge(
            History.of([forged if each is answer else each for each in found.records])
        )

        assert judgement.verdict == "inconclusive"
        assert any(f"{answer.message_id} names another fence" in each for each in judgement.notes)


def _is_late_answer(record: Record) -> bool:
    is_answer = record.event is Event.MESSAGE_SENT and record.details.get("type") == "UnloadDone"
    return is_answer and "/roots-released/" not in (record.caused_by or "")
