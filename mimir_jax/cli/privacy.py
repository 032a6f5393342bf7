"""`mimir-jax privacy`: fine-tune a base on documents, and show those that the checkpoint gives away most."""

from rich.console import Console

from mimir_jax.cli.shared import parse, say


def main(arguments: list[str], console: Console, errors: Console) -> None:
    from mimir_jax.privacy import PrivacyConfig, audit_checkpoint
    from mimir_jax.report.tables import risk_table
    from mimir_jax.report.terminal import bars

    config = parse(PrivacyConfig, "privacy", arguments)
    risk = audit_checkpoint(config, bars(errors))
    names = [document.id for document in risk.documents]
    console.print(risk_table(names, risk.score, risk.p_value, risk.exposed, config.fpr))
    for note in risk.results.notes:
        say(console, f"note: {note}")
    say(console, f"written: {risk.path}, and token by token {risk.results.folder / 'report.html'}")
