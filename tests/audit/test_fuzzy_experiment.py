"""The experiment end to end on the embedded example."""

import json
from pathlib import Path

import pytest

from experiments.fuzzy_membership import edited, main
from mimir_jax.config import ConfigError
from mimir_jax.data.embedded import demo_documents


@pytest.mark.slow
def test_the_more_edits_the_less_a_member(tmp_path: Path) -> None:
    members = [document for document in demo_documents() if document.is_member][:12]
    lines = [{"id": d.id, "neighbors": [d.text.replace(" the ", " a "), "unused"]} for d in members]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "fuzzy.json"
    main(max_documents=12, attacks=("loss",), edits=(1, 100), neighbors=str(tmp_path / "n.jsonl"), out=out)
    rows = json.loads(out.read_text())["loss"]
    assert list(rows) == ["1 edits", "100 edits", "neighbors"]
    assert rows["1 edits"]["as_members"]["value"] > rows["100 edits"]["as_members"]["value"]
    assert rows["100 edits"]["as_nonmembers"]["value"] > 0.95
    assert 0 < rows["1 edits"]["distance"] < rows["100 edits"]["distance"] < 1
    assert rows["1 edits"]["called"]["0.1"] >= rows["100 edits"]["called"]["0.1"]


def test_attacks_that_need_more() -> None:
    with pytest.raises(ConfigError, match="zlib: more than one plain pass"):
        edited("demo/epoch1", "demo/members", "demo/nonmembers", 2, ("loss", "zlib"), (1,), None, None, 0)
