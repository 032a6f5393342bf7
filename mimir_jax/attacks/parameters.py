"""Limits of the attacks' parameters, declared once, in the functions' signatures.

A function annotates a parameter with `Share`, `Count` or the like and checks it on entry. The registry reads
the same annotation, so that a value out of range is an error before any model is loaded.
"""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The values x with above < x <= up_to, or at_least <= x <= up_to."""

    above: int | float = -math.inf
    up_to: int | float = math.inf
    at_least: int | float | None = None

    def __str__(self) -> str:
        lower = f"above {self.above:g}" if self.at_least is None else f"at least {self.at_least:g}"
        return lower + ("" if math.isinf(self.up_to) else f" and at most {self.up_to:g}")

    def check(self, name: str, value: int | float) -> int | float:
        """The value; a ValueError that names the parameter unless it is in the range, and NaN never is."""
        if not (self.above < value <= self.up_to and (self.at_least is None or value >= self.at_least)):
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return value


@dataclass(frozen=True)
class Choice:
    """These values and no others."""

    values: tuple[int | float, ...]

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.values))

    def check(self, name: str, value: int | float) -> int | float:
        """The value as it stands in `values`; a ValueError that names the parameter unless it is there."""
        if value not in self.values:
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return self.values[self.values.index(value)]


Limit = Range | Choice

SHARE = Range(above=0, up_to=1)
POSITIVE = Range(above=0)
NONNEGATIVE = Range(at_least=0)
WEIGHT = Range(at_least=0, up_to=1)
SWITCH = Choice((0, 1))

Share = Annotated[int | float, SHARE]
Count = Annotated[int, POSITIVE]
Positive = Annotated[int | float, POSITIVE]
NonNegative = Annotated[int | float, NONNEGATIVE]
Weight = Annotated[int | float, WEIGHT]
Switch = Annotated[int, SWITCH]
