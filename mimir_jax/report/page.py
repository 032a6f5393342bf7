"""report.html: one file that a reviewer can be sent, of one run or of several side by side.

The page fetches nothing and runs nothing. Whatever comes from documents, models and files is escaped by the template
engine, with control and bidirectional characters written out.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mimir_jax.config import RunConfig, to_json
from mimir_jax.report.blind import blind_grids
from mimir_jax.report.escape import visible
from mimir_jax.report.exports import write_tables
from mimir_jax.report.exposure import ExposedDocument
from mimir_jax.report.findings import cautions, command, verdict
from mimir_jax.report.finished import Finished
from mimir_jax.report.pictures import MOST_DRAWN, Figures, drawn_trend, figures_of, save_figures, trend_grid, trend_of
from mimir_jax.report.results import FIGURES, REPORT, TABLES, write_text
from mimir_jax.report.summary import entries, groups_grid, metrics_grid, paired_grid, side_by_side, transfer_grids

LEVELS = (
    (-7.0, "below −7"),
    (-4.0, "−7 to −4"),
    (-2.0, "−4 to −2"),
    (-1.0, "−2 to −1"),
    (-0.5, "−1 to −.5"),
    (-0.1, "−.5 to −.1"),
    (0.0, "above −.1"),
)
"""Upper ends of the heat map's levels, in nats."""


@dataclass(frozen=True)
class Token:
    """A token of a heat map, as text that is escaped by the template."""

    text: str
    written: str
    level: int | None
    window: int | None
    values: str
    log_prob: str
    z: str
    rank: str


def write_report(run: Finished, papers: bool = False) -> Path:
    """Write report.html and the tables of a run into its folder; and the figures as SVG and PDF, for `papers`.

    Returns:
        the page's path.
    """
    drawn = figures_of(run)
    grids = [metrics_grid(run), *(groups_grid(one) for one, _ in drawn.groups)]
    if drawn.trend is not None:
        grids.append(trend_grid(drawn.trend))
    if run.audit is not None:
        grids += blind_grids(run.audit)
    grids += transfer_grids(run)
    write_tables(run.folder / TABLES, grids)
    if papers:
        save_figures(run.folder / FIGURES, drawn.for_papers(run))
    path = run.folder / REPORT
    write_text(path, _page("run.html", _context(run, drawn)))
    return path


def write_comparison(runs: Sequence[Finished], folder: Path, papers: bool = False) -> Path:
    """Write report.html and tables of several runs side by side into a folder, which is made.

    Models are compared by paired tests where the documents are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data, grids, drawn = [], [], []
    for number, (name, found) in enumerate(entries(runs).items(), start=1):
        grid, paired = side_by_side(name, found, number), paired_grid(name, found, number)
        over = trend_of(found)
        figure = None if over is None else drawn_trend(over, f"trend_{number}")
        grids += [one for one in (grid, paired) if one is not None]
        drawn += [figure] if figure else []
        data.append({"name": name, "grid": grid, "paired": paired, "trend": figure})
    write_tables(folder / TABLES, grids)
    if papers:
        save_figures(folder / FIGURES, drawn)
    answer, kind = _joint_answer(runs)
    said = [
        {"name": run.name, "answer": verdict(run.metrics, run.audit).answer, "command": command(run.config)}
        for run in runs
    ]
    context = {"title": f"{len(runs)} runs", "count": len(runs), "answer": answer, "kind": kind, "data": data}
    path = folder / REPORT
    write_text(path, _page("comparison.html", {**context, "runs": said}))
    return path


def _joint_answer(runs: Sequence[Finished]) -> tuple[str, str]:
    """One sentence of all runs, and its kind."""
    found = [verdict(run.metrics, run.audit) for run in runs]
    leaks = [run.name for run, one in zip(runs, found) if one.kind == "leak"]
    if not leaks:
        return f"In none of {len(runs)} runs does an attack show membership.", "nothing"
    if len(leaks) == len(runs):
        return f"In each of {len(runs)} runs an attack separates members from non-members.", "leak"
    return f"In {len(leaks)} of {len(runs)} runs an attack separates members: {', '.join(leaks)}.", "leak"


def _context(run: Finished, drawn: Figures) -> dict[str, Any]:
    over = None
    if drawn.trend is not None:
        over = {"grid": trend_grid(drawn.trend), "figure": drawn.over_models}
    groups = [{"grid": groups_grid(one), "figure": figure} for one, figure in drawn.groups]
    sections = [("metrics", "Metrics")]
    sections += [("roc", "ROC curves"), ("scores", "Scores")] if drawn.roc else []
    sections += [(f"by-{i}", f"By {one.what}") for i, (one, _) in enumerate(drawn.groups, start=1)]
    sections += [("trend", "Over models")] if over else []
    sections += [("documents", "Documents"), ("provenance", "Configuration and provenance")]
    asked = run.config.endpoint.base_url is not None
    return {
        "title": f"{run.name}: membership inference report",
        "run": run,
        "verdict": verdict(run.metrics, run.audit),
        "subject": _subject(run),
        "cautions": list(cautions(run)),
        "sections": sections,
        "metrics": metrics_grid(run),
        "blind": [] if run.audit is None else list(blind_grids(run.audit)),
        "roc": drawn.roc,
        "distributions": drawn.distributions,
        "not_drawn": ", ".join(drawn.not_drawn) if len(drawn.not_drawn) <= 2 * MOST_DRAWN else "the other models'",
        "transfers": list(transfer_grids(run)),
        "groups": groups,
        "trend": over,
        "exposure": run.exposure,
        "tokens": lambda document: list(_tokens(document)),
        "levels": [(i, name) for i, (_, name) in enumerate(LEVELS)],
        "no_tokens": "an endpoint does not tell which tokens a text has."
        if asked
        else "none were kept, or they were left out.",
        "command": command(run.config),
        "settings": list(_settings(run.config, RunConfig())),
        "provenance": list(_provenance(run)),
        "config_json": to_json(run.config),
        "run_json": json.dumps(run.run, indent=2, ensure_ascii=False),
    }


def _subject(run: Finished) -> str:
    models = run.models
    who = models[0] if len(models) == 1 else f"{len(models)} models ({', '.join(models)})"
    members = int(run.is_member.sum())
    return (
        f"{who} on {run.data}: {members} members and {len(run.is_member) - members} non-members. "
        "A higher score means: more likely a member."
    )


def _tokens(document: ExposedDocument) -> Iterator[Token]:
    window = {start: number for number, start in enumerate(document.windows, start=2)}
    for i, (piece, log_prob, z, rank) in enumerate(zip(document.pieces, document.log_prob, document.z, document.rank)):
        level = None if log_prob is None else next((n for n, (end, _) in enumerate(LEVELS) if log_prob < end), 6)
        numbers = [_number(log_prob), _number(z), "–" if rank is None else str(rank)]
        values = f"log-prob {numbers[0]} nats · z {numbers[1]} · rank {numbers[2]}"
        yield Token(
            text=piece,
            written=f"“{visible(piece)}”",
            level=level,
            window=window.get(i),
            values="not predicted" if log_prob is None else values,
            log_prob=numbers[0],
            z=numbers[1],
            rank=numbers[2],
        )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _settings(config: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value, usual = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, usual, f"{prefix}{field.name}.")
        elif value != usual:
            yield prefix + field.name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _provenance(run: Finished) -> Iterator[tuple[str, str]]:
    facts = run.run
    for kind in ("targets", "references"):
        for one in facts.get(kind, []):
            digests = ", ".join(f"{name} {digest[:12]}" for name, digest in sorted((one.get("files") or {}).items()))
            where = one.get("folder") or one.get("endpoint", "")
            revision = f" at {one['revision']}" if one.get("revision") else ""
            yield kind.removesuffix("s"), f"{one.get('name', '')}{revision}: {where} ({digests or 'no files'})"
    yield "documents", f"fingerprint {run.fingerprint}"
    versions = facts.get("versions", {})
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    device = facts.get("device", {})
    mesh = " x ".join(f"{name} {size}" for name, size in facts.get("mesh", {}).items())
    yield "devices", f"{device.get('count', '?')} of kind {device.get('kind', '?')}, mesh {mesh}"
    for name, stage in facts.get("stages", {}).items():
        rate = f", {stage['tokens_per_second']:,.0f} tokens/s" if stage.get("tokens_per_second") else ""
        yield f"time: {name}", f"{stage.get('seconds', 0):.1f} s{rate}"


def _page(template: str, context: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mimir_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else _shown(str(value)),
    )
    return environment.get_template(template).render(**context)


def _shown(text: str) -> str:
    """Any text, with the characters written out that would act on the page, or that UTF-8 cannot hold."""
    return "".join(c if c in "\n\t" else visible(c) for c in text)
