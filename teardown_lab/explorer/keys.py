"""What schedules call their deliveries: `destroy-vcpu/0/3.1`, `request/2@1` to vCPU 1; pure."""

from dataclasses import dataclass

from vm_protocol.message_ids import name_in_vm
from vm_protocol.timers import parse_timer
from vm_protocol.topology import parse_mailbox


@dataclass(frozen=True, slots=True)
class DeliveryKey:
    """A delivery of the one VM: its message's name, and the vCPU whose mailbox it lies in."""

    name: str
    recipient: int | None = None

    def __str__(self) -> str:
        return self.name if self.recipient is None else f"{self.name}@{self.recipient}"


def delivery_key(message_id: str, queue: str) -> str:
    """Return the key of a message's delivery from a queue."""
    mailbox = parse_mailbox(queue)
    return str(DeliveryKey(name_in_vm(message_id), mailbox.vcpu if mailbox else None))


def timer_key(name: str) -> str:
    """Return the key of a timer: what it is for, and with a vCPU's fence its vCPU (`fence@1`)."""
    timer = parse_timer(name)
    mailbox = parse_mailbox(timer.about)
    return str(DeliveryKey(timer.kind, mailbox.vcpu if mailbox else None))


def parse_delivery_key(text: str) -> DeliveryKey:
    """Return the delivery that a key stands for."""
    name, at, vcpu = text.partition("@")
    return DeliveryKey(name, int(vcpu) if at else None)
