"""Untrusted text in terminals, spreadsheets, LaTeX and Markdown."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimir_jax.report.escape import FORMULA, csv_cell, latex, markdown, visible

ANY = st.text(st.characters(), max_size=30)  # surrogates and control characters, too


@given(ANY)
def test_nothing_acts_on_a_line(text: str) -> None:
    for written in visible(text), csv_cell(text), latex(text), markdown(text):
        assert written.isprintable()
        written.encode()  # no half of a surrogate pair is left


@given(st.sampled_from(["", " ", "\t", "\n", "\r", "\u3000", "\ufeff"]), st.sampled_from([*FORMULA, "＝", "＋"]), ANY)
def test_no_cell_is_a_formula(before: str, sign: str, rest: str) -> None:
    cell = csv_cell(before + sign + rest)
    assert cell.lstrip()[:1] not in FORMULA
    assert not cell.startswith(("\t", "\r", "\n"))


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "@SUM(1)", "-2+3", "+1", "\t=1", " =1", "\r=1", "\n=1"])
def test_formulas(text: str) -> None:
    assert csv_cell(text)[0] in ("'", "\\")


@pytest.mark.parametrize("text", ["min_k++", "loss", "", "ref-a=b", "日本"])
def test_ordinary_cells_stay(text: str) -> None:
    assert csv_cell(text) == text


@given(st.lists(ANY, min_size=1, max_size=4))
def test_a_row_of_cells_is_read_again(texts: list[str]) -> None:
    out = io.StringIO()
    csv.writer(out).writerow(map(csv_cell, texts))
    assert next(csv.reader(io.StringIO(out.getvalue()))) == [csv_cell(text) for text in texts]


@given(ANY)
def test_latex_has_no_command_but_ours(text: str) -> None:
    ours = r"textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|textquotedbl"
    ours += r"|textasciigrave|textquotesingle"
    rest = re.sub(rf"\\(?:{ours})\{{\}}|\\[&%$#_{{}}]|\{{-\}}|\$-\$", "", latex(text))
    assert not set(rest) & set("\\&%$#_{}~^")


def test_latex_by_example() -> None:
    assert latex(r"\input{/etc/passwd} 50% a_b & c#d $x$ ~^") == (
        r"\textbackslash{}input\{/etc/passwd\} 50\% a\_b \& c\#d \$x\$ \textasciitilde{}\textasciicircum{}"
    )
    assert latex("−.012 – x") == "$-$.012 -- x"


@given(ANY)
def test_markdown_has_no_markup(text: str) -> None:
    written = markdown(text)
    assert "<" not in written
    assert ">" not in written
    bare = re.sub(r"\\[\\`*_{}\[\]()#!|~]", "", written)
    assert not set(bare) & set("\\`*_{}[]()!|~")
    assert "://" not in written
