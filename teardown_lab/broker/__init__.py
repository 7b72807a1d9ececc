"""Find or start the broker that a run uses, and leave nothing behind.

`choice` decides; `private_node` and `container` start one; `address` speaks AMQP to any; and
`processes` names processes so that a recycled pid is never ended. Everything here is impure, and
no other package may import it but `teardown_lab`.
"""
