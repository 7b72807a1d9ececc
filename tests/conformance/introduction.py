"""What docs/broker-rules.md says before and between its tables of rules."""

from collections.abc import Sequence


def introduction(tied: Sequence[str]) -> str:
    """Return the page's beginning; `tied` are the versions that every rule was held against."""
    return f"""# Rules of the broker

<!-- Written from tests/conformance/rules.py; TEARDOWN_GOLDEN=write with its test writes it. -->

The simulated broker follows these rules of RabbitMQ, by version. Each row names the test in
`tests/conformance` that holds the simulated broker and real ones to it; all have passed on RabbitMQ
{", ".join(tied[:-1])} and {tied[-1]}. Other versions between them are assumed to follow the nearest
older one. Random sequences of operations (`test_random_sequences.py`) compare the two further.

*Source* is a page of RabbitMQ's documentation; *seen* is what no page says and the brokers do.

Not defined, so compared only up to it: the order between different queues (of deliveries, of dead
letters, of what a lost connection gives back), and whether a dead letter has arrived when the
publisher's confirm comes.

Not simulated, and refused where it is asked for: `x-expires` of quorum queues, a single active
consumer of classic queues (3.10.8 serves nobody after a cancellation, and the next publish kills
the queue), a negative delivery limit, `x-overflow` and other arguments that are not above, and a
publisher's own expiration, priority or `CC`. There are no policies and no purging; streams keep
all that they get, and entries of `x-death` have no time.

Versions that follow no rule: 3.13.0 to 3.13.2 may drop a message that is dead-lettered to a queue
for the second time although there was a rejection in the cycle (rabbitmq-server#11159; 3.13.3 has
it mended). A service that connects to one of them says so (`broker.known_problem`).

A consumer that does not settle a delivery within `consumer_timeout` (30 minutes): up to 4.2 its
channel is closed (406); since 4.3 a quorum queue sends `basic.cancel`, as a deletion does. A
service tells the two apart by looking for the queue (`broker.consumer_cancelled`, `queue_exists`).
"""
