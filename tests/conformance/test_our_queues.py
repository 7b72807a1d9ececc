"""Our own queues, with the arguments that they have, on brokers of each version."""

from conformance.adapter import Session
from vm_protocol import limits, topology


def test_a_command_that_died_at_its_limit_outlives_a_monitor_that_fails_as_often(
    session: Session,
) -> None:
    """RabbitMQ 4.3 carries the count over: with one limit for both, the first failure loses it."""
    broker, commands = session.broker, topology.worker_commands("w")
    for exchange in (topology.COMMANDS, topology.ASYNC_PF, topology.DEAD_LETTERS):
        broker.exchange(exchange.name, exchange.type)
    for queue in (topology.DEAD_LETTERS_QUEUE, commands):
        broker.declare(queue)
    broker.publish(topology.COMMANDS.name, commands.name, "a")
    for client, queue, failures in (
        ("worker", commands, limits.DELIVERY_LIMIT + 1),
        ("monitor", topology.DEAD_LETTERS_QUEUE, 2 * limits.DELIVERY_LIMIT),
    ):
        broker.consume(client, queue.name, prefetch=1)
        for _ in range(failures):
            (delivery,) = session.take(client, 1)
            broker.reject(delivery, requeue=True)

    (letter,) = session.take("monitor", 1)
    assert letter.deaths == ((commands.name, "delivery_limit", 1, "commands", (commands.name,)),)
