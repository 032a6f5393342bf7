"""What a decoder costs: parameters and float operations, counted from its shape."""

from typing import NamedTuple

from mimir_jax.models.decoder_config import DecoderConfig


class Cost(NamedTuple):
    """Of one forward pass.

    Attributes:
        parameters: all of them, but for norms and biases, which are thousandths.
        layer: parameters of a layer.
        flops: float operations for each token: two for each parameter of a matrix product, and attention.
        width: of the residual stream, which the sums over split heads and split MLPs have.
        heads: which a split must divide.
        mlp: likewise.
    """

    parameters: int
    layer: int
    flops: float
    width: int
    heads: int
    mlp: int


def decoder_cost(config: DecoderConfig, length: int) -> Cost:
    """The cost of scoring documents of `length` tokens: of each token's keys half are before it, on average."""
    c = config
    attention = c.embed * c.head_dim * 2 * (c.heads + c.key_heads)
    mlp = c.embed * c.mlp * (3 if c.gated_mlp else 2)
    head = c.vocab * c.token_width
    projections = 0 if c.token_embed is None else 2 * c.embed * c.token_width
    positions = c.context * c.embed if c.learned_positions else 0
    windows = [length if w is None else w for w in c.windows or (None,) * c.layers]
    keys = sum(min(length, 2 * w) / 2 for w in windows)  # of all layers
    products = c.layers * (attention + mlp) + head + projections
    return Cost(
        parameters=products + positions + (0 if c.tied_head else head),
        layer=attention + mlp,
        flops=2 * products + 4 * c.heads * c.head_dim * keys,
        width=c.embed,
        heads=c.heads,
        mlp=c.mlp,
    )
