# %% [markdown]
# # A tour of mimir_jax
#
# Was this text in the model's training data? Membership inference attacks answer with a score for each document: the
# higher, the more likely a member. Run the cells one by one in an editor or a notebook, or all of them by
# `python experiments/quickstart.py` (a minute on a laptop).
#
# A model, and documents of which we know whether it was trained on them: the embedded example is a small GPT-NeoX after
# 16 epochs on 1,000 passages. `MIMIR_JAX_QUICKSTART` says how many documents a side are read.

# %%
import os

import jax
import numpy as np

import mimir_jax as mj

count = int(os.environ.get("MIMIR_JAX_QUICKSTART", "100"))
documents = mj.load_documents(mj.DataConfig(max_documents=count))
texts = [document.text for document in documents]
is_member = np.array([document.is_member for document in documents])
print(f"{is_member.sum()} members, {(~is_member).sum()} non-members, such as:\n{texts[0][:200]}")

# %% [markdown]
# ## Score once
#
# One forward pass says all that most attacks need: of each token its log-prob, the mean and variance of the model's
# prediction, and its rank. A notebook shows the statistics as a picture.

# %%
model = mj.load_model("demo/epoch16")  # or a local Hugging Face folder, or a hub id with revision=
stats = mj.score(model, texts)
stats

# %% [markdown]
# ## Attack many
#
# An attack is a pure function of these arrays, and takes milliseconds.

# %%
scores = {
    "loss": mj.attacks.loss(stats),
    "zlib": mj.attacks.zlib(stats, mj.zlib_bytes(texts)),
    "min_k": mj.attacks.min_k(stats, k=0.2),
    "min_k++": mj.attacks.min_k_plus_plus(stats, k=0.2),
}
metrics = mj.metrics.evaluate(scores, is_member)
for name, row in metrics.items():
    auc = row.auc_roc
    print(f"{name:8} AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]")

# %% [markdown]
# Every number has its interval. One attack's metrics, and its curve, show themselves in a notebook:

# %%
metrics["min_k++"]

# %%
mj.metrics.roc_curve(scores["min_k++"], is_member)

# %% [markdown]
# ## Several checkpoints at once
#
# Checkpoints of one shape are scored together, and attacks are vmapped over them: the more epochs, the clearer.

# %%
epochs = (1, 4, 16)
stacked = mj.stack_models([mj.load_model(f"demo/epoch{n}") for n in epochs])
by_epoch = jax.vmap(mj.attacks.loss)(mj.score(stacked, texts))
for n, row in zip(epochs, np.asarray(by_epoch)):
    print(f"loss after {n:2} epochs: AUC {mj.metrics.auc_roc(row, is_member):.3f}")

# %% [markdown]
# ## Is it the model that tells?
#
# An AUC means little where members and non-members differ in what they are. What is reached without the model:

# %%
from mimir_jax.audit.verdict import audit  # noqa: E402

found = audit(documents, {name: np.asarray(values) for name, values in scores.items()})
for sentence in [*(one["sentence"] for one in found["comparisons"].values()), *found["notes"]]:
    print(sentence)

# %% [markdown]
# ## From here
#
# - `mimir-jax run` does all of this, from files to a results folder, and writes `report.html`: open it.
# - `mimir-jax run --model FOLDER --data.members in.jsonl --data.nonmembers out.jsonl` is your own model and documents;
#   `mimir-jax check` with the same options says beforehand what is wrong with them.
# - `mimir-jax report results/a results/b` sets runs side by side.
