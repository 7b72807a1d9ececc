"""Another stack of services on the same broker: its workers would take this one's vCPUs."""

from teardown_lab.broker.address import without_password
from teardown_lab.broker.looking import look_at
from vm_protocol import topology


def second_stack(url: str, own_workers: int) -> str:
    """Return a sentence about other services at the same broker; empty: there are none.

    Asked once this stack's own workers consume. Two stacks that are started at the same moment both
    see each other. Workers are counted, not managers: of a queue with a single active consumer 3.10
    tells only that one. A worker that is full consumes no more, but it takes nothing either.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    queue = topology.PLACEMENT_QUEUE.name
    seen = look_at(url, [queue]).get(queue)
    if seen is None or seen.consumer_count <= own_workers:
        return ""
    workers = f"{seen.consumer_count} workers consume {queue}"
    return (
        f"a second stack of services runs at {without_password(url)}: {workers}, of which "
        f"{own_workers} are this stack's, and each takes the other's vCPUs. Give each stack a "
        "virtual host of its own (amqp://user:password@host:5672/NAME), let each start its own "
        "broker (private, container), or end the other one"
    )
