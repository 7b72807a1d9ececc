"""Seeded randomness: a random test prints its seed, and TEARDOWN_TEST_SEED repeats it."""

import os
import random
import time


def seeded(name: str) -> random.Random:
    """Return a generator for one test; its seed is printed, and shown when the test fails."""
    seed = int(os.environ.get("TEARDOWN_TEST_SEED", time.time_ns() % 2**32))
    print(f"{name}: TEARDOWN_TEST_SEED={seed}")
    return random.Random(f"{name}-{seed}")
