"""Kills a run again and again: a process that has imported everything forks one after the other, and ends each.

    python killed.py KILLS SEED ARGUMENT ...

Prints how many were killed while they ran, then lets one run to its end and exits with its code.
"""

import os
import random
import signal
import sys
import time
import traceback

from transformers import AutoTokenizer  # noqa: F401  (imported once, for all, with all that it imports)

from mimir_jax import audit, cli, experiment  # noqa: F401
from mimir_jax.report import results, written
from mimir_jax.scoring import engine, store

written.write_report = lambda folder: None  # as in all other tests
results.write_roc = lambda path, scores, is_member: None
store.SECONDS = 0.05  # so that there is much to be torn
SLOW = 0.05  # seconds a pass: longer than all attempts together


def attempt(arguments: list[str], slow: bool) -> tuple[int, int]:
    """The process that runs it, and a pipe that has a byte when it scores."""
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        return child, told
    if slow:
        checked = engine._checked

        def slowly(number: int, stats: object) -> object:
            os.write(tell, b"1")
            time.sleep(SLOW)
            return checked(number, stats)  # type: ignore[arg-type]

        engine._checked = slowly  # type: ignore[assignment]
    code = 1
    try:
        code = cli.main(arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> int:
    kills, seed, *arguments = sys.argv[1:]
    rng, killed, scoring = random.Random(int(seed)), 0, 0
    while killed < int(kills):
        child, told = attempt(arguments, slow=True)
        if rng.random() < 0.75:  # while it scores, after so many passes; else while it starts
            passes = rng.randint(1, 12)
            while passes > 0 and (done := len(os.read(told, passes))):
                passes -= done
            scoring += passes == 0
            time.sleep(rng.uniform(0, SLOW))
        else:
            time.sleep(rng.uniform(0, 1))
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            print("an attempt ended by itself")
            return 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        killed += 1
    print(f"killed {killed}, {scoring} of them while they scored")
    sys.stdout.flush()
    return os.waitstatus_to_exitcode(os.waitpid(attempt(arguments, slow=False)[0], 0)[1])


if __name__ == "__main__":
    sys.exit(main())
