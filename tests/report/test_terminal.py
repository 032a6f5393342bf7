"""Progress bars: seen on a terminal, unseen everywhere else, and deaf to what a description holds."""

import io
import re

import pytest
from rich.console import Console

from mimir_jax.report import terminal
from mimir_jax.report.terminal import bars, silent

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(autouse=True)
def dumb_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell may say of colors and terminals must not decide a test."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def on_terminal(width: int = 100) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=True, width=width), out


def test_bar_shows_step_and_rate_and_leaves_nothing() -> None:
    console, out = on_terminal()
    with bars(console)("score pythia", "tokens") as bar:
        bar.start(4000)
        for _ in range(4):
            bar.advance(1000)
    text = ESCAPES.sub("", out.getvalue())
    assert "score pythia" in text
    assert re.search(r"\d tokens/s", text)
    assert out.getvalue().endswith("\x1b[2K")  # its line is erased: the results follow on a clean screen


def test_bytes_are_shown_in_their_own_units() -> None:
    console, out = on_terminal()
    with bars(console)("load pythia", "bytes") as bar:
        bar.start(10**9)
        bar.advance(10**8)
        bar.advance(9 * 10**8)
    assert re.search(r"\d ([kMGT]B|bytes)/s", ESCAPES.sub("", out.getvalue()))


def test_step_without_a_total() -> None:
    console, out = on_terminal()
    with bars(console)("metrics"):
        pass
    text = ESCAPES.sub("", out.getvalue())
    assert "metrics" in text
    assert "/s" not in text


def test_a_step_that_fails_gives_the_terminal_back() -> None:
    console, out = on_terminal()

    def step() -> None:
        with bars(console)("score", "tokens") as bar:
            bar.start(10)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        step()
    assert out.getvalue().rfind("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")  # the cursor is shown again


def test_several_steps_after_one_another() -> None:
    console, out = on_terminal()
    make = bars(console)
    for step in ("load", "score", "attacks"):
        with make(step, "tokens") as bar:
            bar.start(0)
    text = ESCAPES.sub("", out.getvalue())
    assert text.index("load") < text.index("score") < text.index("attacks")


def test_untrusted_descriptions_are_shown_not_obeyed() -> None:
    console, out = on_terminal(width=160)
    with bars(console)("[red]x[/red] [/] {task.id} \x1b[5n\r\u202e:smile:") as bar:
        bar.start(1)
    assert r"[red]x[/red] [/] {task.id} \x1b[5n\r\u202e:smile:" in ESCAPES.sub("", out.getvalue())
    assert "\x1b[5n" not in out.getvalue()


def test_no_output_where_nobody_looks() -> None:
    out = io.StringIO()
    make = bars(Console(file=out, width=100))
    assert make is silent
    with make("score", "tokens") as bar:
        bar.start(10)
        bar.advance(10)
    assert out.getvalue() == ""


def test_silent_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with silent("score") as bar:
        bar.start(10)
        bar.advance(10)
    assert capfd.readouterr() == ("", "")


def test_protocols_are_met() -> None:
    steps: list[terminal.Bars] = [silent, bars(on_terminal()[0])]
    for make in steps:
        with make("step", unit="tokens") as bar:
            bar.start(1)
            bar.advance(1)
