"""Reading a config.json: its fields, and what a family's file makes of those that many families share."""

from collections.abc import Mapping
from math import inf, log
from typing import Any

from mimir_jax.config import ConfigError
from mimir_jax.models.rope import RopeScaling

REQUIRED = object()

# Fields that every Hugging Face config may carry and that no score depends on; auto_map names code that is never run.
# fmt: off
IRRELEVANT = frozenset([
    "_name_or_path", "architectures", "attn_implementation", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "gradient_checkpointing", "id2label",
    "is_decoder", "is_encoder_decoder", "label2id",
    "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "prefix",
    "problem_type", "return_dict", "sep_token_id", "task_specific_params", "tokenizer_class", "torch_dtype",
    "transformers_version", "unk_token_id", "use_cache",
])
# fmt: on

# Hugging Face's names of activations.
ACTIVATION_NAMES = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def read_fields(
    hf: Mapping[str, Any],
    modelled: Mapping[str, Any],
    irrelevant: frozenset[str],
    defaults: Mapping[str, Any],
) -> dict[str, Any]:
    """The modelled fields of a config.json, with defaults filled in.

    Args:
        hf: the parsed config.json.
        modelled: default by field; `REQUIRED` where there is none.
        irrelevant: fields of this family that scoring does not depend on, beside `IRRELEVANT`.
        defaults: Hugging Face's values of further fields, which these must have; None for all that are not named.

    Raises:
        ConfigError: names every field that is missing or not modelled.
    """
    problems = [f"{name} is missing" for name, default in modelled.items() if default is REQUIRED and name not in hf]
    for name, value in hf.items():
        if name in modelled or name in irrelevant or name in IRRELEVANT:
            continue
        if value != defaults.get(name):
            problems.append(f"{name}={value!r} is not modelled (only {defaults.get(name)!r} is)")
    fields = {name: hf.get(name, default) for name, default in modelled.items()}
    for name, value in fields.items():
        kind = int if modelled[name] is REQUIRED else type(modelled[name])
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in hf and (
            (kind is int and not (number and value > 0))
            or (kind is float and not (number and value >= 0))
            or (kind in (bool, str) and not isinstance(value, kind))
        ):
            expected = {int: "a number above 0", float: "a number", bool: "true or false", str: "a string"}[kind]
            problems.append(f"{name}={value!r} must be {expected}")
    if problems:
        raise ConfigError("config.json: " + "; ".join(problems))
    return fields


def choose(name: str, value: str, known: Mapping[str, Any]) -> Any:
    """`known[value]`, or an error that names the config.json field and its choices."""
    if value not in known:
        raise ConfigError(f"config.json: {name}={value!r} is not modelled; modelled: {', '.join(known)}")
    return known[value]


def quotient(f: Mapping[str, Any], whole: str, part: str) -> int:
    """`f[whole] / f[part]`, or an error that names both fields."""
    if not f[part] or f[whole] % f[part]:
        raise ConfigError(f"config.json: {whole}={f[whole]} is no multiple of {part}={f[part]}")
    return f[whole] // f[part]


def read_rope(f: Mapping[str, Any], share: float | int, theta: float | int) -> tuple[float, float]:
    """The rotated share of each head and the base of its angles.

    Args:
        f: the modelled fields, with `rope_parameters`, which transformers 5 writes, and its copies beside it.
        share: what holds where `rope_parameters` does not say.
        theta: likewise.
    """
    rope = f["rope_parameters"] or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ConfigError(f"config.json: rope_parameters.rope_type={kind!r} is not modelled (only 'default')")
    share, theta = rope.get("partial_rotary_factor", share), rope.get("rope_theta", theta)
    for name, used in (("partial_rotary_factor", share), ("rope_theta", theta)):
        if f.get(name) not in (None, used):
            raise ConfigError(f"config.json: {name}={f[name]!r} contradicts the {used!r} that it says elsewhere")
    return float(share), float(theta)


def rotary_width(head_dim: int, share: float) -> int:
    """Dimensions of each head that are rotated, for read_rope's share of them."""
    width = int(head_dim * share)
    if width % 2 or width > head_dim:
        kind = "an odd" if width % 2 else "a"
        raise ConfigError(
            f"config.json: partial_rotary_factor={share} gives heads of {head_dim} {kind} rotary_dim={width}"
        )
    return width


# Keys of rope_parameters by its type, beside the type, rope_theta and partial_rotary_factor.
# fmt: off
ROPE_KEYS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset(["factor"]),
    "dynamic": frozenset(["factor", "original_max_position_embeddings"]),
    "llama3": frozenset(["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]),
    "yarn": frozenset([
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    ]),
}
# fmt: on


def read_scaled_rope(f: Mapping[str, Any], theta: float | int = 10000.0) -> tuple[float, RopeScaling | None]:
    """The base of a rotary embedding of whole heads, and how its frequencies are scaled.

    Args:
        f: the modelled fields, with `max_position_embeddings`, `rope_parameters`, which transformers 5 writes, and
            `rope_scaling` and `rope_theta`, which older files have in its place.
        theta: what holds where none of them says.
    """
    old, new = f["rope_scaling"] or {}, f["rope_parameters"] or {}
    if not isinstance(old, Mapping) or not isinstance(new, Mapping) or (old and new and old != new):
        raise ConfigError(f"config.json: rope_scaling={old!r} contradicts rope_parameters={new!r}, or is no object")
    name = "rope_scaling" if old else "rope_parameters"
    rope = {key: value for key, value in (old or new).items() if value is not None}
    kind = str(rope.pop("rope_type", rope.get("type", "default")))
    if rope.pop("type", kind) != kind:
        raise ConfigError(f"config.json: {name}.type contradicts its rope_type={kind!r}")
    known = choose(f"{name}.rope_type", kind, ROPE_KEYS) | {"rope_theta", "partial_rotary_factor", "finetuned"}
    for key in sorted(rope.keys() - known):
        raise ConfigError(f"config.json: {name}.{key}={rope[key]!r} is not modelled where it is {kind!r}")
    share = rope.get("partial_rotary_factor", 1.0)
    if share != 1.0:
        raise ConfigError(f"config.json: {name}.partial_rotary_factor={share!r} is not modelled (only 1.0)")

    def number(key: str, default: float | int | None = None) -> float:
        return float(_above_0(f"{name}.{key}", rope.get(key, default)))

    theta = number("rope_theta", theta if f["rope_theta"] is None else f["rope_theta"])
    if f["rope_theta"] not in (None, theta):
        raise ConfigError(f"config.json: rope_theta={f['rope_theta']!r} contradicts the {theta!r} of {name}")
    context = int(number("original_max_position_embeddings", f["max_position_embeddings"]))
    if kind == "linear":
        return theta, RopeScaling("linear", number("factor"))
    if kind == "llama3":
        slow, fast = number("low_freq_factor"), number("high_freq_factor")
        if slow >= fast:
            raise ConfigError(f"config.json: {name}.low_freq_factor={slow} is not below high_freq_factor={fast}")
        return theta, RopeScaling("llama3", number("factor"), context, slow, fast)
    if kind == "yarn":
        growth = 0.1 * log(max(number("factor"), 1.0))
        scale, scale_all = rope.get("mscale"), rope.get("mscale_all_dim")
        tables = (growth * scale + 1) / (growth * scale_all + 1) if scale and scale_all else growth + 1
        tables = number("attention_factor", tables)
        slow, fast = number("beta_slow", 1.0), number("beta_fast", 32.0)
        return theta, RopeScaling("yarn", number("factor"), context, slow, fast, tables, rope.get("truncate", True))
    # A dynamic rope changes for texts that are longer than the context, which are never read at once.
    if kind == "dynamic" and context != f["max_position_embeddings"]:
        raise ConfigError(
            f"config.json: {name}.rope_type='dynamic' is modelled only up to the original length: "
            f"original_max_position_embeddings={context}, max_position_embeddings={f['max_position_embeddings']}"
        )
    return theta, None


def _above_0(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
        raise ConfigError(f"config.json: {name}={value!r} must be a number above 0")
    return value


def read_optional(hf: Mapping[str, Any], name: str, default: Any) -> Any:
    """A number above 0, or None where config.json says null, which is not the same as saying nothing."""
    value = hf.get(name, default)
    return None if value is None else _above_0(name, value)


def read_windows(layer_types: Any, layers: int, window: int | None) -> tuple[int | None, ...] | None:
    """Each layer's window, from `layer_types`: a list of "full_attention" and "sliding_attention"."""
    if not isinstance(layer_types, list) or len(layer_types) != layers:
        raise ConfigError(f"config.json: layer_types={layer_types!r} is no list of num_hidden_layers={layers}")
    if window is None and "sliding_attention" in layer_types:
        raise ConfigError("config.json: layer_types has 'sliding_attention', but there is no sliding_window")
    sizes = {"full_attention": None, "sliding_attention": window}
    found = tuple(choose("layer_types", str(kind), sizes) for kind in layer_types)
    return found if any(found) else None


def read_sizes(
    f: Mapping[str, Any],
    *,
    layers: str = "num_hidden_layers",
    embed: str = "hidden_size",
    heads: str = "num_attention_heads",
    context: str = "max_position_embeddings",
    activation: str = "hidden_act",
) -> dict[str, Any]:
    """Options that every decoder has, from the modelled fields of these names."""
    return {
        "vocab": f["vocab_size"],
        "layers": f[layers],
        "embed": f[embed],
        "heads": f[heads],
        "head_dim": quotient(f, embed, heads),
        "context": f[context],
        "activation": choose(activation, f[activation], ACTIVATION_NAMES),
    }
