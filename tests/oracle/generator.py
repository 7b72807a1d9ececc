"""Random orderings and scenarios as plain values, as a YAML reader would return them; seeded.

Odd shapes are wanted: steps twice, a free before the unload, an erase of what is erased, loops in
both directions, loops that leave a step out. Half of the cases are a sound ordering with a few
changes: pure noise rarely gets as far as a flush in the middle of the destruction.
"""

import random
from typing import Any

Plain = dict[str, Any]

VM_STEPS = (
    "stop_background_workers",
    "zap_all_roots",
    "flush_tlbs",
    "free_irqchip",
    "uninit_mmu",
    "vendor_vm_destroy",
)
VCPU_STEPS = (
    "leave_nested",
    "load_vcpu",
    "put_vcpu",
    "clear_async_pf",
    "unload_mmu",
    "zap_all_until_empty",
    "free_vcpu",
    "erase_vcpu",
)
SOUND_BODY = ("clear_async_pf", "load_vcpu", "unload_mmu", "put_vcpu", "free_vcpu", "erase_vcpu")
SOUND_BEGIN = ("stop_background_workers", "zap_all_roots")
SOUND_END = ("free_irqchip", "uninit_mmu", "vendor_vm_destroy")


def ordering(rng: random.Random) -> Plain:
    """Return one ordering; few have loops that destroy several vCPUs at once."""
    steps = _near_sound(rng) if rng.random() < 0.6 else _noise(rng)
    return {
        "name": "random",
        "steps": steps,
        "array": rng.choice(["skip-holes", "skip-holes", "stop-at-hole"]),
        "flush_wait": rng.choice(["in_guest", "in_guest", "all"]),
        "fence": rng.random() < 0.9,
    }


def scenario(rng: random.Random, vcpus_max: int = 4) -> Plain:
    """Return one scenario; the ticker runs in few, as its ticks race with most orderings."""
    vcpus = min(rng.randint(1, vcpus_max), rng.randint(1, vcpus_max) + 1)
    return {
        "vcpus": vcpus,
        "mmu": rng.choice(["shadow", "shadow", "tdp"]),
        "roots": rng.choice(["distinct", "shared", "mixed"]),
        "previous_roots": rng.choice([0, 0, 1, 2, 3]),
        "async_pf": rng.choice([0, 0, 1, 2]),
        "ticker": rng.random() < 0.2,
        "avic": rng.random() < 0.3,
        "nested": _some(rng, vcpus),
        "in_guest": _some(rng, vcpus),
    }


def _some(rng: random.Random, vcpus: int) -> list[int]:
    return [vcpu for vcpu in range(vcpus) if rng.random() < 0.5] if rng.random() < 0.4 else []


def _noise(rng: random.Random) -> list[Any]:
    steps: list[Any] = []
    for _ in range(rng.randint(1, 7)):
        steps.append(rng.choice(VM_STEPS) if rng.random() < 0.5 else _loop(rng, _body(rng)))
    return steps


def _body(rng: random.Random) -> list[str]:
    return [rng.choice(VCPU_STEPS) for _ in range(rng.randint(1, 6))]


def _loop(rng: random.Random, body: list[str]) -> Plain:
    if rng.random() < 0.5:
        return {"for_each_vcpu": body}
    loop: Plain = {"order": rng.choice(["ascending", "descending"]), "steps": body}
    if rng.random() < 0.05:
        loop["parallel"] = rng.choice([2, "all"])
    return {"for_each_vcpu": loop}


def _near_sound(rng: random.Random) -> list[Any]:
    """Cut a sound teardown into one to three passes over the vCPUs, then change a few steps."""
    body = list(SOUND_BODY)
    cuts = sorted(rng.sample(range(1, len(body)), rng.randint(0, 2)))
    passes = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    loops = [_loop(rng, _changed(rng, part, VCPU_STEPS)) for part in passes]
    frame = _changed(rng, [*SOUND_BEGIN, "vcpus", *SOUND_END], VM_STEPS)
    steps: list[Any] = []
    for step in frame:
        steps += loops if step == "vcpus" else [step]
    return steps or loops


def _changed(rng: random.Random, steps: list[str], words: tuple[str, ...]) -> list[str]:
    """Drop, double, swap or insert a step, none to three times; never all of them."""
    steps = list(steps)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        place = rng.randrange(len(steps))
        match rng.choice(["drop", "double", "swap", "insert"]):
            case "drop" if len(steps) > 1:
                steps.pop(place)
            case "double":
                steps.insert(place, steps[place])
            case "swap":
                other = rng.randrange(len(steps))
                steps[place], steps[other] = steps[other], steps[place]
            case _:
                steps.insert(place, rng.choice(words))
    return steps
