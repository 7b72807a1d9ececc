"""Secrets come from files or the environment, and leave no trace in what is said of them."""

import socket
from pathlib import Path

import pytest
from integration.tools.cli import Place, teardown

from service_runtime.amqp.endpoint import Endpoint, EndpointError, with_password
from service_runtime.settings import Settings, SettingsError, read_settings
from vm_protocol.trust import Role

SECRET = "s3cr3t/with@odd:characters"  # noqa: S105 - a test's
ESCAPED = "s3cr3t%2Fwith%40odd%3Acharacters"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    return file


def test_a_password_s_file_completes_a_url(secret: Path) -> None:
    settings = read_settings(
        {"AMQP_URL": "amqp://manager@broker:5672/%2F", "AMQP_PASSWORD_FILE": str(secret)}
    )

    assert settings.amqp_url == f"amqp://manager:{ESCAPED}@broker:5672/%2F"
    parameters = settings.endpoint().parameters()
    assert (parameters.credentials.username, parameters.credentials.password) == ("manager", SECRET)
    assert settings.endpoint().user == "manager"


def test_a_url_with_a_password_keeps_it(secret: Path) -> None:
    environment = {"AMQP_URL": "amqp://a:b@broker/x", "AMQP_PASSWORD_FILE": str(secret)}

    assert read_settings(environment).amqp_url == "amqp://a:b@broker/x"


def test_a_url_may_stand_in_a_file_and_its_variable_goes_first(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("amqp://a:b@broker:1/x\n", encoding="utf-8")
    both = {"AMQP_URL_FILE": str(file), "AMQP_URL": "amqp://c:d@broker:2/y"}

    assert read_settings({"AMQP_URL_FILE": str(file)}).amqp_url == "amqp://a:b@broker:1/x"
    assert read_settings(both).amqp_url == "amqp://c:d@broker:2/y"


def test_the_monitor_has_a_url_and_a_password_of_its_own(secret: Path) -> None:
    settings = read_settings(
        {
            "AMQP_URL": "amqp://manager:m@broker/x",
            "MONITOR_AMQP_URL": "amqp://monitor@broker/x",
            "MONITOR_AMQP_PASSWORD_FILE": str(secret),
        }
    )

    assert settings.endpoint(settings.monitor_amqp_url).user == "monitor"
    assert settings.endpoint().user == "manager"
    assert settings.monitor_amqp_url == f"amqp://monitor:{ESCAPED}@broker/x"


@pytest.mark.parametrize(
    "environment",
    [
        {"AMQP_URL": f"http://u:{ESCAPED}@h"},
        {"AMQP_URL": f"amqp://u:{ESCAPED}@h:port/x"},
        {"MONITOR_AMQP_URL": f"amqp://u:{ESCAPED}@h:port/x"},
        {"AMQP_URL": f"amqp://u:{ESCAPED}@h/x?ssl_options=("},
        {"AMQP_URL_FILE": "/nowhere/at/all"},
        {"AMQP_URL_FILE": "/dev/null"},
        {"AMQP_URL": "amqp://u@[h", "AMQP_PASSWORD_FILE": "SECRET"},
    ],
)
def test_an_error_names_the_variable_and_never_the_secret(
    secret: Path, environment: dict[str, str]
) -> None:
    given = {name: value.replace("SECRET", str(secret)) for name, value in environment.items()}

    with pytest.raises(SettingsError) as caught:
        read_settings(given)

    assert str(caught.value).startswith(next(iter(given)))
    assert SECRET not in str(caught.value)
    assert ESCAPED not in str(caught.value)


def test_an_endpoint_s_text_has_no_password() -> None:
    url = with_password("amqp://u@h/x", SECRET)

    assert ESCAPED in url
    assert ESCAPED not in repr(Endpoint(url))
    with pytest.raises(EndpointError) as caught:
        Endpoint(url.replace("amqp", "amqps"), ca_file="/nowhere/ca.pem").parameters()
    assert "AMQP_CA_FILE=/nowhere/ca.pem" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("4f0c1d2e3b4a", "4f0c1d2e3b4a"),
        ("Laptop.local", "laptop-local"),
        ("vcpu-worker-" + "7" * 40 + "-x1", "7" * 37 + "-x1"),
        ("_", "worker-1"),
    ],
)
def test_a_worker_without_a_name_takes_its_host_s(
    monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)

    assert read_settings({}).worker_id == name
    assert read_settings({"WORKER_ID": "w-9"}).worker_id == "w-9"


def test_users_are_named_by_role() -> None:
    trust = read_settings({"MANAGER_USERS": "a, b", "CLIENT_USERS": " "}).trust()

    assert trust.users == {Role.MANAGER: {"a", "b"}}
    assert Settings().trust().users == {}


def test_the_command_line_takes_a_url_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"amqp://u:{ESCAPED}@127.0.0.1:1/x\n", encoding="utf-8")
    place = Place(tmp_path)

    done = teardown(place, "run", "unload-in-destroy", AMQP_URL_FILE=str(file))
    missing = teardown(place, "run", "unload-in-destroy", AMQP_URL_FILE=str(tmp_path / "no"))

    assert (done.returncode, missing.returncode) == (4, 2)
    assert "amqp://u@127.0.0.1:1/x" in done.stderr
    assert ESCAPED not in done.stderr + done.stdout
    assert "AMQP_URL_FILE=" in missing.stderr
