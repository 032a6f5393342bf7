"""Untrusted text, made harmless for what it is written to; HTML is escaped by the page's template.

Documents, and the names of files, sources and models, come from others: none of them may act on a terminal, a
spreadsheet or a typesetter.
"""

FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for the beginning of a formula, also behind white space and full-width."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": "{-}",  # two of them would be a dash
    "−": "$-$",
    "–": "--",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def visible(text: str) -> str:
    """Untrusted text on one line: control, bidirectional and other unprintable characters written out.

    `a\\x1b[2J` would clear the terminal; it becomes the characters `a`, backslash, `x1b[2J`.

    >>> print(visible("a\\x1b[2J"))
    a\\x1b[2J
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def encodable(text: str) -> str:
    """Text with what UTF-8 cannot hold, as file names and escapes of JSON can, written out.

    >>> encodable("caf\\udce9")
    'caf\\\\udce9'
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def csv_cell(text: str) -> str:
    """A cell's text that no spreadsheet computes: an apostrophe goes before what would be a formula.

    The csv module quotes separators and quotation marks; a formula it leaves alone (OWASP, "CSV Injection").

    >>> csv_cell("=1+1"), csv_cell("min_k++")
    ("'=1+1", 'min_k++')
    """
    text = visible(text)
    first = text.lstrip()[:1]
    return "'" + text if first and first in (*FORMULA, *"＝＋－＠") else text


def latex(text: str) -> str:
    """Text for LaTeX's text mode, where nothing of it is a command.

    >>> print(latex("min_k@k=50%"))
    min\\_k@k=50\\%
    """
    return "".join(_LATEX.get(c, c) for c in visible(text))


def markdown(text: str) -> str:
    """Text for a cell of a Markdown table: no markup, no HTML, no end of the cell.

    >>> print(markdown("a|b <i> *c*"))
    a\\|b &lt;i&gt; \\*c\\*
    """
    escaped = visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A link needs a scheme and no markup at all: an entity for its colon is shown alike, and links nothing.
    escaped = "".join("\\" + c if c in "\\`*_{}[]()#!|~" else c for c in escaped)
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")
