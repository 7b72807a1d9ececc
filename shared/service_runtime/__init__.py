"""Everything impure that services share: the pika driver, logs, metrics, health; drives any core.

`run.serve` is what a service's `__main__` calls.
"""
