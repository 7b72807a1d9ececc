"""Values to small numbers and back: equal values have one number, so states compare fast."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value", bound=Hashable)


class Interned(Generic[Value]):
    """A growing table of distinct values."""

    def __init__(self) -> None:
        self._numbers: dict[Value, int] = {}
        self._values: list[Value] = []

    def number(self, value: Value) -> int:
        """Return the number of a value, a new one if it is new."""
        number = self._numbers.get(value)
        if number is None:
            number = len(self._values)
            self._numbers[value] = number
            self._values.append(value)
        return number

    def value(self, number: int) -> Value:
        """Return the value of a number."""
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)
