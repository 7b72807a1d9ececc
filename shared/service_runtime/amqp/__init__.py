"""One actor's traffic with the broker, a concern a file: the driver puts them together."""
