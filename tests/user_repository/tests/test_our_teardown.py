"""Before an ordering ships, it is tried on the broker that it will run on."""

from urllib.request import urlopen

import pytest

ORDERING = "orderings/detach-first.yaml"

IN_A_HURRY = """
name: in-a-hurry
title: Free each vCPU at once, and tidy the bindings up at the end
steps:
  - stop_background_workers
  - zap_all_roots
  - for_each_vcpu: [clear_async_pf, unload_mmu, free_vcpu]
  - for_each_vcpu: [erase_vcpu]
  - free_irqchip
  - uninit_mmu
  - vendor_vm_destroy
"""


@pytest.mark.parametrize("vcpus", [1, 4])
@pytest.mark.parametrize("mmu", ["shadow", "tdp"])
def test_our_ordering_is_safe(run_ordering, vcpus, mmu):
    outcome = run_ordering(ORDERING, vcpus=vcpus, mmu=mmu)

    assert outcome.verdict == "safe", outcome.explanation
    assert outcome.counts.dead_letters == 0


def test_the_lab_would_have_caught_the_shortcut(run_ordering):
    outcome = run_ordering(IN_A_HURRY, vcpus=4)

    assert outcome.verdict == "violated"
    assert outcome.broken == {"use-after-free": 6}
    assert "kvm_flush_remote_tlbs()" in outcome.explanation


def test_the_shortcut_is_invisible_with_one_vcpu(run_ordering):
    assert run_ordering(IN_A_HURRY, vcpus=1).verdict == "safe"


def test_it_posts_fewer_requests_than_the_kernel_s_own_order(run_ordering):
    ours = run_ordering(ORDERING).counts.unload_flush_requests
    kernel = run_ordering("unload-in-destroy").counts.unload_flush_requests

    assert ours < kernel == 10


def test_dead_letters_are_counted_where_our_alerts_look(run_ordering, teardown_stack):
    run_ordering(IN_A_HURRY, vcpus=4)

    with urlopen(teardown_stack.stack.metrics_urls["vm-manager"]) as page:  # noqa: S310 - 127.0.0.1
        metrics = page.read().decode()
    assert 'invariant="use-after-free",reason="rejected"' in metrics


def test_the_broker_is_a_real_one(teardown_broker):
    assert teardown_broker.startswith("amqp")
