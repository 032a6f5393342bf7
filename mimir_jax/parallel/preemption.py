"""SIGTERM: what is in flight is finished and stored, then the run ends with the code that says "resume me"."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Preempted(RuntimeError):
    """The run was asked to end; the same command goes on where it ended."""

    def __init__(self) -> None:
        super().__init__("asked to end (SIGTERM); what was computed is stored, and the same command goes on from there")


@dataclass
class Preemption:
    """Whether the run was asked to end.

    Attributes:
        asked: it was.
        deferred: how many blocks are open that end in order when they find that it was; elsewhere the signal raises.
    """

    asked: bool = False
    deferred: int = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM as the request to end; outside the main thread no signal arrives."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.deferred:
            raise Preempted

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """A block that looks at `asked` by itself; asked after its last look, the run ends with it.

        Raises:
            Preempted: it was asked.
        """
        self.deferred += 1
        try:
            yield
        finally:
            self.deferred -= 1
        if self.asked and not self.deferred:
            raise Preempted
