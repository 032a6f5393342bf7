"""The command line: `mimir-jax NAME ...` calls `main` of mimir_jax/cli/NAME.py.

Each file reads its arguments first and imports what it computes with afterwards, so that --help waits for little.
"""

import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from mimir_jax.cli.shared import complain


class Command(NamedTuple):
    """A command as the usage shows it.

    Attributes:
        name: also of its file.
        arguments: in short.
        help: what it is for.
        options: whether --help after it lists options.
    """

    name: str
    arguments: str
    help: str
    options: bool = True


COMMANDS = (
    Command("run", "[--config FILE] [--any.field value ...]", "attack a model (run --help lists the fields)"),
    Command("check", "[CONFIG] [--any.field value ...]", "find all that is wrong with a run, in seconds"),
    Command("report", "RESULTS ...", "report.html of a results folder, or of several side by side"),
    Command("score", "[--any.field value ...]", "only compute and store the token statistics"),
    Command("attack", "[RESULTS_FOLDER] [--any.field value ...]", "attack what is stored, without the weights"),
    Command("plan", "--model M --topology v5e:4x4", "what a job needs, before any device is rented"),
    Command("audit", "--members FILE --nonmembers FILE", "what is reached without any model (audit --help)"),
    Command("overlap", "--out FOLDER --corpus FILE", "n-gram overlap of documents with a corpus"),
    Command("construct", "--out FOLDER --train FILE --heldout FILE", "members and non-members out of a corpus"),
    Command("compare", "RESULTS ...", "paired tests between attacks, or between runs"),
    Command("decide", "RESULTS --attack loss --fpr 0.01", "who is called a member, with rates on other documents"),
    Command("neighbors", "--neighbors.model MODEL --out FILE", "make texts close to each document (neighbors --help)"),
    Command("privacy", "--base M --documents FILE", "fine-tune, then tell which documents leaked"),
    Command("average", "FILE_results.json ...", "average MIMIR's results, such as those of references", options=False),
    Command("models", "", "list the model families", options=False),
    Command("convert", "IN OUT", "write a .gguf file or a folder with .bin as safetensors", options=False),
)


def usage() -> str:
    """The commands, a line each, and the exit codes."""
    lines = [f"mimir-jax {one.name} {one.arguments}".ljust(52) + "  " + one.help for one in COMMANDS]
    *others, last = (one.name for one in COMMANDS if one.options)
    options = f"--help after {', '.join(others)} or {last} lists its options."
    return "\n".join(
        [
            "usage: " + "\n       ".join(lines),
            "",
            *textwrap.wrap(options, 120),
            "Exit codes: 0 done; 2 the input is at fault, and stderr says what to do; 75 ended early, and the same "
            "command goes on;",
            "130 interrupted; 1 a defect, with its traceback.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 2 where the input is at fault and stderr says what to do; 75 where the same command goes on
    from where this one had to end; 130 where it was interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    name = arguments[0] if arguments else ""
    if name not in {one.name for one in COMMANDS}:
        errors.print(Text(usage()))
        return 0 if arguments in ([], ["-h"], ["--help"]) else 2
    try:
        command = import_module(f"mimir_jax.cli.{name}")
        return command.main(arguments[1:], Console(highlight=False), errors) or 0
    except KeyboardInterrupt:
        errors.print("mimir-jax: interrupted; what was computed is stored, and the same command goes on from there")
        return _leave(130)
    except Exception as error:
        if not isinstance(error, ValueError | RuntimeError) or not type(error).__module__.startswith("mimir_jax."):
            _leave(1, error)
            raise  # not an error of ours: a defect, whose traceback is wanted
        complain(errors, str(error))
        return _leave(_code(error))


def _code(error: Exception) -> int:
    from mimir_jax.parallel.hosts import RESUME, HostLostError
    from mimir_jax.parallel.preemption import Preempted

    return RESUME if isinstance(error, HostLostError | Preempted) else 2


def _leave(code: int, error: Exception | None = None) -> int:
    """The code; where other processes run, too, this is where one that fails ends."""
    if "jax" in sys.modules:
        from mimir_jax.parallel.hosts import leave

        leave(code, error)
    return code
