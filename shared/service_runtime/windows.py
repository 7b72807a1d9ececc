"""How long a freed vCPU stayed visible: from the events of one manager, vCPU by vCPU.

A manager knows that a vCPU is freed when the worker answers the command that freed it. From then
until the manager erases the vCPU, a request reaches freed memory.
"""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram

from vm_protocol.messages import VcpuStepsDone
from vm_protocol.observations import Event
from vm_protocol.wire import Record

_Vcpu = tuple[str | None, int | None]


@dataclass(frozen=True, slots=True)
class WindowRow:
    """A histogram in seconds of the time from a vCPU's free to its erase."""

    name: str
    help: str
    begin: Event
    end: Event
    buckets: tuple[float, ...]


WINDOW = WindowRow(
    "teardown_freed_while_visible_seconds",
    "From a freeing command's answer until its vCPU is erased: requests reach it meanwhile",
    Event.MESSAGE_RECEIVED,
    Event.VCPU_ERASED,
    # Erased in the same turn it takes well below a millisecond; after all frees, a teardown's time.
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0),
)


class FreedWindow:
    """Follows each vCPU's command that frees, its answer, and the erase."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(
            WINDOW.name, WINDOW.help, buckets=WINDOW.buckets, registry=registry
        )
        self._freeing: dict[_Vcpu, str] = {}
        self._freed_ns: dict[_Vcpu, int] = {}

    def sent(self, record: Record) -> None:
        """Note a command that frees, by its step."""
        if record.details.get("type") != "DestroyVcpu":
            return
        body = record.details["body"]
        if "free_vcpu" in body["steps"]:
            self._freeing[record.vm, record.vcpu] = str(body["step"])

    def received(self, record: Record) -> None:
        """Begin the window when the command that frees is answered."""
        vcpu = (record.vm, record.vcpu)
        step = self._freeing.get(vcpu)
        is_answer = step is not None and record.details.get("type") == "VcpuStepsDone"
        if is_answer and VcpuStepsDone.fields_of(record.message_id or "").get("step") == step:
            del self._freeing[vcpu]
            self._freed_ns[vcpu] = record.at_ns

    def erased(self, record: Record) -> None:
        """End the window; a vCPU that is erased before it is freed has none."""
        vcpu = (record.vm, record.vcpu)
        freed_ns = self._freed_ns.pop(vcpu, None)
        if freed_ns is not None:
            self._histogram.observe(max(0, record.at_ns - freed_ns) / 1e9)

    def removed(self, record: Record) -> None:
        """Forget the vCPUs of a VM that is gone."""
        for known in (self._freeing, self._freed_ns):
            for vcpu in [each for each in known if each[0] == record.vm]:
                del known[vcpu]
