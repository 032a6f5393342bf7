"""Kills a run again and again: a process that has imported everything forks one after the other, and ends each.

    python killed.py KILLS SEED ARGUMENT ...

Prints how many were killed while they ran, then lets one run to its end and exits with its code.
"""

import os
import random
import signal
import sys
import time

import jax
import transformers  # noqa: F401  (imported once, for all)

from mimir_jax import audit, cli, experiment  # noqa: F401
from mimir_jax.scoring import engine, store

store.SECONDS = 0.05  # so that there is much to be torn
SLOW = 0.03  # seconds a pass: longer than all attempts together


def attempt(arguments: list[str], slow: bool) -> int:
    """The process that runs it."""
    child = os.fork()
    if child:
        return child
    if slow:
        checked = engine._checked

        def slowly(number: int, stats: object) -> object:
            time.sleep(SLOW)
            return checked(number, stats)  # type: ignore[arg-type]

        engine._checked = slowly  # type: ignore[assignment]
    code = 1
    try:
        code = cli.main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> int:
    kills, seed, *arguments = sys.argv[1:]
    rng, killed = random.Random(int(seed)), 0
    jax.config.update("jax_enable_compilation_cache", True)
    while killed < int(kills):
        child = attempt(arguments, slow=True)
        time.sleep(rng.uniform(0.2, 2.5))
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
        else:
            print("an attempt ended by itself")
            return 1
    print(f"killed {killed}")
    sys.stdout.flush()
    return os.waitstatus_to_exitcode(os.waitpid(attempt(arguments, slow=False), 0)[1])


if __name__ == "__main__":
    sys.exit(main())
