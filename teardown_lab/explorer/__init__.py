"""Every interleaving of a teardown, with the services' own cores: how the model works.

*A state* (model.py) is what decides what can still happen: the state of the manager's core and of
each worker's, what lies in each queue, which deliveries are unsettled, which copies and held
messages may still arrive, which timers are set, which vCPUs are visible, how many faults are left,
and, where copies are possible, which requests each vCPU has seen. Each of these is a number of an
interning table (interning.py), and a state is a flat tuple of such numbers. It begins with "VM
created" and DestroyVm on its way.

*A move* is a choice (choice.py): the head of one queue is delivered, a timer fires, a page fault
completes, or a fault meets a message or the manager. The consumer's core handles the input and
publishes, all in one move. The real core computes each such step once (steps.py); whenever the same
core meets the same input in the same state, the step is looked up. Nothing else moves in between,
and a deadline fires only when nothing else can happen.

*Two states are the same* if their tuples are equal, which means that all their parts are equal by
value. How a state was reached is no part of it, and neither are time and records. So where two
orders lead to the same state, what follows is explored once.

*What a move breaks* is told from its effects and the states around it (findings.py, judging.py). It
counts as a violation only when the schedule has been played by the actors with their recorders
(stage.py) and the checker has confirmed it in that history.

*Left out* is what decides nothing before the VM is gone, or what only adds states: time, confirms,
the journal, the deletion of mailboxes, and workers with several vCPUs (these allow fewer orders,
not more). Queues are first in, first out; everything else by which a broker could reorder two
deliveries is a choice or a fault. docs/explorer.md gives the reasons, decision 0013 the
alternatives.
"""
