"""The command line's group: every command by name, imported when it is called."""

from importlib import import_module
from typing import cast

import click

CLI_COMMANDS = {
    "run": "Destroy one VM in an ordering and judge it.",
    "demo": "Run the whole catalogue and print one table.",
    "explore": "Explore every interleaving of an ordering.",
    "replay": "Force a schedule that was found on the real services.",
    "orderings": "List, show, compare and check orderings.",
    "check": "Judge a history from its file alone.",
    "bench": "Time teardowns beside raw pika.",
    "cleanup": "Remove what killed runs have left behind.",
}
"""What `--help` says of each command; the command itself is in `teardown_lab.cli.<name>`."""


class LateGroup(click.Group):
    """Knows its commands by name and one line of help; `teardown --help` imports none of them."""

    def load(self, name: str) -> click.Command:
        """Return the command itself."""
        return cast(click.Command, getattr(import_module(f"teardown_lab.cli.{name}"), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name, imported now."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, None if stub is None or name is None else self.load(name), rest


@click.group(
    cls=LateGroup,
    commands={name: click.Command(name, short_help=line) for name, line in CLI_COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="teardown-lab")
def teardown() -> None:
    """Test the order in which a VM is torn down."""
    from service_runtime import logs

    logs.configure("warning")
