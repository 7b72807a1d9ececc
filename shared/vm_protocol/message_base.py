"""What every message of the wire has: the life of a VM that it is about, and an id.

A message's id is derived from what it says, never counted or drawn: the same command sent twice
has the same id, which is how receivers recognise a duplicate. `identity()` forms it.
"""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from vm_protocol import limits
from vm_protocol.message_ids import name_in_vm

VmName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=limits.NAME_CHARACTERS_MAX)
]
Ordinal = Annotated[int, Field(ge=1, le=limits.COUNT_MAX)]


class VmMessage(BaseModel):
    """A message about one life of a VM."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id_form: ClassVar[str]

    vm: VmName
    incarnation: Ordinal = 1

    def scope(self) -> str:
        """Return the part of the id that all messages about one VM share."""
        return f"{self.vm}.{self.incarnation}"

    def identity(self) -> str:
        """Return the message id, formed from the fields that `id_form` names."""
        return self.id_form.format(scope=self.scope(), **vars(self))

    @classmethod
    def id_of(cls, scope: str, **fields: object) -> str:
        """Return the id of a message of this type with these fields, those that `id_form` names."""
        return cls.id_form.format(scope=scope, **fields)

    @classmethod
    def fields_of(cls, message_id: str) -> dict[str, str]:
        """Return the fields that an id of this type names, as text; none of another type's id."""
        kind, *names = cls.id_form.removeprefix("{scope}/").split("/")
        named, *texts = name_in_vm(message_id).split("/")
        if (named, len(texts)) != (kind, len(names)):
            return {}
        return {name.strip("{}"): text for name, text in zip(names, texts, strict=True)}
