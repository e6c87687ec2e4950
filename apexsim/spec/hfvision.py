"""Vision encoders of ``config.json``: one small function for each family, from its ``vision_config``.

A family that is not here, or a config without a ``vision_config``, is a model that reads text only. Sources: the
modelling files of ``transformers`` and of the checkpoints (MiniCPM-V, InternVL), whose defaults these are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apexsim.errors import InputError
from apexsim.spec.hfconfig import Config
from apexsim.spec.vision import Projection, VisionEncoder

COLOURS = 3


def qwen3_vl(vision: Config, decoder: Config) -> VisionEncoder:
    """Qwen3-VL: native resolution, 2 × 2 patches merged; features of three layers go to the decoder beside the last.

    The size that an image has where a trace does not say is that of the learned position embeddings (768 × 768).
    """
    h, side = vision.count("hidden_size"), vision.count("spatial_merge_size", 2)
    patch, frames = vision.count("patch_size", 16), vision.count("temporal_patch_size", 2)
    positions, merged = vision.count("num_position_embeddings", 2304), side * side
    out = vision.count("out_hidden_size", 3584)
    mergers = 1 + len(vision.keys.get("deepstack_visual_indexes", [8, 16, 24]))
    layers = vision.count("depth", 27)
    norms = layers * 4 * h + 2 * h + (mergers - 1) * 2 * merged * h
    return VisionEncoder(
        layers=layers, hidden_size=h, heads=vision.count("num_heads", 16),
        intermediate_size=vision.count("intermediate_size", 4304), patch_values=COLOURS * frames * patch * patch,
        patches=positions, visual_tokens=positions // merged, native_resolution=True,
        other_parameters=norms + positions * h + h,
        projector=(
            Projection(inputs=merged * h, outputs=merged * h, count=mergers),
            Projection(inputs=merged * h, outputs=out, count=mergers),
        ),
        embedding_width=mergers * out,
    )  # fmt: skip


def llama4(vision: Config, decoder: Config) -> VisionEncoder:
    """Llama 4: tiles of one size, pixel shuffle, an adapter of two matrices and a projector of one, without biases."""
    h, patch = vision.count("hidden_size"), vision.count("patch_size", 14)
    patches, merged = _grid(vision, patch), _shuffled(vision, "pixel_shuffle_ratio")
    middle, out = vision.count("projector_input_dim", 4096), vision.count("projector_output_dim", 4096)
    layers, width = vision.count("num_hidden_layers", 34), vision.count("vision_output_dim", 4096)
    return VisionEncoder(
        layers=layers, hidden_size=h, heads=vision.count("num_attention_heads", 16),
        intermediate_size=vision.count("intermediate_size", 5632), patch_values=COLOURS * patch * patch,
        patches=patches + 1, visual_tokens=patches // merged,
        other_parameters=layers * 4 * h + 4 * h + (patches + 1) * h + h,
        projector=(
            Projection(inputs=merged * h, outputs=middle, bias=False),
            Projection(inputs=middle, outputs=out, bias=False),
            Projection(inputs=width, outputs=decoder.count("hidden_size"), bias=False),
        ),
        embedding_width=decoder.count("hidden_size"),
    )  # fmt: skip


def minicpm_v(vision: Config, decoder: Config) -> VisionEncoder:
    """MiniCPM-V 2.6: SigLIP on slices of ``scale_resolution``, then a resampler with ``query_num`` queries a slice."""
    h, patch = vision.count("hidden_size"), vision.count("patch_size", 14)
    out, queries = decoder.count("hidden_size"), decoder.count("query_num", 64)
    slices = decoder.keys.get("slice_config") or {}
    side = Config(slices, decoder.source).count("scale_resolution", 448) // patch
    positions, layers = _grid(vision, patch), vision.count("num_hidden_layers")
    return VisionEncoder(
        layers=layers, hidden_size=h, heads=vision.count("num_attention_heads"),
        intermediate_size=vision.count("intermediate_size"), patch_values=COLOURS * patch * patch,
        patches=side * side, visual_tokens=queries,
        other_parameters=layers * 4 * h + 2 * h + positions * h + h + queries * out + 6 * out,
        projector=(
            Projection(inputs=h, outputs=out, rows="patches", bias=False),
            Projection(inputs=out, outputs=out, rows="patches", count=2),  # keys and values of the cross-attention
            Projection(inputs=out, outputs=out, count=2),  # its queries, and its output
            Projection(inputs=out, outputs=out, bias=False),
        ),
        embedding_width=out,
    )  # fmt: skip


def internvl(vision: Config, decoder: Config) -> VisionEncoder:
    """InternVL: InternViT on tiles of one size, pixel shuffle, a projector of two matrices."""
    h, patch = vision.count("hidden_size"), vision.count("patch_size", 14)
    patches, merged = _grid(vision, patch), _shuffled(decoder, "downsample_ratio")
    layers, out = vision.count("num_hidden_layers"), decoder.count("hidden_size")
    norms = (2 if vision.keys.get("norm_type") == "rms_norm" else 4) + 2  # and two layer scales
    norms += 2 if vision.flag("qk_normalization") else 0
    biases = vision.flag("qkv_bias", True)
    fewer = 0 if biases else layers * (2 * h + vision.count("intermediate_size"))  # only q, k and v have none
    return VisionEncoder(
        layers=layers, hidden_size=h, heads=vision.count("num_attention_heads"),
        intermediate_size=vision.count("intermediate_size"), patch_values=COLOURS * patch * patch,
        patches=patches + 1, visual_tokens=patches // merged, biases=biases,
        other_parameters=layers * norms * h + fewer + (patches + 2) * h + h + 2 * merged * h,
        projector=(Projection(inputs=merged * h, outputs=out), Projection(inputs=out, outputs=out)),
        embedding_width=out,
    )  # fmt: skip


def _grid(vision: Config, patch: int) -> int:
    """Patches of a square of ``image_size``."""
    return (vision.count("image_size") // patch) ** 2


def _shuffled(config: Config, key: str) -> int:
    """Patches that pixel shuffle merges into one token: a ratio of 0.5 halves both sides."""
    ratio = config.keys.get(key, 0.5)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
        raise InputError(f"{config.source}: {key} = {ratio!r}: must be a number above 0, at most 1")
    return round(1 / ratio) ** 2


FAMILIES: dict[str, Callable[[Config, Config], VisionEncoder]] = {
    "Qwen3VLForConditionalGeneration": qwen3_vl,
    "Qwen3VLMoeForConditionalGeneration": qwen3_vl,
    "Llama4ForConditionalGeneration": llama4,
    "MiniCPMV": minicpm_v,
    "InternVLChatModel": internvl,
}
"""Classes of ``config.json`` whose encoder can be read."""


def vision_of(config: Mapping[str, Any], decoder: Config, source: str) -> VisionEncoder | None:
    """The encoder that a ``config.json`` declares; None where it has none, or none that is known here.

    Raises:
        InputError: a missing or impossible key.
    """
    declared = config.get("vision_config")
    family = FAMILIES.get(str(config["architectures"][0]))
    if declared is None or family is None:
        return None
    if not isinstance(declared, Mapping):
        raise InputError(f"{source}: vision_config: expected a mapping, got {declared!r}")
    return family(Config(declared, f"{source}: vision_config"), decoder)
