"""The command line's group: every command by name, imported when it is called."""

import click

from teardown_lab.cli.late import LateGroup

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


@click.group(
    cls=LateGroup,
    package="teardown_lab.cli",
    lines=CLI_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="teardown-lab")
def teardown() -> None:
    """Test the order in which a VM is torn down."""
    from service_runtime import logs

    logs.configure("warning")
