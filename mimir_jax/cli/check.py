"""`mimir-jax check CONFIG`, or with the options of `run`: whatever is wrong is named, a line each."""

from rich.console import Console

from mimir_jax.cli.run import configuration, rules_of
from mimir_jax.cli.shared import complain, say


def main(arguments: list[str], console: Console, errors: Console) -> int:
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--config", *arguments]
    options, translation = configuration(arguments)
    from mimir_jax.check import check

    checked = check(options.config, rules_of(options.config))
    for fact in [*(translation.notes if translation else ()), *checked.facts]:
        say(console, fact)
    for problem in checked.problems:
        complain(errors, problem)
    return 2 if checked.problems else 0
