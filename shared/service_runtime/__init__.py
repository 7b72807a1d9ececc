"""Everything impure that services share: the pika driver, logs, metrics."""
