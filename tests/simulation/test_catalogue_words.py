"""The catalogue in all scenarios: verdict, exit code, counts and the report are what they were."""

import pytest
from support.catalogue_words import frozen_words, words_of

from vm_manager.catalogue import catalogue_names

pytestmark = [pytest.mark.spread, pytest.mark.slow]


@pytest.mark.parametrize("name", catalogue_names())
def test_what_is_said_of_an_ordering_is_what_was_said(name: str) -> None:
    now = words_of(name)

    assert now == frozen_words(name, now)
