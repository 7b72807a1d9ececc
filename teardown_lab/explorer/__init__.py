"""Every interleaving of a teardown, with the services' own cores.

The explorer starts at "VM created". A handler and its publishes are one atomic transition; there
are no confirms, no journal and no mailbox deletion; the ticker is a bounded choice; deadlines fire
only when nothing else can happen. Queues are FIFO, and everything else about the broker that could
reorder two deliveries is a choice or a fault.
"""
