"""One experiment: a VM is created, torn down in an ordering, and its history collected."""
