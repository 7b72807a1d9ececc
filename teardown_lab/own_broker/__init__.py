"""A RabbitMQ of a run's own: a private node, a cluster of them, or a container."""
