"""Golden files: the wire, frozen; one JSON file a message type.

`TEARDOWN_GOLDEN=write pytest tests/unit/vm_protocol/test_golden.py` writes them anew. A change in
one is a change of the wire format: SCHEMA_VERSION says whether old services still understand it.
"""

import json
import os
from pathlib import Path
from typing import Any

from vm_protocol.codec import Packet

FOLDER = Path(__file__).parent.parent / "golden"
IS_WRITING = os.environ.get("TEARDOWN_GOLDEN") == "write"


def as_data(packet: Packet) -> dict[str, Any]:
    """Return a packet as JSON data."""
    return {
        "properties": dict(packet.properties),
        "headers": dict(packet.headers),
        "body": json.loads(packet.body),
    }


def as_packet(data: dict[str, Any]) -> Packet:
    """Return the packet that a golden file describes."""
    return Packet(json.dumps(data["body"]).encode(), data["properties"], data["headers"])


def frozen(name: str, packet: Packet) -> dict[str, Any]:
    """Return what a type's golden file holds, after writing it if that is asked for."""
    file = FOLDER / f"{name}.json"
    if IS_WRITING:
        FOLDER.mkdir(exist_ok=True)
        file.write_text(json.dumps(as_data(packet), indent=2) + "\n", encoding="utf-8")
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data
