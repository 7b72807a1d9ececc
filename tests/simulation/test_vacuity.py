"""Why no unload raised a flush: the sentence is true of the history that it stands above."""

import pytest
from support.broken_orderings import steps
from support.simulated import run

from vm_manager.catalogue import read_ordering
from vm_protocol.scenario import Scenario

BODY = "- for_each_vcpu: [unload_mmu, free_vcpu, erase_vcpu]"
SAID = {
    "a zap-all that comes when no root is left": (
        steps("- stop_background_workers", "- uninit_mmu", "- zap_all_roots", BODY),
        Scenario(),
        "no-zap",
        "no unload raised a flush: `zap_all_roots`, line 5, came when no root was left, so it made "
        "none invalid",
    ),
    "a zap-all after the unloads": (
        steps(BODY, "- zap_all_roots"),
        Scenario(roots="shared"),
        "no-zap",
        "no unload raised a flush: `zap_all_roots`, line 4, came after the unloads, so no root was "
        "invalid at theirs",
    ),
    "no zap-all": (
        steps(BODY),
        Scenario(),
        "no-zap",
        "no unload raised a flush: no zap-all came, so no root was invalid",
    ),
    "pinned roots that nobody unloads": (
        steps("- zap_all_roots", "- for_each_vcpu: [free_vcpu, erase_vcpu]", "- uninit_mmu"),
        Scenario(),
        "no-root",
        "no unload raised a flush: the ordering has no `unload_mmu`",
    ),
    "TDP": (
        steps("- zap_all_roots", BODY),
        Scenario(mmu="tdp"),
        "tdp",
        "no unload raised a flush: a TDP root never causes one",
    ),
    "nobody visible": (
        steps("- zap_all_roots", "- for_each_vcpu: [erase_vcpu]", BODY),
        Scenario(),
        "nobody-visible",
        "the flushes of the unloads reached nobody: every vCPU was erased by then",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_the_sentence_on_vacuity_says_what_the_history_shows(name: str) -> None:
    text, scenario, why, sentence = SAID[name]
    quiet = scenario.model_copy(update={"ticker": False})

    vacuity = run(read_ordering(text, "own.yaml").ordering, quiet).judgement.vacuity

    assert vacuity is not None
    assert (str(vacuity.why), vacuity.text) == (why, sentence)
