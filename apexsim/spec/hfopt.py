"""OPT: learned positions, biases everywhere, norms with biases, a feed-forward block of two matrices (ReLU)."""

from __future__ import annotations

from typing import Any

from apexsim.errors import InputError
from apexsim.spec.hfconfig import Config, Groups, gqa, identical_layers
from apexsim.spec.model import DenseMlp

UNUSED_POSITIONS = 2
"""Rows of OPT's table of positions before the first one (``OPTLearnedPositionalEmbedding`` of transformers)."""

OPT_DEFAULTS = {"vocab_size": 50272, "max_position_embeddings": 2048}


def opt(config: Config) -> Groups:
    """OPT (arXiv 2205.01068), pre-norm sizes only: 350m normalises after its blocks and has a narrower embedding."""
    hidden = config.count("hidden_size")
    if not config.flag("do_layer_norm_before", True):
        raise config.reject("do_layer_norm_before", "a norm after each block")
    if config.count("word_embed_proj_dim", hidden) != hidden:
        raise config.reject("word_embed_proj_dim", "an embedding of another width")
    bias = config.flag("enable_bias", True)
    width = config.optional("ffn_dim")
    if width is None:
        raise InputError(f"{config.source}: ffn_dim: missing (a whole number of at least 1 is needed)")
    mlp = DenseMlp(intermediate_size=width, gated=False, bias=bias)
    return identical_layers(config, gqa(config, qkv_bias=bias, output_bias=bias), mlp, norms=4)


def opt_tables(config: Config) -> dict[str, Any]:
    """What OPT has beside its layers."""
    return {"positions": config.count("max_position_embeddings") + UNUSED_POSITIONS, "final_norms": 2}
