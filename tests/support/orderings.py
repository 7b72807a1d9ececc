"""Random orderings and scenarios: any steps, any order, several loops. Nonsense is welcome."""

from hypothesis import strategies as st

from vm_protocol.ordering import VCPU_STEPS, VM_STEPS, ForEachVcpu, Loop, Ordering
from vm_protocol.scenario import Scenario

_vcpu_steps = st.lists(st.sampled_from(VCPU_STEPS), min_size=1, max_size=6).map(tuple)


@st.composite
def loops(draw: st.DrawFn, racy: bool) -> ForEachVcpu:
    bounds: list[int | str] = [1, 2, "all"] if racy else [1]
    parallel = draw(st.sampled_from(bounds))
    order = draw(st.sampled_from(["ascending", "descending"]))
    steps = draw(_vcpu_steps)
    return ForEachVcpu(
        for_each_vcpu=Loop.model_validate({"order": order, "parallel": parallel, "steps": steps})
    )


@st.composite
def orderings(draw: st.DrawFn, racy: bool = False) -> Ordering:
    """Return an ordering; without `racy`, one whose runs all end alike."""
    step = st.one_of(st.sampled_from(VM_STEPS), loops(racy))
    steps = draw(st.lists(step, min_size=1, max_size=7))
    return Ordering.model_validate(
        {
            "name": "random",
            "array": draw(st.sampled_from(["skip-holes", "stop-at-hole"])),
            "fence": draw(st.booleans()) if racy else True,
            "steps": tuple(steps),
        }
    )


@st.composite
def scenarios(draw: st.DrawFn, racy: bool = False, vcpus_max: int = 4) -> Scenario:
    """Return a scenario; without `racy`, one without the ticker."""
    vcpus = draw(st.integers(1, vcpus_max))
    nested = draw(st.sets(st.integers(0, vcpus - 1), max_size=2))
    return Scenario(
        vcpus=vcpus,
        mmu=draw(st.sampled_from(["shadow", "tdp"])),
        roots=draw(st.sampled_from(["distinct", "shared", "mixed"])),
        previous_roots=draw(st.integers(0, 2)),
        async_pf=draw(st.integers(0, 2)),
        avic=draw(st.booleans()),
        nested=tuple(sorted(nested)),
        ticker=draw(st.booleans()) if racy else False,
        ticker_ms=5,
        fence_ms=500,
    )
