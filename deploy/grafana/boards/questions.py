"""The six questions that the dashboard answers, top to bottom, and its markers; data only."""

from typing import Final

from boards.panels import (
    Marker,
    Panel,
    Query,
    Question,
    increase,
    named,
    of_broker,
    quantiles,
    rate,
)
from boards.recovery import RECOVERY

_GOOD, _FAIR, _BAD = "green", "orange", "red"
_VIOLATIONS: Final = 'teardown_dead_letters_total{invariant!="none"}'
_NONE_IS_GOOD: Final = ((0, _GOOD), (1, _BAD))

SAFE: Final = Question(
    "Is teardown safe now?",
    (
        Panel(
            "Violations",
            "Dead letters that broke an invariant, counted since the services started. The checker "
            "knows more invariants than a dead letter can show: it judges histories, not counters.",
            (Query(f"sum({_VIOLATIONS})"),),
            "stat",
            width=4,
            levels=_NONE_IS_GOOD,
            texts=(("0", "none"),),
        ),
        Panel(
            "Stuck teardowns",
            "Teardowns that ended at a step, counted since the services started.",
            (Query("sum(teardown_stuck_total)"),),
            "stat",
            width=4,
            levels=_NONE_IS_GOOD,
            texts=(("0", "none"),),
        ),
        Panel(
            "Alerts that fire",
            "Of deploy/prometheus/alerts.yml; docs/runbooks/ has a page for each.",
            (Query('count(ALERTS{alertstate="firing", component="teardown"}) or vector(0)'),),
            "stat",
            width=4,
            levels=_NONE_IS_GOOD,
            texts=(("0", "none"),),
        ),
        Panel(
            "Managers",
            "Managers that are connected and consume, and those among them that are active: a "
            "manager is, from its first command on. The others stand by.",
            (
                Query('sum(teardown_broker_connected{actor="manager"})', "connected"),
                Query(
                    "sum(teardown_manager_elected"
                    " * on (cluster, namespace, instance, job)"
                    ' teardown_broker_connected{actor="manager"})',
                    "active",
                ),
            ),
            "stat",
            width=4,
            levels=((0, _FAIR), (1, _GOOD)),
        ),
        Panel(
            "Freed VMs",
            "Teardowns that freed their VM, counted since the services started.",
            (Query("sum(teardown_vms_freed_total)"),),
            "stat",
            width=4,
        ),
        Panel(
            "Running teardowns",
            "Teardowns in progress, and VMs that a manager knows, those in quarantine included.",
            (
                Query("sum(teardown_teardowns_running)", "running"),
                Query("sum(teardown_vms)", "VMs"),
            ),
            "stat",
            width=4,
        ),
        Panel(
            "Visible and living vCPUs",
            "As of each scrape. Visible: a request reaches it. Living: its worker keeps it. "
            "What comes and goes between two scrapes does not show: the window beside this does.",
            (
                Query("sum(teardown_visible_vcpus)", "visible"),
                Query("sum(teardown_live_vcpus)", "living"),
                Query("sum(teardown_tombstones)", "freed, in quarantine"),
            ),
        ),
        Panel(
            "Freed and still visible",
            "How long vCPUs stayed visible after their free, from the events themselves: in this "
            "window a request writes into freed memory. Erased in the same turn is best.",
            (
                *quantiles("teardown_freed_while_visible_seconds_bucket", 0.5, 0.99),
                Query(
                    f"sum({rate('teardown_freed_while_visible_seconds_sum')})"
                    f" / (sum({rate('teardown_freed_while_visible_seconds_count')}) > 0)",
                    "mean",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Commands and pins",
            "DestroyVcpu commands in progress at workers, MMU roots that some vCPU pins, and VMs "
            "that wait for places: where they wait for long, start more workers.",
            (
                Query("sum(teardown_commands_running)", "commands running"),
                Query("sum(teardown_creations_waiting)", "creations waiting"),
                Query(f"sum({rate('teardown_commands_total')})", "commands sent a second"),
                Query("sum(teardown_pinned_roots)", "pinned roots"),
            ),
        ),
    ),
)

BROKEN: Final = Question(
    "Which invariant broke, and where?",
    (
        Panel(
            "Violations by invariant",
            "Dead letters that broke an invariant. docs/orderings.md says what each one means.",
            (
                Query(
                    f"sum by (invariant) ({increase(_VIOLATIONS)})",
                    "{{invariant}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Dead letters by reason",
            "The broker's reasons: rejected, expired, maxlen, delivery_limit.",
            (Query(f"sum by (reason) ({increase('teardown_dead_letters_total')})", "{{reason}}"),),
            "bars",
        ),
        Panel(
            "Rejects by instance",
            "Where: the service that rejected, and its reason. A worker's `freed` is a "
            "use-after-free; `roots-pinned` is the loop of 2007.",
            (
                Query(
                    f"sum by (name, reason) ({named(increase('teardown_rejects_total'))})",
                    "{{name}} {{reason}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Dead letters since the services started",
            "By invariant, the broker's reason and the service's own.",
            (Query("sum by (invariant, reason, why) (teardown_dead_letters_total) > 0"),),
            "table",
        ),
        Panel(
            "Dead letters that the broker counts",
            "What the queues dead-lettered. The monitor's count follows it; the broker's own may "
            "miss some of a quorum queue's.",
            tuple(
                Query(
                    f"sum({of_broker(increase(f'rabbitmq_global_messages_dead_lettered_{why}_total'))})",
                    why,
                )
                for why in ("rejected", "expired", "maxlen", "delivery_limit")
            ),
            "bars",
        ),
        Panel(
            "Messages astray",
            "Sent once more after lost connections; returned because no queue matched; skipped "
            "because they were none of ours.",
            (
                Query(f"sum({increase('teardown_dead_letters_republished_total')})", "once more"),
                Query(
                    f"sum({increase('teardown_messages_returned_total')}) or vector(0)", "returned"
                ),
                Query(f"sum({increase('teardown_messages_skipped_total')})", "skipped"),
            ),
            "bars",
        ),
    ),
)

LONG: Final = Question(
    "How long do teardowns and flush round trips take?",
    (
        Panel(
            "Teardowns",
            "From DestroyVm taken up to the VM freed, or stuck; a cell counts teardowns.",
            (
                Query(
                    f"sum by (le) ({increase('teardown_duration_seconds_bucket')})",
                    "{{le}}",
                ),
            ),
            "heatmap",
            "s",
        ),
        Panel(
            "TLB flush, there and back",
            "From a flush's sending until every recipient has settled it.",
            quantiles(
                'teardown_request_round_trip_seconds_bucket{kind="tlb-flush"}', 0.5, 0.95, 0.99
            ),
            unit="s",
        ),
        Panel(
            "Requests of every kind, there and back",
            "The mean round trip of each kind.",
            (
                Query(
                    f"sum by (kind) ({rate('teardown_request_round_trip_seconds_sum')})"
                    f" / (sum by (kind) ({rate('teardown_request_round_trip_seconds_count')}) > 0)",
                    "{{kind}}",
                ),
            ),
            unit="s",
        ),
    ),
)

DEEP: Final = Question(
    "How deep are mailboxes?",
    (
        Panel(
            "Generation lag",
            "Requests posted to one vCPU's mailbox and not settled yet, at the vCPU with the most. "
            "A worker holds up to 64 of a mailbox; what stays above waits in the broker.",
            (Query("max(teardown_mailbox_generation_lag)", "deepest mailbox"),),
            levels=((0, _GOOD), (64, _BAD)),
        ),
        Panel(
            "Requests",
            "One broadcast is one message; each mailbox that it reaches is a delivery, and a live "
            "vCPU acknowledges it. Duplicates follow lost connections.",
            (
                Query(f"sum({rate('teardown_request_broadcasts_total')})", "broadcasts"),
                Query(f"sum({rate('teardown_request_deliveries_total')})", "deliveries"),
                Query(f"sum({rate('teardown_request_acks_total')})", "acknowledged"),
                Query(f"sum({rate('teardown_request_duplicates_total')})", "duplicates"),
            ),
            unit="ops",
        ),
        Panel(
            "Queues",
            "Messages that wait in each queue of the project; mailboxes and clients' queues come "
            "and go with VMs and are not scraped. The journal is a stream, which keeps what was "
            "read, so it is not shown.",
            (
                Query(
                    "sum by (queue) ("
                    + of_broker('rabbitmq_detailed_queue_messages_ready{queue!="teardown.journal"}')
                    + ")",
                    "{{queue}}",
                ),
                Query("sum(teardown_dead_letters_waiting)", "dead letters that wait for a record"),
            ),
        ),
    ),
)

BROKER: Final = Question(
    "What does the broker do?",
    (
        Panel(
            "Messages through the broker",
            "A delivery of a broadcast counts once for each mailbox.",
            tuple(
                Query(
                    f"sum({of_broker(rate(f'rabbitmq_global_messages_{what}_total'))})",
                    what,
                )
                for what in ("received", "delivered", "acknowledged", "redelivered")
            ),
            unit="ops",
        ),
        Panel(
            "Unconfirmed publishes",
            "By actor; and what the broker has received with a confirm wanted but not confirmed.",
            (
                Query("sum by (actor) (teardown_unconfirmed_publishes)", "{{actor}}"),
                Query(
                    f"sum({of_broker('rabbitmq_global_messages_received_confirm_total')})"
                    f" - sum({of_broker('rabbitmq_global_messages_confirmed_total')})",
                    "broker",
                ),
            ),
        ),
        Panel(
            "Reconnects",
            "Connections lost and opened again, and consumers that the broker cancelled although "
            "their queue is there, by actor; and all connections that the broker opened.",
            (
                Query(
                    f"sum by (actor) ({increase('teardown_broker_reconnects_total')})",
                    "{{actor}}",
                ),
                Query(
                    f"sum by (actor) ({increase('teardown_consumers_cancelled_total')})",
                    "{{actor}}: consumer cancelled",
                ),
                Query(
                    f"sum({of_broker(increase('rabbitmq_connections_opened_total'))})",
                    "opened at the broker",
                ),
            ),
            "bars",
        ),
        Panel(
            "Instances",
            "Every service by its name, which is its container's or its pod's, and vCPUs that each "
            "worker holds, freed ones in quarantine included.",
            (
                Query(f"sum by (name) ({named('up')})", "{{name}} answers"),
                Query(
                    f"sum by (name) ({named('(teardown_live_vcpus + teardown_tombstones)')})",
                    "{{name}} vCPUs",
                ),
            ),
        ),
        Panel(
            "vCPUs and queues of nobody",
            "vCPUs that workers hold and no manager knows, as after the log's loss; queues of the "
            "broker beyond those of living vCPUs and workers.",
            (
                Query(
                    "clamp_min(sum(teardown_live_vcpus) + sum(teardown_tombstones)"
                    " - sum(teardown_known_vcpus), 0)",
                    "vCPUs",
                ),
                Query(f"sum({of_broker('rabbitmq_queues')})", "queues"),
            ),
        ),
        Panel(
            "Connected actors",
            "Actors that are connected and consume; the broker's connections and consumers.",
            (
                Query("sum by (actor) (teardown_broker_connected)", "{{actor}}"),
                Query(f"sum({of_broker('rabbitmq_connections')})", "broker: connections"),
                Query(f"sum({of_broker('rabbitmq_consumers')})", "broker: consumers"),
            ),
        ),
        Panel(
            "Messages by type",
            "Messages that the services send, and those that they acknowledge.",
            (
                Query(f"sum by (type) ({rate('teardown_messages_sent_total')})", "{{type}}"),
                Query(f"sum({rate('teardown_acks_total')})", "acknowledged"),
            ),
            unit="ops",
            width=12,
        ),
        Panel(
            "Memory and alarms",
            "Memory against the limit at which the broker blocks publishers; 1 on an alarm.",
            (
                Query(
                    of_broker(
                        "rabbitmq_process_resident_memory_bytes"
                        " / rabbitmq_resident_memory_limit_bytes"
                    ),
                    "memory",
                ),
                Query(of_broker("rabbitmq_alarms_memory_used_watermark"), "memory alarm"),
                Query(of_broker("rabbitmq_alarms_free_disk_space_watermark"), "disk alarm"),
            ),
            unit="percentunit",
            width=12,
        ),
    ),
)

QUESTIONS: Final = (SAFE, BROKEN, LONG, DEEP, RECOVERY, BROKER)

MARKERS: Final = (
    Marker("Chaos experiments", "purple", tags=("teardown", "chaos")),
    Marker(
        "Connections lost",
        "orange",
        f"sum by (actor) ({increase('teardown_broker_reconnects_total')}) > 0",
    ),
    Marker(
        "Hosts lost",
        "orange",
        f"sum by (reason) ({increase('teardown_hosts_lost_total')}) > 0",
    ),
    Marker("Stuck teardowns", "red", f"sum({increase('teardown_stuck_total')}) > 0"),
)
