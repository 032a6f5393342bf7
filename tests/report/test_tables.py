"""The metrics table as a terminal shows it."""

import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from mimir_jax.metrics import Metrics, evaluate
from mimir_jax.report.tables import metrics_table, visible

IS_MEMBER = np.arange(400) < 200


def metrics_of(n_unscored: int = 0, fprs: tuple[float, ...] = (0.001, 0.01, 0.05)) -> Metrics:
    scores = np.random.default_rng(0).normal(size=400) + IS_MEMBER
    scores[:n_unscored] = np.nan
    return evaluate(scores, IS_MEMBER, fprs=fprs, n_bootstrap=50)


def shown(metrics: dict[str, Metrics], title: str = "", width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(metrics_table(metrics, title))
    return out.getvalue()


def test_shows_every_number() -> None:
    row = metrics_of(n_unscored=7)
    text = shown({"loss": row}, title="pythia-160m on arxiv")
    assert "pythia-160m on arxiv" in text
    auc = [f"{x:.3f}".removeprefix("0") for x in (row.auc_roc.value, row.auc_roc.low, row.auc_roc.high)]
    assert auc[0] in text
    assert f"[{auc[1]},{auc[2]}]" in text
    assert f"{row.pr_auc.value:.3f}".removeprefix("0") in text
    for fpr, tpr in row.tpr_at_fpr.items():
        assert f"{100 * fpr:g}% FPR" in text
        assert f"{100 * tpr.value:.1f}%{'' if tpr.resolvable else '*'} " in text
        assert f"[{100 * tpr.low:.1f},{100 * tpr.high:.1f}]" in text
    assert "193 + 200" in text
    assert "7 unscored" in text
    assert "95% bootstrap intervals" in text


def test_unresolved_fprs_are_starred_and_explained() -> None:
    assert "too few non-members" in shown({"loss": metrics_of()})
    text = shown({"loss": metrics_of(fprs=(0.05,))})
    assert "*" not in text
    assert "unscored" not in text


def test_fits_eighty_columns_and_cuts_nothing() -> None:
    name = "min_k@k=0.1,window=3,stride=2,and_more"
    text = shown({name: metrics_of()})
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert name in shown({name: metrics_of()}, width=140)


def test_untrusted_text_is_shown_not_obeyed() -> None:
    hostile = "[red]x[/red][/] \x1b[2J\r\u202e:smile:\ud800"
    text = shown({hostile: metrics_of()}, title=hostile, width=160)
    literal = r"[red]x[/red][/] \x1b[2J\r\u202e:smile:\ud800"
    assert text.count(literal) == 2
    # rich itself styles the dim second lines, so only the hostile sequence must be gone.
    assert "\x1b[2J" not in text
    assert not {"\r", "\u202e", "\ud800"} & set(text)


def test_visible_keeps_printable_text() -> None:
    assert visible("Größe [日本] $x$ \\n") == "Größe [日本] $x$ \\n"
    assert visible("a\tb\u2028c\x7f") == r"a\tb\u2028c\x7f"


def test_attacks_with_other_fprs() -> None:
    text = shown({"a": metrics_of(fprs=(0.05,)), "b": replace(metrics_of(fprs=(0.1,)), confidence=0.9)}, width=120)
    assert "5% FPR" in text
    assert "10% FPR" in text
    assert "90% bootstrap intervals" in text
    assert "95% bootstrap intervals" in text


def test_no_attacks() -> None:
    assert "attack" in shown({})
