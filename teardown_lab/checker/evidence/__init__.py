"""What a history says twice, held against itself: derive, do not believe.

Each file here takes one kind of evidence and yields a note for what is missing or contradicts.
`examine` gathers them, and says which of the checker's findings rest on what cannot be believed.
"""

from teardown_lab.checker.evidence.doubts import Doubts, examine

__all__ = ["Doubts", "examine"]
