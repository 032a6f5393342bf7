"""Resident memory of this process, and the highest that it reaches."""

import os
import resource
import threading
from collections.abc import Callable
from types import TracebackType

PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes of physical memory that this process holds, mapped files included."""
    return _pages()[0] * PAGE


def anonymous() -> int:
    """Bytes of physical memory behind no file: RssAnon of /proc/self/status, which takes longer to read."""
    total, files = _pages()
    return (total - files) * PAGE


def _pages() -> tuple[int, int]:
    with open("/proc/self/statm", "rb") as file:
        _, total, files, *_ = file.read().split()
    return int(total), int(files)


class Peak:
    """Samples `measure` in a thread while its block runs; `bytes` is the highest value."""

    def __init__(self, measure: Callable[[], int], interval: float):
        self.bytes = 0
        self._measure, self._interval = measure, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._measure())
            if self._stop.wait(self._interval):
                return

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._measure())


def allowed_processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0))
