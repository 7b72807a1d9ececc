"""A test that lacks what it needs is skipped here, and fails where CI asks for it."""

import pytest
from support.needs import BROKER, need


def test_what_is_there_is_not_missed() -> None:
    need("/usr/lib/rabbitmq", "rabbitmq-server", BROKER)


def test_without_the_variable_the_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BROKER, raising=False)

    with pytest.raises(pytest.skip.Exception, match="there is no rabbitmq-server"):
        need(None, "rabbitmq-server", BROKER)


def test_with_the_variable_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BROKER, "1")

    with pytest.raises(pytest.fail.Exception, match=f"{BROKER} asks for one"):
        need(None, "rabbitmq-server", BROKER)
