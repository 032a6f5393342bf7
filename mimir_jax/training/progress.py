"""How far a training run has come, in memory and on disk: one that was interrupted goes on as if it had not been."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from mimir_jax.config import ConfigError

SECONDS = 60.0  # of work that an interruption can lose


class Curve(NamedTuple):
    """The loss curve: what each step did.

    Attributes:
        epoch: from 1.
        tokens: predicted in the step; one number a model where several are trained at once.
        loss: mean of -log p over these tokens in nats, before the update; likewise.
    """

    epoch: Int[np.ndarray, " step"]
    tokens: Int[np.ndarray, "step *model"]
    loss: Float[np.ndarray, "step *model"]

    def of_epoch(self, epoch: int) -> Float[np.ndarray, "*model"]:
        """The mean loss over an epoch's tokens, measured while the weights change."""
        here = self.epoch == epoch
        tokens = self.tokens[here].astype(np.float64)
        return np.asarray((self.loss[here] * tokens).sum(axis=0) / np.maximum(tokens.sum(axis=0), 1))

    def write(self, path: Path) -> None:
        """A CSV file with one row a step and one column of losses a model."""
        losses = self.loss.reshape(len(self.loss), -1)
        names = ["loss"] if self.loss.ndim == 1 else [f"loss_{i}" for i in range(losses.shape[1])]
        tokens = self.tokens.reshape(len(self.tokens), -1).sum(axis=1)
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["step", "epoch", "tokens", *names])
            for step, (epoch, count, row) in enumerate(zip(self.epoch, tokens, losses), start=1):
                rows.writerow([step, epoch, count, *(f"{loss:.6g}" for loss in row.tolist())])


class Recorder:
    """Gathers a curve; what a step returns is fetched late, so that the next batch is laid out while it computes."""

    def __init__(self, curve: Curve | None = None):
        self._rows: list[tuple[int, Any, Any]] = [] if curve is None else list(zip(*curve))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, epoch: int, tokens: np.ndarray, loss: Array) -> None:
        self._rows.append((epoch, tokens, loss))

    def curve(self) -> Curve:
        """Of all steps so far; it waits for the last one."""
        rows = self._rows = [(epoch, tokens, np.asarray(loss)) for epoch, tokens, loss in self._rows]
        epochs, tokens, losses = ([row[i] for row in rows] for i in range(3))
        return Curve(np.array(epochs, int), np.array(tokens, int), np.array(losses, np.float32))


class StateFolder:
    """Where a run keeps its state: weights, moments and loss curve, each in its own shards, whole or not at all.

    Args:
        folder: made where it does not exist.
        identity: what the run is made of, as JSON; a state of another run is refused.
        seconds: between states that are kept.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], seconds: float = SECONDS):
        import orbax.checkpoint as orbax  # seconds of imports

        self.folder, self.identity, self.seconds = folder.resolve(), identity, seconds
        options = orbax.CheckpointManagerOptions(max_to_keep=1, create=True)
        self._manager = orbax.CheckpointManager(self.folder, options=options)
        self._args = orbax.args
        self._kept = time.monotonic()

    def __enter__(self) -> "StateFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def due(self, end: bool) -> bool:
        """Whether to keep another state now, at the end of an epoch or within it.

        Several processes must agree on it, and their clocks do not: they keep one at the end of each epoch.
        """
        return end if jax.process_count() > 1 else time.monotonic() - self._kept > self.seconds

    def keep(self, state: Any, curve: Curve) -> None:
        """Write a state, which is then the one that `latest` finds."""
        if self._manager.latest_step() == len(curve.epoch):
            return
        progress = {"identity": self.identity, **{name: field.tolist() for name, field in curve._asdict().items()}}
        args = self._args.Composite(
            state=self._args.StandardSave(_named(state)), progress=self._args.JsonSave(progress)
        )
        self._manager.save(len(curve.epoch), args=args)
        self._manager.wait_until_finished()  # the next step takes the state's memory
        self._kept = time.monotonic()

    def latest(self, state: Any) -> tuple[Any, Curve] | None:
        """The state that was kept last, placed as `state` is, and its curve; None where there is none.

        Raises:
            ConfigError: it is of another run.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        progress = self._manager.restore(step, args=self._args.Composite(progress=self._args.JsonRestore())).progress
        before = progress.pop("identity")
        if before != self.identity:
            names = [name for name in self.identity if before.get(name) != self.identity[name]]
            raise ConfigError(
                f"{self.folder}: holds the state of another training run ({', '.join(names)} differ); remove it, or "
                "name another folder"
            )
        abstract = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in _named(state).items()
        }
        args = self._args.Composite(state=self._args.StandardRestore(abstract))
        restored = self._manager.restore(step, args=args).state
        leaves = [restored[name] for name in _named(state)]
        curve = Curve(
            np.array(progress["epoch"], int), np.array(progress["tokens"], int), np.array(progress["loss"], np.float32)
        )
        return jax.tree.unflatten(jax.tree.structure(state), leaves), curve


def _named(state: Any) -> dict[str, Any]:
    """The arrays of a state by their paths in it."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
