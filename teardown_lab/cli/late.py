"""A group whose commands are imported when they are called; `teardown --help` needs none."""

from importlib import import_module
from typing import Any, cast

import click


class LateGroup(click.Group):
    """Knows its commands by name and one line of help; the rest is in `<package>.<name>`."""

    def __init__(self, package: str, lines: dict[str, str], **attributes: Any) -> None:
        stubs = {name: click.Command(name, short_help=line) for name, line in lines.items()}
        super().__init__(commands=stubs, **attributes)
        self._package = package

    def load(self, name: str) -> click.Command:
        """Return the command itself."""
        module = import_module(f"{self._package}.{name}")
        return cast(click.Command, getattr(module, name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name, imported now."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, None if stub is None or name is None else self.load(name), rest
