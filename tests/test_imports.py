"""Who may import whom, and what importing the package must not bring along."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mimir_jax"

# Each part of the package and the parts that it may import, beside itself (design.md).
MATRIX: dict[str, set[str]] = {
    "arrays": set(),
    "config": set(),
    "attacks": {"arrays"},
    "metrics": {"arrays"},
    "data": {"arrays", "config"},
    "models": {"arrays", "config"},
    "parallel": {"arrays", "config"},
    "scoring": {"models", "parallel", "data", "arrays", "config"},
    "audit": {"data", "metrics", "arrays"},
    "training": {"models", "parallel", "scoring", "data", "arrays", "config"},
    "report": {"metrics", "arrays", "config"},
}
EVERYTHING = set(MATRIX)
RUNNER = {
    "scores", "table", "identity", "neighbors", "target", "shots", "inputs", "shelf", "job", "in_out",
    "outcome", "exposure", "experiment", "check", "privacy",
}  # fmt: skip
MATRIX |= {
    "scores": {"attacks", "arrays"},
    "table": {"data", "report", "arrays", "scores"},
    "identity": {"attacks", "data", "scoring", "training", "config"},
    "neighbors": EVERYTHING,
    "target": EVERYTHING | {"neighbors"},
    "shots": EVERYTHING | {"target"},
    "inputs": EVERYTHING | {"scores", "neighbors", "target", "shots"},
    "shelf": {"scoring"},
    "job": EVERYTHING | {"inputs", "target", "scores", "shelf"},
    "in_out": EVERYTHING | {"inputs", "target", "scores", "job"},
    "exposure": EVERYTHING | {"target"},
    "outcome": EVERYTHING | {"scores", "table", "job"},
    "experiment": EVERYTHING | RUNNER - {"check", "privacy"},
    "check": EVERYTHING | RUNNER - {"privacy"},
    "privacy": EVERYTHING | RUNNER - {"check"},
    "compat": EVERYTHING | RUNNER - {"check", "privacy"},
    "testing": EVERYTHING | {"compat"},
    "plan": {"models", "scoring", "parallel", "arrays", "config"},
    "cli": EVERYTHING | RUNNER | {"compat", "testing", "plan"},
    # What a notebook user names; nothing that takes long to import (see below).
    "__init__": EVERYTHING,
}

# Attacks and metrics are pure functions of arrays.
PURE = ("attacks", "metrics")
IMPURE = {
    "builtins.open", "csv", "datasets", "gzip", "huggingface_hub", "io", "json", "os", "pathlib", "pickle", "pyarrow",
    "safetensors", "shutil", "socket", "subprocess", "tempfile", "tokenizers", "transformers", "flax",
    "jax.experimental.mesh_utils", "jax.experimental.multihost_utils", "jax.sharding",
}  # fmt: skip


def part_of(path: Path) -> str:
    """`attacks` of mimir_jax/attacks/min_k.py, `arrays` of mimir_jax/arrays.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports, `from a import b` as a.b, wherever in the file; and their lines."""
    package = ["mimir_jax", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{origin}.{alias.name}", node.lineno


FILES = sorted(PACKAGE.rglob("*.py"))


def test_the_package_is_found() -> None:
    assert len(FILES) > 30
    assert {"arrays", "attacks", "scoring", "__init__"} <= {part_of(path) for path in FILES}


def test_every_part_is_in_the_matrix() -> None:
    assert {part_of(path) for path in FILES} <= set(MATRIX)


@pytest.mark.parametrize("part", MATRIX)
def test_matrix(part: str) -> None:
    refused = []
    for path in FILES:
        if part_of(path) != part:
            continue
        for name, line in imports(path):
            if name.split(".")[0] != "mimir_jax":
                continue
            other = name.split(".")[1] if "." in name else "__init__"
            # `from mimir_jax import Name` goes through __init__, and so through everything
            other = other if other in MATRIX else "__init__"
            if other != part and other not in MATRIX[part]:
                refused.append(f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}")
    assert refused == []


def test_nobody_imports_the_command_line() -> None:
    assert not any("cli" in allowed for allowed in MATRIX.values())


@pytest.mark.parametrize("part", PURE)
def test_attacks_and_metrics_know_no_files_and_no_meshes(part: str) -> None:
    refused = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"
        for path in FILES
        if part_of(path) == part
        for name, line in imports(path)
        if any(name == impure or name.startswith(impure + ".") for impure in IMPURE)
    ]
    assert refused == []


@pytest.mark.parametrize("part", PURE)
def test_attacks_and_metrics_open_nothing(part: str) -> None:
    calls = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"
        for path in FILES
        if part_of(path) == part
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print", "input")
    ]
    assert calls == []


def test_importing_the_package_stays_light() -> None:
    """torch is no dependency; the others take seconds, and only the functions that use them need them."""
    code = "import mimir_jax, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stdout.split())
    assert "mimir_jax" in loaded
    assert loaded & {"torch", "matplotlib", "transformers", "datasets"} == set()


def test_nothing_needs_torch() -> None:
    users = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}"
        for path in FILES
        for name, line in imports(path)
        if name.split(".")[0] == "torch"
    ]
    assert users == []
