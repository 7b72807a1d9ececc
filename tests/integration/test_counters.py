"""What services count is what the checker judges: /metrics against the JSON object."""

from collections import Counter
from pathlib import Path

import pytest
from integration.tools.cuts import Cuts
from integration.tools.scrape import gained, scrape
from support.randomness import seeded

from teardown_lab.experiment.lab import LabOptions, RunOptions, open_lab
from teardown_lab.faults.proxy import Proxy
from teardown_lab.own_broker.private_node import PrivateNode
from vm_manager.catalogue import catalogue_entry
from vm_protocol.observations import Event
from vm_protocol.scenario import Scenario

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

FLUSH = ("tlb-flush",)
SHOWN = ("unload-in-destroy", "unload-in-destroy-wipe-last", "async-pf-not-cleared")


def test_counters_say_what_the_checker_says(lone_node: PrivateNode, tmp_path: Path) -> None:
    random = seeded("counters")
    options = LabOptions(broker=lone_node.url, workers=2, vcpus=8)
    with open_lab(options, print) as lab:
        assert lab.stack is not None
        urls = lab.stack.metrics_urls
        for number, name in enumerate([*SHOWN, *random.choices(SHOWN, k=3)]):
            entry = catalogue_entry(name)
            roots = random.choice(["distinct", "shared", "mixed"])
            shape = {
                "vcpus": random.randint(1, 8),
                "roots": roots,
                "async_pf": random.randint(0, 2),
            }
            print(name, shape)
            before = scrape(urls)

            history = tmp_path / f"{number}.jsonl"
            finished = lab.run(entry.ordering, Scenario(**shape), 2, RunOptions(history=history))

            after = scrape(urls)
            counts = finished.judgement.counts

            def flushes(metric: str) -> int:
                return gained(before, after, metric).get(FLUSH, 0)  # noqa: B023 - called at once

            assert flushes("teardown_request_broadcasts_total") == counts.flush_broadcasts
            assert flushes("teardown_request_deliveries_total") == counts.flush_deliveries
            assert flushes("teardown_request_acks_total") == counts.flush_acks
            commands = gained(before, after, "teardown_commands_total")
            assert sum(commands.values()) == counts.commands
            letters = finished.judgement.dead_letters
            by_invariant = Counter((str(each.invariant or "none"), each.reason) for each in letters)
            grown = gained(before, after, "teardown_dead_letters_total")
            counted: Counter[tuple[str, str]] = Counter()
            for (invariant, reason, _), growth in grown.items():
                counted[invariant, reason] += growth
            assert counted == by_invariant
            assert sum(counted.values()) == counts.dead_letters
            assert counts.unaccounted == 0


def test_cut_connections_make_nothing_count_twice(proxy: Proxy, tmp_path: Path) -> None:
    random = seeded("counters-cuts")
    entry = catalogue_entry("unload-in-destroy-wipe-last")
    with open_lab(LabOptions(broker=proxy.url, workers=2, vcpus=8), print) as lab:
        assert lab.stack is not None
        for number in range(8):
            moments = set(random.sample(range(60, 400), 4))
            print(f"run {number}: cuts at records {sorted(moments)}")
            before = scrape(lab.stack.metrics_urls)

            cuts = Cuts(proxy.cut, moments, Event.TEARDOWN_STARTED)
            options = RunOptions(history=tmp_path / f"{number}.jsonl")
            judgement = lab.run(entry.ordering, Scenario(vcpus=8), 2, options, cuts).judgement

            after = scrape(lab.stack.metrics_urls)
            letters = gained(before, after, "teardown_dead_letters_total")
            posted = sum(gained(before, after, "teardown_request_broadcasts_total").values())
            settled = gained(before, after, "teardown_request_round_trip_seconds_count")
            assert letters == {("use-after-free", "rejected", "freed"): 28}
            assert judgement.counts.dead_letters == 28
            assert judgement.notes == ()
            assert sum(settled.values()) <= posted
    assert proxy.cut_count >= 8
