"""What the manager, the workers and the lab agree on; pure, imports nothing of ours.

The domain's nouns: a *VM* has *vCPUs*; each vCPU pins *roots* of the MMU's page tables, owns a
*mailbox* (its memory, as far as requests are concerned) and is *visible* while its mailbox is
bound to `vm.requests`. A *request* is posted to all visible vCPUs and carries a *generation*.
A freed vCPU leaves a *tombstone* behind that rejects what still arrives: a *dead letter*.
"""
