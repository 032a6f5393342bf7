"""What runs that follow one another share, beside a store of statistics: models that are loaded, and token ids."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Shelf:
    """A batch of runs hands one from run to run; by default a run keeps nothing beyond its end.

    Attributes:
        models: how many loaded models stay, those used last; the memory of all of them is taken at once.
    """

    models: int = 0
    _loaded: dict[Hashable, Any] = field(default_factory=dict)
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def model(self, key: Hashable, load: Callable[[], T]) -> T:
        """The model of a key, loaded if it is not here; the one that was used longest ago goes."""
        found = self._loaded.pop(key, None)
        while found is None and len(self._loaded) >= max(self.models, 1):
            self._loaded.pop(next(iter(self._loaded)))  # before the next is loaded, so that there is room
        model = load() if found is None else found
        if self.models:
            self._loaded[key] = model
        return model

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """A value that is the same in every run of the batch, such as the tokens of a data set."""
        if not self.models:
            return compute()
        if key not in self._kept:
            self._kept[key] = compute()
        found: T = self._kept[key]
        return found
