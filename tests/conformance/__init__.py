"""One suite of broker rules, run against the simulated broker and against RabbitMQ."""
