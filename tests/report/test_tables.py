"""The metrics table as a terminal shows it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from mimir_jax.metrics import Metrics, evaluate
from mimir_jax.report.tables import baselines_table, checkpoints_table, metrics_table, visible

IS_MEMBER = np.arange(400) < 200


def metrics_of(n_unscored: int = 0, fprs: tuple[float, ...] = (0.001, 0.01, 0.05)) -> Metrics:
    scores = np.random.default_rng(0).normal(size=400) + IS_MEMBER
    scores[:n_unscored] = np.nan
    return evaluate(scores, IS_MEMBER, fprs=fprs, n_bootstrap=50)


def printed(table: Table, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(table)
    return out.getvalue()


def shown(metrics: dict[str, Metrics], title: str = "", width: int = 80) -> str:
    return printed(metrics_table(metrics, title), width)


def cell(share: float) -> str:
    return f"{share:.3f}".removeprefix("0")


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
    assert "95% intervals" in text


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
    assert "90% intervals" in text
    assert "95% intervals" in text


def test_no_attacks() -> None:
    assert "attack" in shown({})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain text, ünïcode, 日本, 🙂", "plain text, ünïcode, 日本, 🙂"),
        ("\0\x07\x1b]0;title\x07", r"\x00\x07\x1b]0;title\x07"),
        ("\r\n\x85\u2029", r"\r\n\x85\u2029"),
        ("\x9b2J", r"\x9b2J"),  # one character that some terminals take for an escape and a bracket
        ("\u202eevil\u2066\u200b\ufeff", r"\u202eevil\u2066\u200b\ufeff"),
        ("caf\udce9 \U000e0041", r"caf\udce9 \U000e0041"),
    ],
)
def test_visible_writes_out_the_rest(text: str, expected: str) -> None:
    assert visible(text) == expected
    assert visible(expected) == expected
    visible(text).encode()


def test_checkpoints_side_by_side() -> None:
    scores = {
        f"epoch{epoch}/{attack}": np.random.default_rng([epoch, i]).normal(size=400) + 0.2 * epoch * IS_MEMBER
        for epoch in (1, 2, 4)
        for i, attack in enumerate(["loss", "min_k@k=0.1", "ref-gpt"])
    }
    metrics = evaluate(scores, IS_MEMBER, n_bootstrap=50)
    text = printed(checkpoints_table(metrics, title="results/demo"))
    lines = text.splitlines()
    assert "results/demo" in lines[0]
    header = next(line for line in lines if "epoch1" in line)
    assert header.split() == ["attack", "epoch1", "epoch2", "epoch4"]
    for attack in ("loss", "min_k@k=0.1", "ref-gpt"):
        at = next(i for i, line in enumerate(lines) if line.split()[:1] == [attack])
        rows = [metrics[f"epoch{epoch}/{attack}"].auc_roc for epoch in (1, 2, 4)]
        assert lines[at].split() == [attack, *(cell(row.value) for row in rows)]
        assert lines[at + 1].split() == [f"[{cell(row.low)},{cell(row.high)}]" for row in rows]
    assert "AUC-ROC" in text
    assert "95% intervals" in text


def test_checkpoints_table_has_gaps_where_there_is_no_metric() -> None:
    row = metrics_of()
    text = printed(checkpoints_table({"a/loss": row, "b/loss": row, "b/surp": row}))
    surp = next(line for line in text.splitlines() if line.split()[:1] == ["surp"])
    assert surp.split() == ["surp", "-", cell(row.auc_roc.value)]


def test_five_checkpoints_fit_eighty_columns() -> None:
    text = printed(checkpoints_table({f"demo-epoch{2**i}/max_norm_weighted": metrics_of() for i in range(5)}))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count(f"[{cell(metrics_of().auc_roc.low)}") == 5


def test_many_checkpoints_are_folded_not_cut() -> None:
    text = printed(checkpoints_table({f"pythia-160m@step{n}/loss": metrics_of() for n in range(12)}))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_checkpoints_table_does_not_obey_names() -> None:
    hostile = "[red]x[red] \x1b[2J\u202e"
    text = printed(checkpoints_table({f"{hostile}/{hostile}": metrics_of()}, title=hostile), width=160)
    assert text.count(r"[red]x[red] \x1b[2J\u202e") == 3
    assert "\x1b[2J" not in text


def test_no_checkpoints() -> None:
    assert "attack" in printed(checkpoints_table({}))


AUDIT = {
    "baselines": {
        "dates": {"auc_roc": 0.9, "low": 0.85, "high": 0.94},
        "zlib": {"auc_roc": 0.5, "low": 0.45, "high": 0.55},
    },
    "best": {"name": "chosen in nested folds", "auc_roc": 0.91, "low": 0.86, "high": 0.95, "chosen": {"dates": 5}},
    "comparisons": {"loss": {"beats": False}, "min_k": {"beats": True}, "a/loss": {"beats": False}},
}


def test_what_needs_no_model_is_beside_the_attacks() -> None:
    rows = {"loss": metrics_of(), "min_k": metrics_of()}
    auc = cell(rows["loss"].auc_roc.value)
    text = printed(metrics_table(rows, audit=AUDIT))
    lines = [line.strip() for line in text.splitlines()]
    assert f"{auc}†" in next(line for line in lines if line.startswith("loss"))
    assert f"{auc}†" not in next(line for line in lines if line.startswith("min_k"))
    assert ".910" in next(line for line in lines if "no model" in line)
    assert "[.860,.950]" in text
    assert "† does not beat what is reached without the model" in text
    for line in lines:
        assert len(line) <= 80
    beaten = AUDIT | {"comparisons": {"loss": {"beats": True}}}
    assert "†" not in printed(metrics_table(rows, audit=beaten))
    nothing = {"baselines": {}, "best": None, "comparisons": {}}
    assert printed(metrics_table(rows, audit=nothing)) == printed(metrics_table(rows))


def test_what_needs_no_model_beside_checkpoints() -> None:
    text = printed(checkpoints_table({"a/loss": metrics_of(), "b/loss": metrics_of()}, audit=AUDIT))
    assert text.count("†") == 2  # at one AUC, and where it is explained
    assert text.count(".910") == 2


def test_baselines_are_in_order() -> None:
    text = printed(baselines_table(AUDIT, title="x"))
    assert text.index("dates") < text.index("zlib") < text.index("best, chosen in nested folds")
