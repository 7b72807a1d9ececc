"""Every rule that the simulated broker follows, as data: docs/broker-rules.md is made of it.

The sources are pages of RabbitMQ's documentation; "seen" is what no page says and a broker does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from conformance.introduction import introduction

TIED: Final = ("3.10.8", "4.0.5", "4.3.6")
"""The versions of RabbitMQ on which every test has passed."""


@dataclass(frozen=True)
class Rule:
    """One rule; `differs` is what 3.10, 4.0-4.2 and 4.3 do, empty if they agree."""

    says: str
    source: str
    test: str
    differs: tuple[str, ...] = ()


def _rules(
    source: str, *rows: tuple[str, str] | tuple[str, str, tuple[str, str, str]]
) -> list[Rule]:
    return [Rule(row[0], source, f"test_{row[1]}", row[2] if len(row) == 3 else ()) for row in rows]


ROUTING: Final = [
    *_rules(
        "queues",
        ("A queue is first in, first out", "messages_come_in_the_order_of_publishing"),
        ("Declaring again changes nothing", "declaring_again_changes_nothing"),
        (
            "Declaring with other arguments closes the channel (406)",
            "declaring_with_other_arguments_closes_the_channel",
        ),
        (
            "A deleted queue is not dead-lettered; its consumer gets `basic.cancel`; what it "
            "settles later is ignored (dlx, consumer-cancel)",
            "a_deleted_queue_is_not_dead_lettered_and_its_consumer_is_told",
        ),
        ("All its consumers are told", "all_consumers_of_a_deleted_queue_are_told"),
        ("Deleting what is not there is no error", "deleting_what_does_not_exist_is_no_error"),
    ),
    *_rules(
        "tutorials: amqp-concepts",
        (
            "One publish reaches every queue that is bound with its key; in which order is open",
            "one_publish_reaches_all_queues_of_a_key",
        ),
        ("Equal bindings are one", "a_binding_is_there_once_however_often_it_is_made"),
        (
            "A queue gets a message once, however many bindings match",
            "a_message_comes_once_however_many_bindings_match",
        ),
        ("Unbinding leaves what was routed", "unbinding_leaves_what_was_routed_before"),
        ("Unbinding what is not bound is no error", "unbinding_what_is_not_bound_is_no_error"),
        (
            "Binding a queue or exchange that is not there closes the channel (404)",
            "binding_what_does_not_exist_closes_the_channel",
        ),
        ("So does consuming", "consuming_what_does_not_exist_closes_the_channel"),
        ("So does publishing", "publishing_to_no_exchange_closes_the_channel"),
    ),
    *_rules(
        "publishers, confirms",
        ("What no queue gets is confirmed", "an_unroutable_message_is_confirmed"),
        (
            "If it is mandatory, it is returned before that",
            "an_unroutable_mandatory_message_is_returned_before_its_confirm",
        ),
        (
            "One matching queue is enough, whoever else is missed",
            "a_mandatory_message_is_returned_only_if_no_queue_matched",
        ),
    ),
]

CONSUMERS: Final = [
    *_rules(
        "consumers: prefetch",
        ("At most prefetch deliveries are unsettled", "prefetch_bounds_what_a_consumer_holds"),
        ("Consumers take turns", "consumers_take_turns"),
        ("Who has no room is passed over", "who_has_no_room_is_passed_over"),
        (
            "Who was passed over goes to the end of the line",
            "a_consumer_that_was_full_is_served_after_the_others",
        ),
        (
            "In a classic queue, who was full but not passed over keeps its turn; a quorum queue "
            "puts it at the end (seen)",
            "in_a_classic_queue_a_consumer_that_was_not_met_full_keeps_its_turn",
        ),
        ("A cancelled consumer keeps what it holds", "a_cancelled_consumer_keeps_what_it_holds"),
    ),
    *_rules(
        "confirms",
        ("What is acknowledged is gone", "an_acknowledged_message_is_gone"),
        ("Settling twice closes the channel (406)", "settling_twice_closes_the_channel"),
    ),
    *_rules(
        "consumers: single active consumer (quorum queues)",
        (
            "The first consumer gets all",
            "only_the_first_consumer_of_a_single_active_queue_is_served",
        ),
        (
            "When its connection is lost, the next one takes over, and first gets what it held",
            "the_next_consumer_takes_over_when_the_active_one_is_lost",
        ),
        (
            "When its connection is closed in order, the next one first gets what was ready (seen)",
            "a_connection_that_is_closed_in_order_cancels_before_it_gives_back",
        ),
        (
            "When it is cancelled, the next one takes over while it still holds messages",
            "the_next_consumer_takes_over_while_a_cancelled_one_still_holds_messages",
        ),
        (
            "Who is next (seen)",
            "of_waiting_consumers_the_one_with_the_largest_prefetch_is_next_since_4_0",
            ("the first", "the largest prefetch, then the first", "as 4.0"),
        ),
        ("A waiting one may leave", "a_waiting_consumer_that_leaves_changes_nothing"),
        ("Who comes back waits at the end", "a_consumer_that_comes_back_waits_at_the_end"),
    ),
]

RETURNS: Final = [
    *_rules(
        "confirms: negative acknowledgements",
        (
            "A classic queue puts a returned message back to its old place",
            "a_classic_queue_puts_returned_messages_back_to_their_old_places",
        ),
        (
            "A lone consumer gets it again at once, flagged as redelivered",
            "a_lone_consumer_gets_what_it_returned_at_once",
        ),
    ),
    *_rules(
        "quorum-queues: repeated requeues",
        (
            "A quorum queue serves returned messages first, in the order of their return",
            "a_quorum_queue_serves_returned_messages_first_in_the_order_of_their_return",
        ),
        (
            "A quorum queue without any delivery limit puts them to its end instead",
            "without_any_limit_a_quorum_queue_puts_what_is_returned_to_its_end",
            ("by default", "there is a default limit", "as 4.0"),
        ),
    ),
    *_rules(
        "confirms: automatic requeueing",
        (
            "A lost connection gives back all that was unsettled, in order, flagged",
            "a_lost_connection_gives_back_all_that_was_unsettled_in_order",
        ),
        (
            "That includes what the consumer never looked at",
            "what_was_sent_but_never_looked_at_counts_as_delivered",
        ),
        ("The other consumers get it", "a_lost_connection_gives_to_the_other_consumers"),
    ),
]

LIMITS: Final = [
    *_rules(
        "quorum-queues: poison message handling",
        (
            "`x-delivery-count` is not there at first, then counts up",
            "the_first_delivery_has_no_count_and_later_ones_count_up",
        ),
        ("Classic queues tell no count", "a_classic_queue_counts_nothing"),
        ("The return after the limit is one too many", "the_delivery_after_the_limit_is_the_last"),
        ("A limit of 0 allows one delivery", "a_limit_of_zero_allows_one_delivery"),
        (
            "Limit of a queue that names none",
            "without_a_limit_of_its_own_a_queue_has_the_default",
            ("none", "20", "20"),
        ),
        (
            "`basic.nack` with requeue counts",
            "nack_counts_as_reject_does_before_4_3",
            ("yes", "yes", "no"),
        ),
        ("`x-acquired-count`", "acquisitions_are_counted_since_4_3", ("no", "no", "every return")),
        ("A lost connection counts", "a_lost_connection_counts"),
        ("It counts for all that was held", "all_that_a_lost_consumer_held_has_failed"),
        (
            "Without a dead-letter exchange the message is dropped",
            "a_message_beyond_the_limit_is_dropped_without_a_dead_letter_exchange",
        ),
        (
            "A return beyond the limit raises the consumer's prefetch by one (seen)",
            "a_return_beyond_the_limit_leaves_a_consumer_more_room_in_3_10",
            ("yes", "no", "no"),
        ),
    ),
]

EXPIRY: Final = [
    *_rules(
        "ttl",
        ("What nobody takes expires", "a_message_that_nobody_takes_expires"),
        ("What a consumer holds does not", "a_message_that_a_consumer_holds_does_not_expire"),
        ("A return does not renew the time", "a_returned_message_keeps_its_time_of_expiry"),
        ("Nor does a lost connection", "what_a_lost_consumer_held_too_long_expires"),
        (
            "Without a dead-letter exchange it is gone",
            "an_expired_message_is_gone_without_a_dead_letter_exchange",
        ),
        (
            "An unused queue expires (`x-expires`) and is not dead-lettered",
            "an_unused_queue_expires_and_is_not_dead_lettered",
        ),
        ("A consumer keeps it", "a_consumer_keeps_a_queue_from_expiring"),
        (
            "So it is with a quorum queue, which looks only every 5 s (seen)",
            "a_quorum_queue_expires_too_and_a_consumer_keeps_it",
        ),
        ("Declaring it again renews its time", "declaring_again_renews_the_time_to_expiry"),
    ),
    *_rules(
        "maxlength",
        ("The oldest ready messages overflow", "the_oldest_ready_messages_overflow"),
        ("What consumers hold does not count", "what_consumers_hold_does_not_count_for_the_length"),
        (
            "A returned message may overflow",
            "a_returned_message_overflows_first_where_nobody_has_room",
        ),
        (
            "A classic queue drops it before it delivers (seen)",
            "a_classic_queue_drops_a_returned_message_before_it_delivers",
        ),
        (
            "A quorum queue delivers before it drops (seen)",
            "a_quorum_queue_delivers_a_returned_message_before_it_drops",
        ),
        (
            "What one event makes a quorum queue drop is dead-lettered (seen)",
            "what_overflows_at_once_is_dead_lettered_newest_first_before_4_3",
            ("newest first", "newest first", "oldest first"),
        ),
    ),
]

DEAD_LETTERS: Final = [
    *_rules(
        "dlx",
        (
            "A rejected message is dead-lettered with `x-death` and `x-first-death-*`; "
            "`x-last-death-*`",
            "a_rejected_message_is_dead_lettered_with_what_happened",
            ("no", "yes", "yes"),
        ),
        ("`basic.nack` without requeue too", "nack_without_requeue_is_rejection_too"),
        (
            "Without an exchange, or one that is missing or routes nowhere, it is gone",
            "without_a_dead_letter_exchange_a_rejected_message_is_gone",
        ),
        (
            "Its routing key stays unless the queue names another",
            "a_dead_letter_keeps_its_routing_key_unless_another_is_given",
        ),
        (
            "`x-death` has one entry for each queue and reason, the newest first",
            "deaths_are_listed_newest_first_and_the_first_and_last_are_named",
        ),
        (
            "Dying again of the same raises its count and moves it to the front",
            "dying_again_of_the_same_raises_the_count_and_moves_to_the_front",
        ),
        (
            "The older entries are (seen)",
            "each_death_turns_the_older_ones_around_in_3_10",
            ("turned around by each death", "newest first", "newest first"),
        ),
        (
            "`x-last-death-exchange` is that of the last death, the entry's of the first (seen)",
            "the_last_death_is_named_as_it_was_and_not_as_it_is_listed",
            ("no such header", "yes", "yes"),
        ),
        ("A cycle without a rejection ends", "a_cycle_without_a_rejection_ends"),
        ("One with a rejection goes on", "a_cycle_with_a_rejection_goes_on"),
        (
            "So a retry by rejection and expiry goes on",
            "a_death_by_expiry_after_a_rejection_elsewhere_still_closes_no_cycle",
        ),
    ),
    *_rules(
        "release notes 4.0.1",
        (
            "`x-death` that a client publishes is",
            "x_death_of_a_client_counts_before_4_0",
            ("taken for the broker's", "ignored", "ignored"),
        ),
        ("Until a death it is delivered as it came", "x_death_of_a_client_reaches_consumers"),
    ),
    *_rules(
        "seen",
        (
            "Failed deliveries follow a dead letter",
            "failed_deliveries_follow_a_dead_letter_since_4_0",
            (
                "no",
                "lost connections and the rejection, between quorum queues",
                "all, from and to every type",
            ),
        ),
        (
            "They count for the next queue's limit: one return may be the end of a dead letter",
            "failures_that_follow_count_for_the_next_limit_since_4_3",
            ("no", "no", "yes"),
        ),
        (
            "Then even `basic.nack` is its end",
            "even_a_nack_ends_a_dead_letter_that_is_beyond_the_limit",
            ("no", "no", "yes"),
        ),
        (
            "What died undelivered is new to its next queue",
            "messages_that_die_undelivered_are_new_to_their_next_queue",
        ),
        (
            "A classic queue flags a dead letter with failures as redelivered",
            "a_classic_queue_overlooks_failures_elsewhere_if_somebody_waits",
            ("no", "no", "unless a consumer waits for it"),
        ),
    ),
]

STREAMS: Final = _rules(
    "streams",
    (
        "A reader begins at the first or at the next message",
        "a_reader_begins_at_the_first_or_at_the_next_message",
    ),
    ("Offsets are the same for all", "offsets_count_from_zero_and_are_the_same_for_all"),
    ("It gets more only as it settles", "a_reader_gets_more_only_as_it_settles"),
    ("Nothing is redelivered", "a_lost_reader_begins_anew_and_nothing_is_redelivered"),
    (
        "Rejecting a delivery (seen)",
        "rejecting_means_no_more_than_acknowledging_since_4_0",
        ("closes the connection (540)", "means acknowledging", "means acknowledging"),
    ),
)

CHAPTERS: Final = {
    "Queues, bindings, confirms": ROUTING,
    "Consumers": CONSUMERS,
    "Returned and lost deliveries": RETURNS,
    "Failed deliveries and their limit": LIMITS,
    "Expiry and length": EXPIRY,
    "Dead letters": DEAD_LETTERS,
    "Streams": STREAMS,
}


def page() -> str:
    """Return docs/broker-rules.md."""
    lines = introduction(TIED).splitlines()
    for title, rules in CHAPTERS.items():
        lines += ["", f"## {title}", ""]
        lines += [_row("Rule", "Source", "3.10", "4.0-4.2", "4.3", "Test"), _row(*["---"] * 6)]
        for rule in rules:
            differs = rule.differs or ("yes",) * 3
            lines.append(_row(rule.says, rule.source, *differs, f"`{rule.test}`"))
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def all_rules() -> Sequence[Rule]:
    """Return the rules of all chapters."""
    return [rule for rules in CHAPTERS.values() for rule in rules]
