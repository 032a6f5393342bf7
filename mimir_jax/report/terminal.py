"""Progress in the terminal: for process 0, and only where a person looks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from mimir_jax.report.tables import visible


class Bar(Protocol):
    """One long step."""

    def start(self, total: int) -> None:
        """The step turns out to be so many tokens."""

    def advance(self, tokens: int) -> None:
        """So many more are done."""


Bars = Callable[[str], AbstractContextManager[Bar]]


class _Silent:
    def start(self, total: int) -> None: ...

    def advance(self, tokens: int) -> None: ...


@contextmanager
def silent(description: str) -> Iterator[Bar]:
    """No output."""
    yield _Silent()


class _Rate(ProgressColumn):
    """Tokens per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} tokens/s" if task.speed else "")


@dataclass(frozen=True)
class _RichBar:
    progress: Progress
    task: TaskID

    def start(self, total: int) -> None:
        self.progress.reset(self.task, total=total)

    def advance(self, tokens: int) -> None:
        self.progress.advance(self.task, tokens)


def bars(console: Console) -> Bars:
    """Bars on a console; silent where it is no terminal."""
    if not console.is_terminal:
        return silent

    @contextmanager
    def bar(description: str) -> Iterator[Bar]:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), _Rate(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            yield _RichBar(progress, progress.add_task(visible(description), total=None))

    return bar
