"""The lines of a history's file, plain or compressed by gzip; what they mean is history.py's."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

_GZIP: Final = b"\x1f\x8b"


class DamagedFile(Exception):
    """What gzip has written does not unpack; a file that is only cut off is no such file."""


class Lines:
    """The lines of a file, without their ends.

    A compressed file that ends too early, as that of a run that was killed, gives what can be
    unpacked of it.

    Attributes:
        cut_off: The line that came last has no end.
        is_short: The file was compressed, and ends before its end.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.cut_off = False
        self.is_short = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line; what the attributes say is so from then on.

        Raises:
            DamagedFile: It cannot be unpacked.
            OSError: It cannot be read.
        """
        with self._path.open("rb") as raw:
            is_packed = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if is_packed else raw
            try:
                for line in file:
                    self.cut_off = not line.endswith(b"\n")
                    yield line.removesuffix(b"\n")
            except EOFError:
                self.is_short = True
            except (gzip.BadGzipFile, zlib.error) as error:
                raise DamagedFile(f"it was compressed, and is damaged: {error}") from None
