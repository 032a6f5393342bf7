"""Memory and speed of loading a checkpoint, relative to what stays resident.

From the root of the repository (see benchmarks/README.md; about two minutes on 2 cores):

    python benchmarks/loading.py
    python benchmarks/loading.py FOLDER...
    python benchmarks/loading.py --dtype bfloat16 --pythia-12b 4

Every measurement is a fresh process that imports the package, starts its devices and then loads; memory is counted
from there. Without folders it loads random checkpoints of Pythia-160M's shape, made on the spot. Files have just
been written or read, so they come from the page cache, and no speed of a disk is in the seconds.

With --pythia-12b it loads a float16 checkpoint of Pythia-12B's shape, sparse on disk, with so many of its 36 layers on
eight devices that share `model`. What all 36 would take is told beside: parameters grow with the layers, and what is
on the host beside them is one shard of the largest parameter at a time.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from material import PYTHIA_12B, write_sparse, write_weights
from memory import Peak, anonymous

LIMIT = 1.25
SAMPLING = 0.002  # seconds between two looks at the memory
MADE: list[tuple[str, dict[str, Any]]] = [
    ("float32", {"dtype": np.float32}),
    ("float16", {"dtype": np.float16}),
    ("float32, 3 files", {"dtype": np.float32, "files": 3}),
]
MESHES = ((1, 1), (2, 4))  # data x model


def measure_here(folder: Path, data: int, model: int, dtype: str) -> dict[str, Any]:
    """Load a checkpoint in this process, which must have data x model devices and nothing else in its memory."""
    import jax

    from mimir_jax.models.checkpoint import load_decoder, weight_files
    from mimir_jax.parallel.mesh import make_mesh, sharding_of
    from mimir_jax.scoring.model import DTYPES

    mesh = make_mesh(data, model)
    # The first compilation of a process starts threads and fills caches that stay; it is no part of loading.
    jax.block_until_ready(jax.jit(lambda x: x + 1)(0))
    gc.collect()
    before = anonymous()
    with Peak(anonymous, SAMPLING) as peak:
        start = time.perf_counter()
        decoder = load_decoder(folder, sharding_of(mesh), DTYPES[dtype])
        leaves = jax.block_until_ready(jax.tree.leaves(decoder))
        seconds = time.perf_counter() - start
    gc.collect()
    return {
        "parameters": sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards),
        "resident": anonymous() - before,
        "peak": peak.bytes - before,
        "seconds": seconds,
        "file_bytes": sum(path.stat().st_size for path in weight_files(folder)),
    }


def measure(folder: Path, data: int, model: int, dtype: str) -> dict[str, Any]:
    """`measure_here` in a fresh process with simulated devices."""
    settings = {"JAX_NUM_CPU_DEVICES": str(data * model), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "--measure", str(data), str(model), "--dtype", dtype, str(folder)]
    done = subprocess.run(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"loading {folder} on {data} x {model} devices failed; its messages are above")
    return {"data": data, "model": model, "dtype": dtype, **json.loads(done.stdout)}


def report(name: str, row: dict[str, Any]) -> None:
    """Print a line of the table."""
    mib = {key: row[key] / 2**20 for key in ("parameters", "resident", "peak")}
    ratios = row["peak"] / row["parameters"], row["peak"] / row["resident"]
    print(
        f"{name:24}{row['data']} x {row['model']:<6}{mib['parameters']:11.0f}{mib['resident']:11.0f}{mib['peak']:8.0f}"
        f"{ratios[0]:13.3f}{ratios[1]:11.3f}{row['seconds']:9.2f}{row['file_bytes'] / row['seconds'] / 1e6:9.0f}"
        f"{'' if max(ratios) < LIMIT else f'   not below {LIMIT}'}",
        flush=True,
    )


def whole(dtype: str, devices: int) -> str:
    """What Pythia-12B takes with all its layers, in words."""
    from mimir_jax.models.families.gpt_neox import FAMILY

    config = FAMILY.config(PYTHIA_12B)
    width = 4 if dtype == "float32" else 2
    sizes: dict[str, int] = {}
    for row in FAMILY.rows(config):
        size = math.prod(row.view(np.broadcast_to(np.int8(0), row.shape)).shape)
        sizes[row.path] = width * size * (config.layers if row.path.startswith("blocks.") else 1)
    largest = max(sizes, key=lambda path: sizes[path])
    return (
        f"\nall {config.layers} layers: {sum(sizes.values()) / 2**30:.1f} GiB of parameters in {dtype}, "
        f"{sum(sizes.values()) / devices / 2**30:.2f} on each of {devices} devices (norms and biases whole on each are "
        f"less than .01 more); on the host, one shard at a time: at most {sizes[largest] / devices / 2**30:.2f} GiB "
        f"of {largest}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="checkpoints; default: random, of Pythia-160M's shape")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the loaded parameters")
    parser.add_argument("--pythia-12b", type=int, metavar="LAYERS", help="load one of this shape, with so many layers")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        data, model = options.measure
        print(json.dumps(measure_here(options.folders[0], data, model, options.dtype)))
        return
    print(
        f"Loaded as {options.dtype}; MiB of anonymous memory above the level after imports\n\n"
        f"{'file':24}data x model  parameters  resident    peak  / parameters / resident  seconds     MB/s"
    )
    results = []

    def measure_meshes(name: str, folder: Path, meshes: tuple[tuple[int, int], ...] = MESHES) -> None:
        for data, model in meshes:
            results.append({"file": name, **measure(folder, data, model, options.dtype)})
            report(name, results[-1])

    for folder in options.folders:
        measure_meshes(folder.name, folder)
    if options.pythia_12b is not None:
        hf = {**PYTHIA_12B, "num_hidden_layers": options.pythia_12b}
        with tempfile.TemporaryDirectory() as scratch:
            measure_meshes(f"12B, {options.pythia_12b} layers", write_sparse(Path(scratch), hf), ((1, 8),))
        print(whole(options.dtype, devices=8))
    elif not options.folders:
        for name, form in MADE:
            with tempfile.TemporaryDirectory() as scratch:
                measure_meshes(name, write_weights(Path(scratch), **form))
    line = json.dumps(results)
    if options.json is not None:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
