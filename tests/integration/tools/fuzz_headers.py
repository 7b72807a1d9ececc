"""Header fields of every AMQP type, as bytes: what brokers take, and client libraries may not."""

import random as randomness
import struct
from collections.abc import Callable

from integration.tools.raw_amqp import short_string, table

from vm_protocol import codec

Field = tuple[bytes, bytes]

NAMES = (b"a", b"x-a", b"x-stream-offset", b"x-delivery-count", b"\xc3\xbc", b"\xff", b"n" * 200)
_PACKED = {
    b"t": "B",
    b"b": "b",
    b"B": "B",
    b"U": "h",
    b"u": "H",
    b"s": "h",
    b"I": "i",
    b"i": "I",
    b"L": "q",
    b"l": "q",
    b"f": "f",
    b"d": "d",
    b"T": "Q",
}


def value(random: randomness.Random, depth: int = 0) -> bytes:
    """Return a value of a random type, its type first."""
    makers: list[Callable[[randomness.Random, int], bytes]] = [
        *[_number] * 6,
        _beyond_time,
        _beyond_time,
        _text,
        _bytes,
        _decimal,
        _void,
        _odd_float,
        _deep,
    ]
    if depth < 3:
        makers += [_array, _table]
    return random.choice(makers)(random, depth)


def fields(random: randomness.Random) -> list[Field]:
    """Return one to three fields of different names, some of them this protocol's own."""
    own = [header.encode() for header in (codec.SCHEMA_HEADER, *codec.HEADERS.values())]
    names = random.sample([*NAMES, *own], random.randrange(1, 4))
    return [(name, value(random)) for name in names]


def _number(random: randomness.Random, _: int) -> bytes:
    kind = random.choice([*_PACKED])
    size = struct.calcsize(">" + _PACKED[kind])
    return kind + random.choice(
        [bytes(size), b"\x7f" + b"\xff" * (size - 1), random.randbytes(size)]
    )


def _beyond_time(random: randomness.Random, _: int) -> bytes:
    seconds = [253_402_300_799, 253_402_300_800, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
    return b"T" + struct.pack(">Q", random.choice(seconds))


def _text(random: randomness.Random, _: int) -> bytes:
    texts = [b"", b"junk", b"\xff\xfe", b"\xed\xa0\x80", b"z" * random.randrange(60_000)]
    text = random.choice(texts)
    return b"S" + struct.pack(">I", len(text)) + text


def _bytes(random: randomness.Random, _: int) -> bytes:
    data = random.randbytes(random.randrange(300))
    return b"x" + struct.pack(">I", len(data)) + data


def _decimal(random: randomness.Random, _: int) -> bytes:
    return b"D" + struct.pack(">Bi", random.randrange(256), random.randrange(-(2**31), 2**31))


def _void(_random: randomness.Random, _: int) -> bytes:
    return b"V"


def _odd_float(random: randomness.Random, _: int) -> bytes:
    odd = random.choice([float("nan"), float("inf"), float("-inf"), 1e308])
    return b"d" + struct.pack(">d", odd)


def _deep(random: randomness.Random, _: int) -> bytes:
    inner = b"V"
    for _level in range(random.choice([5, 100, 1_500])):
        content = inner if random.random() < 0.5 else None
        if content is None:
            content = short_string(b"k") + inner
            inner = b"F" + struct.pack(">I", len(content)) + content
        else:
            inner = b"A" + struct.pack(">I", len(content)) + content
    return inner


def _array(random: randomness.Random, depth: int) -> bytes:
    content = b"".join(value(random, depth + 1) for _ in range(random.randrange(4)))
    return b"A" + struct.pack(">I", len(content)) + content


def _table(random: randomness.Random, depth: int) -> bytes:
    names = random.sample(NAMES, random.randrange(4))
    return b"F" + table(*((name, value(random, depth + 1)) for name in names))
