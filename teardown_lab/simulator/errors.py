"""What a simulated broker refuses; a real one closes the channel with the same code."""


class ChannelClosed(Exception):
    """The broker closes the channel; `code` is AMQP's reply code (channels: error handling)."""

    code = 0


class NotFound(ChannelClosed):
    """The queue or exchange does not exist."""

    code = 404


class PreconditionFailed(ChannelClosed):
    """A queue is declared again with other arguments, or a delivery is settled twice."""

    code = 406


class NotSupported(ChannelClosed):
    """This version cannot do that; the whole connection is closed (seen: 3.10.8)."""

    code = 540


class NotSimulated(ValueError):
    """A queue argument that RabbitMQ knows and this simulator does not: never ignored."""
