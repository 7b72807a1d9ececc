"""What a core's records let the explorer see inside a step: one function for each event."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from teardown_lab.checker.invariants_state import FREED_BY, STOPPED_BY
from teardown_lab.explorer.cast import VM
from teardown_lab.explorer.findings import TO_NOBODY, UNLOAD_FLUSHED, Finding
from teardown_lab.explorer.operations import (
    FIND,
    PAGE,
    RAISED,
    STARTED,
    VM_FREED,
    WITNESS,
    Operation,
)
from vm_protocol import messages
from vm_protocol.effects import Observed
from vm_protocol.invariants import Invariant
from vm_protocol.observations import Event


@dataclass(slots=True)
class Scene:
    """A core's state after the step, and what is gone in the middle of it.

    `erased` are vCPUs, `gone` is VM-level state, `freed` and `inside` (its guest) tell of the
    worker's vCPU, its `owner` if it is a worker's step. `holders` are those who pinned each root
    when the VM was created; `robbed` are vCPUs whose pins on a root went although the message came
    from another, the `asker`.
    """

    after: Any
    erased: set[int]
    holders: dict[str, set[int]]
    gone: set[str]
    freed: bool = False
    inside: bool = False
    asker: int | None = None
    owner: int | None = None
    robbed: dict[str, set[int]] = field(default_factory=dict)


def nothing(_effect: Observed, _scene: Scene) -> list[Operation]:
    """Return what an event lets the explorer see that is not in the table: nothing."""
    return []


def _vcpu_erased(effect: Observed, scene: Scene) -> list[Operation]:
    scene.erased |= set() if effect.vcpu is None else {effect.vcpu}
    return []


def _vcpu_freed(effect: Observed, scene: Scene) -> list[Operation]:
    """Note a free; the core's own refusal of a second one is not relied upon."""
    again, scene.freed = scene.freed, True
    if again:
        return [(FIND, _on_vcpu(Invariant.DOUBLE_FREE, effect))]
    return [(FIND, _on_vcpu(Invariant.FREED_WHILE_RUNNING, effect))] if scene.inside else []


def _guest_left(_effect: Observed, scene: Scene) -> list[Operation]:
    scene.inside = False
    return []


def _step_started(effect: Observed, scene: Scene) -> list[Operation]:
    name = dict(effect.details)["name"]
    erased = effect.vcpu if name == "erase_vcpu" else None
    started: Operation = (STARTED, scene.owner, scene.freed, erased)
    if not scene.freed or effect.vcpu is None:
        return [started]
    broken = Invariant.DOUBLE_FREE if name == "free_vcpu" else Invariant.USE_AFTER_FREE
    return [started, (FIND, _on_vcpu(broken, effect))]


def _fault_completed(effect: Observed, scene: Scene) -> list[Operation]:
    return [(FIND, _on_vcpu(Invariant.USE_AFTER_FREE, effect))] if scene.freed else []


def _on_vcpu(invariant: str, effect: Observed) -> Finding:
    vcpu = -1 if effect.vcpu is None else effect.vcpu
    return Finding(invariant, vcpu, message=effect.message_id or "")


def _state_freed(effect: Observed, scene: Scene) -> list[Operation]:
    state = str(dict(effect.details)["state"])
    again = state in scene.gone
    scene.gone.add(state)
    return [(FIND, Finding(Invariant.DOUBLE_FREE, -1, message=state))] if again else []


def _state_read(effect: Observed, scene: Scene) -> list[Operation]:
    if dict(effect.details)["state"] not in scene.gone:
        return []
    return [(FIND, _on_vcpu(Invariant.VM_STATE_USED_AFTER_FREE, effect))]


def _raised(effect: Observed, scene: Scene) -> list[Operation]:
    details = dict(effect.details)
    recipients = details["recipients"]
    assert isinstance(recipients, tuple), "a request's recipients are a tuple"
    everybody = range(len(scene.after.vms[VM].slots))
    missed = tuple(v for v in everybody if v not in scene.erased and v not in recipients)
    operations: list[Operation] = [(RAISED, missed, effect.message_id or "")]
    if details["kind"] == messages.TLB_FLUSH and not recipients:
        operations.append((FIND, _on_vcpu(TO_NOBODY, effect)))
    if details["kind"] == messages.TLB_FLUSH and details["by"] == "unload" and recipients:
        operations.append((WITNESS, UNLOAD_FLUSHED))
    return operations


def _root_unpinned(effect: Observed, scene: Scene) -> list[Operation]:
    if effect.vcpu is not None and scene.asker not in (None, effect.vcpu):
        scene.robbed.setdefault(str(dict(effect.details)["root"]), set()).add(effect.vcpu)
    return []


def _root_freed(effect: Observed, scene: Scene) -> list[Operation]:
    details = dict(effect.details)
    pins = details["pins"]
    assert isinstance(pins, tuple), "a root's pins are a tuple"
    held = {int(str(pin).partition(".")[0]) for pin in pins}
    held |= scene.robbed.get(str(details["root"]), set())
    if not held:
        return []
    vcpu = _only(held)
    return [(FIND, Finding(Invariant.PINNED_ROOT_FREED, vcpu, message=str(details["root"])))]


def _vm_freed(_effect: Observed, scene: Scene) -> list[Operation]:
    vm = scene.after.vms[VM]
    found = [_of_root(Invariant.LEAK, scene, root.name) for root in vm.roots]
    mapped = (page.root for page in vm.pages if page.mapped)
    found += [_of_root(Invariant.MEMORY_MAPPED, scene, root) for root in mapped]
    left = (state for state in FREED_BY if state not in scene.gone)
    found += [Finding(Invariant.LEAK, -1, message=state) for state in left]
    assert vm.teardown is not None, "a VM is freed by its teardown"
    if STOPPED_BY not in vm.teardown.ordering.steps:  # all of which have run
        found.append(Finding(Invariant.VM_STATE_USED_AFTER_FREE, -1, message="vm"))
    given_back = [(PAGE, page.root) for page in vm.pages]
    return [*((FIND, each) for each in found), *given_back, (VM_FREED,)]


def _of_root(invariant: str, scene: Scene, root: str) -> Finding:
    return Finding(invariant, _only(scene.holders[root]), message=root)


def _only(vcpus: set[int]) -> int:
    """Return the vCPU that a root's violation is about: its only holder, or none."""
    return next(iter(vcpus)) if len(vcpus) == 1 else -1


def _stuck(effect: Observed, _scene: Scene) -> list[Operation]:
    return [(FIND, Finding(Invariant.STUCK, -1 if effect.vcpu is None else effect.vcpu))]


def _page_freed(effect: Observed, _scene: Scene) -> list[Operation]:
    return [(PAGE, dict(effect.details)["root"])]


OBSERVED: Final[dict[Event, Callable[[Observed, Scene], list[Operation]]]] = {
    Event.VCPU_ERASED: _vcpu_erased,
    Event.VCPU_FREED: _vcpu_freed,
    Event.GUEST_LEFT: _guest_left,
    Event.STEP_STARTED: _step_started,
    Event.ASYNC_PF_COMPLETED: _fault_completed,
    Event.VM_STATE_FREED: _state_freed,
    Event.VM_STATE_READ: _state_read,
    Event.REQUEST_POSTED: _raised,
    Event.ROOT_UNPINNED: _root_unpinned,
    Event.ROOT_FREED: _root_freed,
    Event.VM_FREED: _vm_freed,
    Event.TEARDOWN_STUCK: _stuck,
    Event.PAGE_FREED: _page_freed,
}
