"""The folder of links that a private node's Erlang looks into first."""

import os
from pathlib import Path

import pytest

from teardown_lab.own_broker.code_path import short_code_path


def installed(root: Path, *modules: str) -> Path:
    """Lay out a RabbitMQ and an Erlang as packages do; return the server's script."""
    for module in modules:
        file = root / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for program in (root / "rabbitmq/sbin/rabbitmq-server", root / "erlang/bin/erl"):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(mode=0o755)
    return root / "rabbitmq/sbin/rabbitmq-server"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "erlang/bin"), prepend=os.pathsep)
    folder = tmp_path / "node"
    folder.mkdir()
    return folder


def test_every_module_is_in_one_folder_and_of_the_plugins_only_rabbit_is_shown(
    tmp_path: Path, node: Path
) -> None:
    script = installed(
        tmp_path,
        "rabbitmq/plugins/rabbit-3.10.8/ebin/rabbit.beam",
        "rabbitmq/plugins/ra-2.2.0/ebin/ra.beam",
        "erlang/lib/ssl-10.8/ebin/ssl.beam",
    )

    variables = short_code_path(script, node)

    modules = Path(variables["RABBITMQ_SERVER_CODE_PATH"])
    assert {module.name for module in modules.iterdir()} == {"rabbit.beam", "ra.beam", "ssl.beam"}
    assert all(module.exists() for module in modules.iterdir())
    shown = Path(variables["RABBITMQ_PLUGINS_DIR"])
    assert [plugin.name for plugin in shown.iterdir()] == ["rabbit-3.10.8"]
    assert (shown / "rabbit-3.10.8/ebin/rabbit.beam").exists()


def test_of_two_versions_of_an_application_none_is_linked(tmp_path: Path, node: Path) -> None:
    script = installed(
        tmp_path,
        "rabbitmq/plugins/rabbit-3.10.8/ebin/rabbit.beam",
        "erlang/lib/ssl-10.8/ebin/ssl.beam",
        "erlang/lib/ssl-11.0/ebin/ssl.beam",
    )

    modules = Path(short_code_path(script, node)["RABBITMQ_SERVER_CODE_PATH"])

    assert [module.name for module in modules.iterdir()] == ["rabbit.beam"]


@pytest.mark.parametrize(
    "modules",
    [
        ["erlang/lib/ssl-10.8/ebin/ssl.beam"],
        [
            "rabbitmq/plugins/rabbit-3.10.8/ebin/rabbit.beam",
            "rabbitmq/plugins/rabbit-4.0.0/ebin/rabbit.beam",
        ],
    ],
    ids=["no rabbit", "two rabbits"],
)
def test_a_layout_that_is_not_known_is_left_to_rabbitmq_itself(
    tmp_path: Path, node: Path, modules: list[str]
) -> None:
    assert short_code_path(installed(tmp_path, *modules), node) == {}
    assert list(node.iterdir()) == []
