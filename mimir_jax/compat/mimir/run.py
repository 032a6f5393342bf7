"""MIMIR's experiments on our runner: its configuration in, and by its rules its result files out."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from mimir_jax import attacks, experiment
from mimir_jax.compat.mimir import results
from mimir_jax.compat.mimir.attacks import RULES, vocab_size
from mimir_jax.compat.mimir.config import override, read
from mimir_jax.compat.mimir.data import data_config, dump_documents, dump_neighbors, neighbors_configs, notes
from mimir_jax.compat.mimir.neighbors import NEIGHBORS
from mimir_jax.compat.mimir.translation import Translation, made_neighbors, read_frequencies, translate
from mimir_jax.config import DataConfig, EndpointConfig, RunConfig
from mimir_jax.data.documents import DataError, load_documents
from mimir_jax.inputs import Provider
from mimir_jax.job import endpoint_of
from mimir_jax.neighbors import PAPER, make_neighbors, neighbors_of
from mimir_jax.parallel import hosts
from mimir_jax.report.terminal import Bars, silent
from mimir_jax.target import Target


def translation_of(
    path: str | Path, arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[Translation, list[str]]:
    """One of MIMIR's configurations with its command line's overrides, and the arguments that are ours.

    Args:
        path: of the configuration.
        arguments: MIMIR's flags and ours, mixed.
        environment: variables of the process.

    Raises:
        ConfigError: a configuration that cannot be run.
    """
    mimir, rest = override(read(path), arguments)
    translation = translate(mimir, environment, _rules(rest))
    settings = translation.data
    made = translation.run.neighbors
    neighbors = neighbors_configs(settings) if settings.neighbors and made.model is None else {}
    run = replace(
        translation.run,
        data=data_config(settings, tokenizer=made.model, base=translation.run.data),
        neighbors=neighbors[max(neighbors)] if neighbors else made,
    )
    if (there := translation.endpoint) is not None:  # so that what our results folder says can be run again
        asked = EndpointConfig(there.base_url, there.prefix, there.concurrency)
        run = replace(run, model=there.model, endpoint=asked)
    said = translation.notes
    if len({*neighbors.values()}) > 1:
        said += (f"n_perturbation_list: all are read from the file of {max(neighbors)} neighbors, the first of each",)
    return replace(translation, run=run, notes=said), rest


def _rules(arguments: Sequence[str]) -> Literal["paper", "mimir"]:
    """Those that --rules names; our own parser refuses what is neither."""
    flags = [part for argument in arguments for part in argument.split("=", 1)]
    return "mimir" if ("--rules", "mimir") in itertools.pairwise(flags) else "paper"


def run(
    translation: Translation,
    config: RunConfig,
    *,
    key: str = "",
    overwrite: bool = False,
    bars: Bars = silent,
    **how: Any,
) -> experiment.Results:
    """Run one of MIMIR's experiments; by its rules its files are written, too.

    Args:
        translation: from `translation_of`.
        config: its `run`, as our own options changed it.
        key: of an endpoint that our own options name.
        overwrite, bars, how: as for `experiment.run`. MIMIR's files are never overwritten.

    Raises:
        ConfigError: MIMIR's folder of this experiment exists, or whatever `experiment.run` raises.
    """
    mimir_rules = config.rules == "mimir"
    if translation.mimir.pre_perturb_pct > 0:
        config = pre_perturbed(translation, config, bars)
    folder = Path(config.results) / translation.folder.relative_to(translation.run.results)
    if mimir_rules:
        results.refuse_existing(folder)
    rules = RULES if mimir_rules else experiment.PAPER
    if Path(config.token_counts.source).suffix == ".json":
        rules = replace(rules, providers={**rules.providers, **FREQUENCIES})
    found = experiment.run(
        config,
        rules=rules,
        endpoint=endpoint_of(config, translation.endpoint.key if translation.endpoint else key),
        overwrite=overwrite,
        bars=bars,
        **how,
    )
    if not hosts.leads():
        return found
    main = [i for i, group in enumerate(found.text_groups) if not group]
    texts = [found.texts[i] for i in main]
    said = [*translation.notes, *notes(translation.data, texts)]
    if mimir_rules:
        columns = translation.columns(lambda spec: attacks.parse(spec).name)
        lengths = _lengths(config) if config.data.tok_by_tok else None
        of_texts = {name: values[main] for name, values in found.text_scores.items()}
        said += results.write(folder, translation.mimir, texts, of_texts, columns, lengths)
        said.append(f"MIMIR's files are in {folder}")
    return replace(found, notes=[*said, *found.notes])


def _frequencies(target: Target, vocab: int) -> Float32[np.ndarray, " vocab"]:
    """Counts of a token_frequency_map that is JSON."""
    return read_frequencies(target.run.token_counts.source, vocab).astype(np.float32)


FREQUENCIES = {
    "token_counts": Provider(
        lambda target: _frequencies(target, len(target.tokenizer)), per_model=False, by_document=False
    ),
    "token_document_counts": Provider(
        lambda target: _frequencies(target, vocab_size(target)), per_model=False, by_document=False
    ),
}
"""Providers that read such a map: the runner itself knows arrays of counts alone."""


def _lengths(config: RunConfig) -> list[tuple[int, int]]:
    """Words of each member and non-member, which the beginnings of texts do not tell."""
    texts = load_documents(replace(config.data, tok_by_tok=False))
    members, nonmembers = ([d.text for d in texts if d.is_member is side] for side in (True, False))
    return [(len(m.split(" ")), len(n.split())) for m, n in zip(members, nonmembers)]


def pre_perturbed(translation: Translation, config: RunConfig, bars: Bars = silent) -> RunConfig:
    """The run whose members are filled anew by the T5 of neighborhood_config; both sides are written as they are then.

    Raises:
        ConfigError, CheckpointError, TokenizerError, DataError: see `make_neighbors`, or files that cannot be written.
    """
    mimir = translation.mimir
    assert mimir.neighborhood_config is not None
    made = made_neighbors(mimir.neighborhood_config, config.rules)
    spans = replace(
        made.spans,
        length=mimir.pre_perturb_span_length,
        share=mimir.pre_perturb_pct,
        round_up=True,
        random=None,
    )
    near = replace(made, count=1, spans=spans)
    documents = load_documents(config.data)
    members = [document for document in documents if document.is_member]
    filled, _ = make_neighbors(replace(config, neighbors=near), members, bars)
    texts = {
        True: [some[0] if some else document.text for document, some in zip(members, filled)],
        False: [document.text for document in documents if not document.is_member],
    }
    files = {}
    for is_member, name in ((True, "members"), (False, "nonmembers")):
        path = Path(config.results) / "pre_perturbed" / f"{config.experiment}-{name}.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[is_member]), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error}") from error
        files[is_member] = str(path)
    data = DataConfig(members=files[True], nonmembers=files[False], other_nonmembers=config.data.other_nonmembers)
    return replace(config, data=data)


def dumps(translation: Translation) -> bool:
    """Whether the experiment only writes documents or neighbors to MIMIR's local cache."""
    return translation.data.dump_cache or bool(translation.data.neighbors and translation.data.neighbors.dump_cache)


def dump(translation: Translation, config: RunConfig, bars: Bars = silent) -> list[Path]:
    """Write the documents, or neighbors of them, to MIMIR's local cache, as its `dump_cache` does, and attack nothing.

    Raises:
        ConfigError, DataError: documents or neighbors that cannot be read, made or written.
    """
    if translation.data.dump_cache:
        return dump_documents(translation.data)
    settings = translation.data
    assert settings.neighbors is not None
    documents = load_documents(config.data)
    near = neighbors_of(config, documents, bars, rules=NEIGHBORS if config.rules == "mimir" else PAPER)
    paths = []
    for count, is_member in itertools.product(settings.neighbors.counts, (True, False)):
        side = [i for i, document in enumerate(documents) if document.is_member is is_member]
        paths.append(dump_neighbors(settings, [documents[i] for i in side], [near[i] for i in side], count))
    return paths
