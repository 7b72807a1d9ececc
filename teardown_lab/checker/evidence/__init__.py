"""Records that tell the same thing, compared: derive, do not believe.

Most of what matters stands in a history twice. Each file here takes one kind of evidence, derives
from one part of the history what another part must say, and yields a note for what is missing or
contradicts. `examine` gathers them, and says which of the checker's findings rest on what cannot be
believed.
"""

from teardown_lab.checker.evidence.doubts import Doubts, examine

__all__ = ["Doubts", "examine"]
