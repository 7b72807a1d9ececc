"""Every bound, with its unit and its reason; nothing else in the project invents one."""

from typing import Final

SCHEMA_VERSION: Final = 1
"""Version of the wire format, of the history and of the JSON output."""

MANAGER_EPOCH: Final = 1
"""Epoch of the only manager; a take-over will raise it (docs/decisions/0006-epoch.md)."""

COUNTER_MAX: Final = 2**53
"""Lamport times, epochs: exact in any JSON reader, and far below AMQP's 64-bit table integers."""

VCPUS_MAX: Final = 1024
"""vCPUs of one VM: KVM_MAX_VCPUS on x86, and a recipients list that fits MESSAGE_BYTES_MAX."""

VMS_MAX: Final = 1024
"""VMs that one manager keeps; a further CreateVm is refused."""

WORKERS_MAX: Final = 1024
"""Workers whose places a manager remembers: one for each vCPU of the largest VM."""

STEPS_MAX: Final = 256
"""Steps of one ordering, those of its loops included; the longest of the catalogue has 15."""

WORK_FACTOR: Final = 4
"""Messages of one teardown, as a multiple of what the kernel's own makes of this VM: a request for
each root and a flush for each vCPU, to all. The catalogue needs less than 2, for 1,024 vCPUs too
(2.1 million messages of 8.4 allowed); a list of zaps, which costs a client nothing, is refused."""

WORK_MIN: Final = 65_536
"""Messages that any teardown may make: ten seconds of a broker's work, whatever the VM."""

ROOTS_OF_CONTEXT_MAX: Final = 4
"""Roots of one MMU context: the current one and three previous (KVM_MMU_NUM_PREV_ROOTS)."""

FAULTS_MAX: Final = 16
"""Async page faults of one vCPU that are pending as its teardown begins."""

COUNT_MAX: Final = 2**31 - 1
"""Incarnations, generations, attempts: keeps ids derived from them below AMQP's 255 bytes."""

NAME_CHARACTERS_MAX: Final = 40
"""Length of a VM's, worker's or ordering's name; queue names are bounded at 255 by AMQP."""

TEXT_CHARACTERS_MAX: Final = 255
"""A name, id, key or reason in a record: AMQP's short strings have no more bytes."""

PATH_CHARACTERS_MAX: Final = 4_096
"""The broker and the ordering's file in the record of a run: PATH_MAX."""

PINS_MAX: Final = VCPUS_MAX * ROOTS_OF_CONTEXT_MAX
"""Pins on one root, and pages in one TLB: every slot of every vCPU."""

CHAIN_LINKS_MAX: Final = 4_096
"""Messages of one chain, from a dead letter back to the client's command: two for each vCPU when
one is destroyed after the other, and a record of three chains still stays below 1 MiB."""

NANOSECONDS_MAX: Final = 2**63 - 1
"""Times of records: until the year 2262, and what any reader's 64-bit number holds."""

ORDERING_FILE_CHARACTERS_MAX: Final = 64 * 1024
"""Text of an ordering's file: STEPS_MAX steps, each on a line with a comment, are half of it."""

ORDERING_FILE_DEPTH_MAX: Final = 16
"""Lists and mappings inside each other in an ordering's file; the language needs 5."""

SCALAR_CHARACTERS_MAX: Final = 40
"""A number, date or truth value in an ordering's file; a longer one is refused unread."""

WHY_CHARACTERS_MAX: Final = 500
"""Words of a refusal: two sentences and a way out."""

MESSAGE_BYTES_MAX: Final = 256 * 1024
"""Body of one message; an ordering of STEPS_MAX steps and 1,024 recipients stay below 64 KiB."""

JOURNAL_BATCH_RECORDS_MAX: Final = 256
"""Records in one journal message: a batch of large records stays well below 16 MiB (4.x)."""

JOURNAL_BYTES_MAX: Final = 512 * 1024 * 1024
"""Retention of the journal stream."""

PROGRESS_BYTES_MAX: Final = 512 * 1024 * 1024
"""Retention of the managers' log: a manager that takes over needs it from the last moment at which
no VM lived. A VM of 64 vCPUs writes some 100 KB into it."""

PROGRESS_SEGMENT_BYTES: Final = 32 * 1024 * 1024
"""Segments of that log; the broker only ever deletes whole ones."""

ENTRY_INPUTS_MAX: Final = 256
"""Inputs in one entry of the managers' log: those of one socket read are rarely more."""

ENTRY_BYTES_MAX: Final = 1024 * 1024
"""Bodies in one entry: it ends with the first input that reaches this, so with it stays below 4 MiB
even if JSON has to escape most of it; a broker takes 16 MiB (4.x)."""

ENDED_EPOCHS_MAX: Final = 7
"""Ended epochs that a message tells: the newest; older managers are long gone from every queue."""

CANDIDACY_MS: Final = 500
"""How often a manager that stands by asks for the office; the first to be heard has it. A command
that a dead manager held tells its successor at once, so this only counts where none was held."""

OFFICE_LOOK_MS: Final = 2_000
"""How often the active manager looks whether another one was elected in the meantime."""

PERFORMED_MS: Final = 1_000
"""How long after its last entry an idle manager notes that it was performed."""

DELIVERY_LIMIT: Final = 20
"""How often a quorum queue takes one message back; the next return, after 21 deliveries, makes it a
dead letter. 3.10 has no default, 4.x has this one."""

DEAD_LETTER_DELIVERY_LIMIT: Final = 1_000
"""The dead-letter queue's own limit; it has no dead-letter exchange, so this drops.

Far above DELIVERY_LIMIT: since 4.3 a letter brings the count that it died with along.
"""

MAILBOX_TTL_MS: Final = 600_000
"""After this a request expires. It is so long that only requests of a worker that is gone expire.

The largest VM's zap-all brings VCPUS_MAX requests to each of VCPUS_MAX mailboxes; at 5,000
deliveries a second, which a busy machine of two cores does, the last waits 210 s for its turn."""

MAILBOX_LENGTH_MAX: Final = 8_192
"""Requests in one mailbox: zap-all posts one per root, and there are VCPUS_MAX * 4 of them; each
vCPU's unload may raise a flush for each of its two contexts before the first request is taken."""

ORPHAN_EXPIRES_MS: Final = 3_600_000
"""A mailbox, a reply queue or a worker's commands that no consumer has held for this long are
removed by the broker: far above any restart, for with its queue a worker loses what is in it."""

QUARANTINE_MS: Final = 500
"""How long tombstones outlive their VM, as KASAN's quarantine holds freed memory."""

FENCE_MS: Final = 5_000
"""How long nothing at all may reach a worker before a free that waits for its fence is given up.

Time without a broker, or with one that blocks publishers, does not count. The requests that the
fence needs were routed to the mailbox before the free was asked for. So a worker that has been idle
for so long will never get them: they, or the mailbox's binding, are lost.
"""

REQUEST_MS: Final = 1_000
"""How long nothing may reach the manager before a flush that waits for the dead is given up."""

TICKER_MS: Final = 20
"""Period of the kvmclock ticker: short, so that an ordering which leaves it running shows it."""

CREATIONS_WAITING_MAX: Final = 256
"""Creations that wait for places at the manager; a further one is refused at once."""

PLACEMENTS_AT_ONCE: Final = 16
"""Placements of one VM in `vcpu.placement` at once: enough that no worker waits for one. No more,
because placements of a VM that is given up stay in the queue, before those of the next VM."""

PLACING_MS: Final = 5_000
"""How often the creation that takes places is looked at. If it got no further, and is larger than
all workers that hold VMs together, it ends: the others would wait for it in vain."""

CREATION_WAIT_MS: Final = 40_000
"""How long a creation waits for places that other VMs hold. A run ends after 60 s unless told
otherwise; this is less, so that its client still hears from the manager why it failed."""

MANAGER_PREFETCH: Final = 2_048
"""Unsettled commands at the manager. What frees places must never wait behind what takes them, so
it is more than can be held at once: a teardown of each VM, and the creations that wait."""

REPLIES_PREFETCH: Final = 256
"""Unsettled replies at the receiver; nothing on a reply queue is ever held."""

MAILBOX_PREFETCH: Final = 64
"""Unsettled requests of one vCPU at its worker."""

DEAD_LETTERS_PREFETCH: Final = 256
"""Dead letters that the monitor holds while it waits for their place in the history."""

STREAM_PREFETCH: Final = 64
"""Journal batches in flight to one reader; streams require a prefetch and acks."""

MONITOR_HISTORY_MS: Final = 60_000
"""How long a dead letter waits for the journal to be read up to its arrival; then it is judged."""

MONITOR_LOOK_BACK_MS: Final = 1_800_000 + MAILBOX_TTL_MS
"""How far back a monitor begins to read: no open teardown has begun before (consumer timeout)."""

LOOK_BACK_MESSAGES_MAX: Final = 8_192
"""Messages of the journal that a monitor reads from before its start: some 50 MB, a few seconds. It
does not know the causes of what is older; it still judges every letter that dies later rightly."""

BINDINGS_MS: Final = 10_000
"""How often a consumer binds its queues again, in case somebody has unbound them."""

MONITOR_REPEATS_MAX: Final = 20_000
"""Records whose repetition the monitor notices: more than a connection has unconfirmed."""

MONITOR_VMS_MAX: Final = VMS_MAX
"""VMs whose messages the monitor remembers; as many as a manager keeps, the oldest is forgotten."""

MONITOR_REMOVED_MAX: Final = 128
"""Removed VMs of which letters may still be on their way; the oldest are forgotten first."""

MONITOR_HEARSAY_MAX: Final = 64
"""VMs of which no manager has told (yet), and only others' records speak."""

MONITOR_REJECTS_MAX: Final = VCPUS_MAX * VCPUS_MAX
"""Rejects the monitor remembers of one VM: each vCPU's flush may reach every other, freed."""

MONITOR_MESSAGES_MAX: Final = 20_000
"""Messages the monitor remembers of one VM; later ones are linked to no chain."""

HEARTBEAT_S: Final = 15
"""5-20 s is advised (RabbitMQ: heartbeats); in pika the client's value wins."""

MANAGER_HEARTBEAT_S: Final = 5
"""A manager's, unless MANAGER_HEARTBEAT_S says otherwise. The broker gives a silent connection up
after two of them, and a stand-by takes over; below 5 s a busy machine looks like a dead one."""

BLOCKED_TIMEOUT_S: Final = 600
"""A publisher blocked by a broker alarm gives its connection up after this (pika: None).

Another connection, also to another node, is blocked by the same alarm; and the deliveries that come
again count towards DELIVERY_LIMIT. So this is for an alarm that nobody will end."""

RECONNECT_MS_MIN: Final = 50
RECONNECT_MS_MAX: Final = 5_000
"""Back-off between two connection attempts, doubling from the first to the second."""

CONFIRM_MS_MAX: Final = 10_000
"""How long the broker may say nothing of a publish before another connection is tried; it is looked
at so often, so it may take twice as long. A quorum queue or stream that elects a leader takes a few
seconds."""

ALIVE_MS: Final = 5_000
"""How often a worker that holds vCPUs of a VM says that it is alive."""

LEASE_MS: Final = 30_000
"""How long nothing may come from a worker about a VM before the VM's manager counts it as lost.

A worker that lives may be unheard of for so long as its session takes to be given up and opened
again (2 * CONFIRM_MS_MAX, RECONNECT_MS_MAX), and then until it speaks again (ALIVE_MS). To take a
slow worker for a lost one costs a VM its vCPUs; to notice a lost one late costs only time."""

REFUSALS_MAX: Final = 8
"""Refusals in one batch, RECONNECT_MS_MIN apart, before another connection is tried: a request
must come through well within FENCE_MS, or its vCPU's free is called stuck."""

DRAIN_MS: Final = 5_000
"""How long a worker that is told to end may finish teardowns; with SHUTDOWN_MS, it is less than the
10 s after which a container engine kills."""

SHUTDOWN_MS: Final = 3_000
"""How long a service that is told to end waits for confirms that are still open."""

HTTP_CONNECTIONS_MAX: Final = 16
"""Connections to a service's metrics and probes at once: a few scrapers; each takes a thread."""

HTTP_REQUEST_MS: Final = 10_000
"""How long such a connection may last; a scrape of a busy service takes far less."""

RESULTS_BYTES_MAX: Final = 256 * 1024 * 1024
"""Histories kept in results/: compressed, one of 256 vCPUs takes some 10 MiB, of 4 a few KiB."""

assert REQUEST_MS < MAILBOX_TTL_MS, "a worker answers before its mailbox expires a request"
assert MAILBOX_LENGTH_MAX >= VCPUS_MAX * (4 + 2), "the largest VM's requests fit a mailbox"
assert MAILBOX_TTL_MS >= 2 * VCPUS_MAX**2 // 5_000 * 1_000, "nothing expires behind a slow worker"
assert DEAD_LETTER_DELIVERY_LIMIT > 10 * DELIVERY_LIMIT, "a letter arrives with its count used up"
assert RECONNECT_MS_MIN < RECONNECT_MS_MAX
assert MANAGER_PREFETCH > VMS_MAX + CREATIONS_WAITING_MAX, "nothing waits behind a creation"
assert PLACING_MS < CREATION_WAIT_MS
assert LEASE_MS >= 2 * CONFIRM_MS_MAX + RECONNECT_MS_MAX + ALIVE_MS, "a worker comes back in time"
