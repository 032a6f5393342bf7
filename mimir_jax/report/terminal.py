"""Progress in the terminal: for process 0, and only where a person looks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from mimir_jax.report.tables import visible


@runtime_checkable
class Bar(Protocol):
    """One long step."""

    def start(self, total: int) -> None:
        """The step turns out to be so many units."""

    def advance(self, units: int) -> None:
        """So many more are done."""


@runtime_checkable
class Bars(Protocol):
    """Makes a bar for a step: what it is, and what it counts."""

    def __call__(self, description: str, unit: str = "") -> AbstractContextManager[Bar]: ...


class _Silent:
    def start(self, total: int) -> None: ...

    def advance(self, units: int) -> None: ...


@contextmanager
def silent(description: str, unit: str = "") -> Iterator[Bar]:
    """No output."""
    yield _Silent()


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        if not task.speed or not task.fields["unit"]:
            return Text("")
        return Text(
            f"{decimal(int(task.speed))}/s"
            if task.fields["unit"] == "bytes"
            else f"{task.speed:,.0f} {task.fields['unit']}/s"
        )


@dataclass(frozen=True)
class _RichBar:
    progress: Progress
    task: TaskID

    def start(self, total: int) -> None:
        self.progress.reset(self.task, total=total)

    def advance(self, units: int) -> None:
        self.progress.advance(self.task, units)


def bars(console: Console) -> Bars:
    """Bars on a console; silent where it is no terminal."""
    if not console.is_terminal:
        return silent

    @contextmanager
    def bar(description: str, unit: str = "") -> Iterator[Bar]:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), _Rate(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            yield _RichBar(progress, progress.add_task(visible(description), total=None, unit=unit))

    return bar
