"""The embedded example: labelled text, a tokenizer and small models that ship with the package."""

from importlib import resources
from pathlib import Path

from mimir_jax.data.readers import DataError, Document, read_documents

DEMO_SOURCES = {
    "demo/members": "members.jsonl.gz",
    "demo/nonmembers": "nonmembers.jsonl.gz",
    "demo/shifted": "shifted_nonmembers.jsonl.gz",
}
"""What DataConfig calls the embedded documents, and their files."""


def demo_path(name: str) -> Path:
    """A file or folder of the embedded example, such as `tokenizer` or `epoch16`.

    Raises:
        DataError: there is none of that name; the message lists those that there are.
    """
    folder = Path(str(resources.files("mimir_jax.data.demo")))
    path = folder / name
    if not path.exists():
        names = sorted(entry.name for entry in folder.iterdir() if entry.name[0] != "_")
        raise DataError(f"{name}: not part of the embedded example; there are: {', '.join(names)}")
    return path


def demo_documents(shifted: bool = False) -> list[Document]:
    """Members and non-members of the embedded example.

    Args:
        shifted: take non-members of another spelling, which a bag of words tells from the members, instead of
            those drawn from the members' sources.
    """
    nonmembers = "demo/shifted" if shifted else "demo/nonmembers"
    return [
        *read_documents(demo_path(DEMO_SOURCES["demo/members"]), is_member=True),
        *read_documents(demo_path(DEMO_SOURCES[nonmembers]), is_member=False),
    ]
