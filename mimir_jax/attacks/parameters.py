"""Ranges of the attacks' parameters, declared once, in the functions' signatures.

A function annotates a parameter with `Share`, `Count` or `Positive` and checks it on entry. The registry
reads the same annotation, so that a value out of range is an error before any model is loaded.
"""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The values x with above < x <= up_to."""

    above: int | float
    up_to: int | float = math.inf

    def __str__(self) -> str:
        upper = "" if math.isinf(self.up_to) else f" and at most {self.up_to:g}"
        return f"above {self.above:g}{upper}"

    def check(self, name: str, value: int | float) -> None:
        """Raise a ValueError that names the parameter unless its value is in the range; NaN never is."""
        if not self.above < value <= self.up_to:
            raise ValueError(f"{name} must be {self}, got {value!r}")


SHARE = Range(above=0, up_to=1)
POSITIVE = Range(above=0)

Share = Annotated[int | float, SHARE]
Count = Annotated[int, POSITIVE]
Positive = Annotated[int | float, POSITIVE]
