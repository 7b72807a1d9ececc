"""`teardown`: the command line's entry."""

import click

from service_runtime import logs
from teardown_lab.cli.bench import bench
from teardown_lab.cli.check import check
from teardown_lab.cli.cleanup import cleanup
from teardown_lab.cli.demo import demo
from teardown_lab.cli.explore import explore
from teardown_lab.cli.orderings import orderings
from teardown_lab.cli.replay import replay
from teardown_lab.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="teardown-lab")
def main() -> None:
    """Test the order in which a VM is torn down."""
    logs.configure("warning")


for command in (run, demo, explore, replay, orderings, check, bench, cleanup):
    main.add_command(command)


if __name__ == "__main__":
    main()
