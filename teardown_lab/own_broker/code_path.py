"""A private node's Erlang finds its modules at once, so that the node starts in half the time.

Erlang asks each of some ninety folders in turn for every one of the thousand modules that a
RabbitMQ loads while it starts. One folder with a link to each module, first on its path, answers
all of that. And where no plugin is enabled, the node need not read all that could be: it is shown
`rabbit` alone, which has the schema of rabbitmq.conf (RabbitMQ: configure, "Environment
variables": RABBITMQ_SERVER_CODE_PATH, RABBITMQ_PLUGINS_DIR).
"""

import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path


def short_code_path(script: Path, folder: Path) -> dict[str, str]:
    """Make the folders of links for a new node, and return the variables that name them.

    Args:
        script: The rabbitmq-server script that will start the node.
        folder: The node's own folder.

    Returns:
        No variable where RabbitMQ or Erlang is laid out otherwise than we know: the node then
        starts as it always does.
    """
    plugins = script.resolve().parent.parent / "plugins"
    rabbits = list(plugins.glob("rabbit-*/ebin/rabbit.beam"))
    erl = shutil.which("erl")
    if len(rabbits) != 1 or erl is None:
        return {}
    links, shown = folder / "modules", folder / "shown_plugins"
    links.mkdir()
    shown.mkdir()
    rabbit = rabbits[0].parent.parent
    (shown / rabbit.name).symlink_to(rabbit)
    for library in (plugins, Path(erl).resolve().parent.parent / "lib"):
        for ebin in _one_version_each(library):
            for module in ebin.glob("*.beam"):
                # Whoever is first on Erlang's path wins, and RabbitMQ's own come first.
                with suppress(FileExistsError):
                    (links / module.name).symlink_to(module)
    return {"RABBITMQ_PLUGINS_DIR": str(shown), "RABBITMQ_SERVER_CODE_PATH": str(links)}


def _one_version_each(library: Path) -> list[Path]:
    """Return the applications' `ebin` folders; of two versions Erlang itself is to choose."""
    folders = list(library.glob("*/ebin"))
    names = [folder.parent.name.partition("-")[0] for folder in folders]
    versions = Counter(names)
    return [folder for folder, name in zip(folders, names, strict=True) if versions[name] == 1]
