"""What lies in the stage's queues: messages in envelopes; and what a crash counts of a plan."""

from dataclasses import dataclass

from teardown_lab.explorer.cast import CLIENT
from teardown_lab.explorer.keys import delivery_key
from vm_protocol import effects, messages
from vm_protocol.actor import Action
from vm_protocol.recorder import Cause, Send, cause_of
from vm_protocol.wire import Envelope


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message in a queue; `arrival` orders all messages of the stage.

    `entry` and `ended` are what its sender says of epochs (Received), as in the model's letters.
    """

    message: messages.Message
    envelope: Envelope
    publish: effects.Publish
    queue: str
    arrival: int
    returns: int = 0
    entry: int = 0
    ended: tuple[tuple[int, int], ...] = ()

    @property
    def key(self) -> str:
        """Return the key of this delivery."""
        return delivery_key(self.envelope.message_id, self.queue)

    def received(self) -> effects.Received:
        """Return what its delivery is to a core."""
        envelope = self.envelope
        return effects.Received(
            self.queue,
            self.message,
            envelope.message_id,
            envelope.epoch,
            envelope.reply_to,
            self.returns > 0,
            entry=self.entry,
            ended=self.ended,
        )

    def cause(self) -> Cause:
        """Return the cause that it is to what its handler does."""
        return cause_of(self.envelope, self.message.type)


def is_counted(action: Action) -> bool:
    """Tell whether an action is an effect that a crash counts: it goes to the services."""
    if isinstance(action, Send):
        return action.publish.routing_key != CLIENT
    return isinstance(action, effects.Unbind)
