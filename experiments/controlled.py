"""What the controlled studies share: short texts whose membership is drawn at random, tiny models, tables of AUCs.

The texts are the first 64 tokens of the embedded example's 2,000 passages, members and non-members of the shipped
checkpoints together: here a random draw decides anew what is a member, so that nothing but training tells the sides
apart. Each condition is trained from several seeds, each with a draw of its own, all of a condition in one vmapped
computation; the model of a seed is then scored on its own members and non-members.
"""

import inspect
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jaxtyping import Float, Int
from transformers import AutoTokenizer

import mimir_jax as mj
from mimir_jax.config import ConfigError, HostsConfig
from mimir_jax.data.documents import Document, fingerprint
from mimir_jax.data.embedded import demo_documents, demo_path
from mimir_jax.metrics import Estimate, evaluate
from mimir_jax.models.decoder import Decoder
from mimir_jax.models.families import FAMILIES
from mimir_jax.parallel import hosts as parallel
from mimir_jax.parallel.mesh import make_mesh
from mimir_jax.report.exports import Cell, Column, Grid, write_tables
from mimir_jax.report.figures import save, trend_panel
from mimir_jax.report.results import versions, write_text
from mimir_jax.report.summary import auc_cell
from mimir_jax.scoring.model import Model, Source
from mimir_jax.training.loop import TrainConfig, Trained
from mimir_jax.training.references import train_many

TOKENS = 64
WIDTH, LAYERS = 64, 2
SEEDS = 2
RECIPE = TrainConfig(
    epochs=4, batch_tokens=1024, learning_rate=3e-3, warmup=0.02, schedule="constant", weight_decay=0.01
)
ATTACKS = ("loss", "zlib", "min_k", "min_k++")
Z = 1.96  # of a 95% interval

GPT_NEOX: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 2048,
    "max_position_embeddings": 128,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
}


def hugging_face_config(width: int = WIDTH, layers: int = LAYERS) -> dict[str, Any]:
    """config.json of a tiny GPT-NeoX with two heads."""
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    return {**GPT_NEOX, **sizes, "num_attention_heads": 2}


@dataclass(frozen=True)
class Pool:
    """Short texts to draw from.

    Attributes:
        documents: without labels.
        ids: their tokens.
        tokenizer: of the embedded example.
    """

    documents: list[Document]
    ids: list[Int[np.ndarray, " time"]]
    tokenizer: Any

    def draw(self, number: int, seed: int) -> Int[np.ndarray, " doc"]:
        """Some documents at random, in random order; the first ones are the same whatever their number."""
        return np.random.default_rng((seed, 8)).permutation(len(self.documents))[:number]

    def copies(self, groups: Mapping[int, Sequence[Int[np.ndarray, " doc"]]]) -> Int[np.ndarray, "model doc"]:
        """How often each text is in each model's training set: by that number, the texts of each model; else never."""
        models = len(next(iter(groups.values())))
        found = np.zeros((models, len(self.documents)), int)
        for number, of_models in groups.items():
            for row, some in zip(found, of_models, strict=True):
                row[some] = number
        return found


def pool(tokens: int = TOKENS, shifted: bool = False) -> Pool:
    """The beginnings of the embedded example's passages; or of those in another spelling."""
    tokenizer = AutoTokenizer.from_pretrained(demo_path("tokenizer"))
    # Of the shifted set the non-members are what differs.
    passages = [d for d in demo_documents(shifted) if not (shifted and d.is_member)]
    texts = [tokenizer.decode(ids[:tokens]) for ids in tokenizer([d.text for d in passages])["input_ids"]]
    documents = [Document(d.id, text, None, d.source) for d, text in zip(passages, texts)]
    return Pool(documents, [np.array(ids, np.int32) for ids in tokenizer(texts)["input_ids"]], tokenizer)


def train_pool(
    texts: Pool,
    copies: Int[np.ndarray, "model doc"],
    recipe: TrainConfig,
    state: Path,
    *,
    width: int = WIDTH,
    on_epoch: Any = lambda epoch, decoder, curve: None,
) -> Trained:
    """Models [model, ...] that have read each text so many times an epoch; an interrupted run goes on."""
    config = FAMILIES["gpt_neox"].config(hugging_face_config(width))
    trained = train_many(config, texts.ids, copies, recipe, make_mesh(), on_epoch, state_folder=state)
    return trained


def attack_models(
    decoder: Decoder, texts: Pool, *judged: Sequence[Int[np.ndarray, " doc"]]
) -> dict[str, Float[np.ndarray, "model doc"]]:
    """Scores under stacked models of the texts that are judged, by any of them; NaN of all others."""
    models = decoder.embedding.shape[0]
    which = np.unique(np.concatenate([some for side in judged for some in side]))
    chosen = [texts.documents[i].text for i in which]
    source = Source(Path("."), "trained here", None, {})
    model = Model(decoder, texts.tokenizer, make_mesh(), (source,) * models, "float32")
    stats = mj.score(model, chosen)
    sizes = mj.zlib_bytes(chosen)
    given = {"stats": stats, "zlib_bytes": np.broadcast_to(sizes, (models, len(sizes)))}
    found = {}
    for name in ATTACKS:
        attack = mj.attacks.parse(name)
        found[name] = np.full((models, len(texts.documents)), np.nan, np.float32)
        found[name][:, which] = jax.vmap(attack)(*(given[one] for one in attack.attack.inputs))
    return found


def auc(scores: Float[np.ndarray, " doc"], members: np.ndarray, nonmembers: np.ndarray) -> Estimate:
    """AUC-ROC of some documents against others, with its interval."""
    values = np.concatenate([scores[members], scores[nonmembers]])
    return evaluate(values, np.arange(len(values)) < len(members)).auc_roc


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over seeds, whose models and draws are independent, with the interval of a mean."""
    errors = [(one.high - one.low) / (2 * Z) for one in estimates]
    mean, error = float(np.mean([one.value for one in estimates])), float(np.sqrt(np.sum(np.square(errors))))
    error /= len(estimates)
    return Estimate(mean, max(mean - Z * error, 0.0), min(mean + Z * error, 1.0))


def by_attack(
    scores: Mapping[str, Float[np.ndarray, "model doc"]],
    members: Sequence[np.ndarray],
    nonmembers: Sequence[np.ndarray],
) -> dict[str, list[Estimate]]:
    """By attack, the AUC of each model on its own members and non-members."""
    return {name: [auc(*one) for one in zip(of_attack, members, nonmembers)] for name, of_attack in scores.items()}


def auc_grid(
    name: str, title: str, what: str, rows: Mapping[str, Mapping[str, Sequence[Estimate]]], notes: Sequence[str]
) -> Grid:
    """A table: a row a condition, a column an attack.

    Args:
        name: of the files.
        title: above it.
        what: the conditions are.
        rows: by condition and attack, the AUC of each seed.
        notes: below it.
    """
    attacks = list(next(iter(rows.values())))
    columns = [Column(what), *(Column(one, (one, f"{one}_low", f"{one}_high")) for one in attacks)]
    cells = [
        [Cell(condition), *(auc_cell(over_seeds(found[one])) for one in attacks)] for condition, found in rows.items()
    ]
    seeds = len(next(iter(next(iter(rows.values())).values())))
    spread = max(np.ptp([one.value for one in found[name]]) for found in rows.values() for name in attacks)
    said = f"Mean AUC-ROC over {seeds} seeds, each with its own draw of members, and 95% intervals of that mean"
    return Grid(name, title, columns, cells, [f"{said}; seeds differ by at most {spread:.3f}.", *notes])


@dataclass
class Study:
    """A controlled study: its results folder, and the AUCs found so far, which an interrupted study keeps.

    Attributes:
        folder: where tables, figures and run.json go; what is kept for going on is in `state` within it.
        settings: of which the results are; those of other settings are dropped.
        rows: by condition and attack, the AUC of each seed.
        seconds: that earlier parts of the study took.
        begun: this part, by time.perf_counter.
    """

    folder: Path
    settings: Mapping[str, Any]
    rows: dict[str, dict[str, list[Estimate]]]
    seconds: float
    begun: float

    @classmethod
    def at(cls, results: Path, name: str, settings: Mapping[str, Any]) -> "Study":
        """The study, with what was found before it was interrupted."""
        folder, rows, seconds = results / name, {}, 0.0
        try:
            kept = json.loads((folder / "state" / "rows.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            kept = {}
        if kept.get("settings") == json.loads(json.dumps(settings)):
            found = kept["rows"].items()
            rows = {c: {a: [Estimate(*one) for one in each] for a, each in of.items()} for c, of in found}
            seconds = kept["seconds"]
        else:
            shutil.rmtree(folder / "state", ignore_errors=True)
        (folder / "state").mkdir(parents=True, exist_ok=True)
        return cls(folder, settings, rows, seconds, time.perf_counter())

    def state(self, name: str) -> Path:
        """Where a training run keeps its state."""
        return self.folder / "state" / name

    def record(self, condition: str, found: Mapping[str, Sequence[Estimate]]) -> None:
        """Keep a condition's AUCs."""
        self.rows[condition] = {name: list(each) for name, each in found.items()}
        rows = {c: {a: [astuple(one) for one in each] for a, each in of.items()} for c, of in self.rows.items()}
        kept = {"settings": self.settings, "rows": rows, "seconds": self._elapsed()}
        write_text(self.folder / "state" / "rows.json", json.dumps(kept))
        means = ", ".join(f"{name} {over_seeds(each).value:.3f}" for name, each in found.items())
        print(f"{condition}: {means}", flush=True)

    def finish(self, command: str, texts: Pool, grids: Sequence[Grid], what: str | None = None) -> None:
        """Write the tables, and run.json beside them; what was kept for going on is removed.

        Args:
            command: that did it.
            texts: that were drawn from.
            grids: the tables.
            what: the conditions are numbers of, for a figure of the AUCs over them.
        """
        write_tables(self.folder, grids)
        if what is not None:
            at = [float(condition.split()[0]) for condition in self.rows]
            attacks = list(next(iter(self.rows.values())))
            lines = {name: [over_seeds(found[name]) for found in self.rows.values()] for name in attacks}
            save(trend_panel(what, at, [f"{x:g}" for x in at], True, lines), self.folder / "auc.png")
        run = {
            "command": command,
            "settings": self.settings,
            "documents": {"count": len(texts.documents), "fingerprint": fingerprint(texts.documents)},
            "versions": versions(),
            "device": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
            "seconds": round(self._elapsed(), 1),
            "by_seed": {c: {a: [one.value for one in each] for a, each in of.items()} for c, of in self.rows.items()},
        }
        write_text(self.folder / "run.json", json.dumps(run, indent=2))
        shutil.rmtree(self.folder / "state", ignore_errors=True)

    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self.begun


def command(study: Callable[..., None]) -> None:
    """The command line of a study: its own options, and `--hosts.*` as every script here has.

    Its models are trained in one process, on all devices of its host; where there are others, all refuse.
    """

    def alone(*given: Any, hosts: HostsConfig, **named: Any) -> None:
        parallel.connect(hosts)
        if jax.process_count() > 1:
            raise ConfigError("hosts: a study trains its models, which one process does: start it on one host")
        study(*given, **named)

    signature = inspect.signature(study)
    further = inspect.Parameter("hosts", inspect.Parameter.KEYWORD_ONLY, default=HostsConfig(), annotation=HostsConfig)
    alone.__signature__ = signature.replace(parameters=[*signature.parameters.values(), further])  # type: ignore[attr-defined]
    alone.__doc__ = study.__doc__
    try:
        tyro.cli(alone)
    except ConfigError as error:
        print(error, file=sys.stderr)
        parallel.leave(2)
        sys.exit(2)


def settings_of(recipe: TrainConfig, **others: Any) -> dict[str, Any]:
    """What a study is made of, for run.json."""
    return {"recipe": asdict(recipe), "tokens": TOKENS, "layers": LAYERS, **others}
