"""Message ids taken apart; how one is formed stands at its message's `id_form`.

Every id is `<vm>.<incarnation>/<name>`: `vm-0.1/destroy-vcpu/0/3.1`. What comes before the slash is
the scope, which all messages about one life of a VM share; the name tells them apart. Ids come from
peers and out of files, so a text that is no id is no error here.
"""

import re
from dataclasses import dataclass
from typing import Final

_ID: Final = re.compile(r"([a-z0-9][a-z0-9-]*)\.([1-9][0-9]{0,9})/(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MessageId:
    """A message id, taken apart."""

    vm: str
    incarnation: int
    name: str

    @property
    def scope(self) -> str:
        """Return what the ids of all messages about this life of the VM begin with."""
        return f"{self.vm}.{self.incarnation}"

    def __str__(self) -> str:
        return f"{self.scope}/{self.name}"


def parse_message_id(text: str) -> MessageId | None:
    """Return the id that a text stands for, None when it is no message's id."""
    found = _ID.fullmatch(text)
    return MessageId(found[1], int(found[2]), found[3]) if found else None


def name_in_vm(text: str | None) -> str:
    """Return the part of an id that tells a VM's messages apart, empty when it is no id."""
    parsed = parse_message_id(text or "")
    return parsed.name if parsed else ""


def scope_of(text: str) -> str:
    """Return what the ids of all messages about a VM's life begin with; what is no id, as it is."""
    parsed = parse_message_id(text)
    return parsed.scope if parsed else text
