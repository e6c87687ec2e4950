"""The quantisation section of a ``config.json``, as one word for the weights and the parts it leaves out.

Methods read: fp8, fbgemm_fp8, compressed-tensors, modelopt, mxfp4, gptq, awq, auto-round, bitsandbytes. A
method or a width that is none of these is an error: memory and speed would be guesses.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from apexsim.errors import InputError, unknown_name
from apexsim.spec.dtypes import WeightDtype
from apexsim.spec.formats import word_of
from apexsim.spec.model import Part

_MODULES: dict[Part, tuple[str, ...]] = {
    # linear layers of each part, as checkpoints name them; layer 7 stands for all (the first may be special)
    "attention": ("model.layers.7.self_attn.q_proj", "model.layers.7.self_attn.o_proj"),
    "mlp": ("model.layers.7.mlp.gate_proj", "model.layers.7.mlp.down_proj"),
    "experts": (
        "model.layers.7.mlp.experts.3.down_proj",
        "model.layers.7.block_sparse_moe.experts.3.w2",
        "model.layers.7.feed_forward.experts.3.down_proj",
    ),
    "shared_experts": (
        "model.layers.7.mlp.shared_experts.down_proj",
        "model.layers.7.mlp.shared_expert.down_proj",
        "model.layers.7.feed_forward.shared_expert.down_proj",
    ),
    "lm_head": ("lm_head",),
}
_TOWERS = re.compile(r"vision|visual|audio|multi_modal|multimodal|mm_projector")
_MODELOPT: dict[str, WeightDtype] = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8-block",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "MXFP4": "mxfp4",
    "W4A16_AWQ": "w4a16",
    "W4A8_AWQ": "w4a8",
    "INT8_SQ": "int8",
    "W8A16": "w8a16",
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """The dtype of the quantised weights, which parts keep the model's own, and the format in full."""

    weights: WeightDtype
    unquantized: tuple[Part, ...]
    format: str = ""  # a word of ``spec/formats.py``


def read_quantization(config: Mapping[str, Any], source: str) -> Quantization | None:
    """The quantisation that ``config`` declares; None where the checkpoint has none.

    Raises:
        InputError: an unknown method, or a width that no engine runs.
    """
    section = config.get("quantization_config") or config.get("quantization")
    if section is None:
        return None
    if not isinstance(section, Mapping):
        raise InputError(f"{source}: quantization_config: expected a mapping, got {section!r}")
    weights = _weights(section, source)
    try:
        return Quantization(weights, unquantized_parts(_ignored(section)), _word(weights, section))
    except re.error as problem:
        raise InputError(f"{source}: quantization_config: a list of modules holds no regex: {problem}") from None


def unquantized_parts(ignored: Iterable[str]) -> tuple[Part, ...]:
    """The parts that a checkpoint's list of ignored modules leaves alone; the LM head always is."""
    patterns = [pattern for pattern in ignored if not _TOWERS.search(pattern)]
    return tuple(
        part
        for part, modules in _MODULES.items()
        if part == "lm_head" or any(_matches(module, patterns) for module in modules)
    )


def _weights(section: Mapping[str, Any], source: str) -> WeightDtype:
    method = str(section.get("quant_method") or ("modelopt" if "quant_algo" in section else "")).lower()
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8-block" if section.get("weight_block_size") else "fp8"
    if method == "mxfp4":
        return "mxfp4"
    if method in ("gptq", "awq", "gptq_marlin", "awq_marlin", "auto-round"):
        return _integer(section.get("bits", section.get("w_bit", 4)), 16, source)
    if method.startswith("modelopt"):
        return _modelopt(str(section.get("quant_algo")), source)
    if method == "bitsandbytes":
        return "w4a16" if section.get("load_in_4bit") else "w8a16"
    if method == "compressed-tensors":
        return _compressed_tensors(section, source)
    known = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt", "mxfp4", "gptq", "awq", "auto-round",
             "bitsandbytes")  # fmt: skip
    raise InputError(f"{source}: quantization_config.quant_method: {unknown_name('method', method, known)}")


def _integer(bits: Any, activation_bits: int, source: str) -> WeightDtype:
    name = f"w{bits}a{activation_bits}" if (bits, activation_bits) != (8, 8) else "int8"
    for dtype in get_args(WeightDtype):
        if dtype == name:
            return dtype  # type: ignore[no-any-return]  # get_args is untyped
    raise InputError(
        f"{source}: quantization_config: {bits}-bit weights with {activation_bits}-bit activations "
        "are not supported (4 or 8 with 16, 4 or 8 with 8)"
    )


def _modelopt(algorithm: str, source: str) -> WeightDtype:
    if algorithm not in _MODELOPT:
        raise InputError(f"{source}: quantization_config.quant_algo: {unknown_name('algorithm', algorithm, _MODELOPT)}")
    return _MODELOPT[algorithm]


def _compressed_tensors(section: Mapping[str, Any], source: str) -> WeightDtype:
    """See the compressed-tensors scheme: each group of modules has num_bits, type, strategy and group_size."""
    groups = section.get("config_groups")
    found = groups.values() if isinstance(groups, Mapping) else []
    dtypes = {_scheme(group, source) for group in found}
    if not dtypes:
        raise InputError(f"{source}: quantization_config.config_groups: no group of modules (truncated?)")
    if len(dtypes) > 1:
        raise InputError(f"{source}: quantization_config.config_groups: mixed {sorted(dtypes)} are not simulated yet")
    return dtypes.pop()


def _scheme(group: Any, source: str) -> WeightDtype:
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise InputError(f"{source}: quantization_config.config_groups: a group without weights (truncated?)")
    weights, activations = group["weights"], group.get("input_activations")
    bits, activation_bits = weights.get("num_bits"), (activations or {}).get("num_bits", 16)
    if weights.get("type") == "float" and bits == 4:
        return "mxfp4" if weights.get("group_size") == 32 else "nvfp4"
    if weights.get("type") == "float" and bits == 8:
        if activation_bits == 16:
            return "w8a16"
        return "fp8-block" if weights.get("strategy") == "block" else "fp8"
    return _integer(bits, activation_bits, source)


def _word(weights: WeightDtype, section: Mapping[str, Any]) -> str:
    """The format with what else the section says of it: its group of weights, and fp8 activations of int4 weights."""
    groups = section.get("config_groups")
    inner = next(iter(groups.values())) if isinstance(groups, Mapping) and groups else {}
    own, inputs = inner.get("weights") or {}, inner.get("input_activations") or {}
    group = section.get("group_size", section.get("q_group_size", own.get("group_size")))
    fp8 = inputs.get("type") == "float" or section.get("quant_algo") == "W4A8_AWQ"
    return word_of(
        weights, "fp8" if weights == "w4a8" and fp8 else None,
        group if isinstance(group, int) and group > 0 else None, symmetric=own.get("symmetric") is True,
    )


def _ignored(section: Mapping[str, Any]) -> list[str]:
    for key in ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers"):
        if isinstance(section.get(key), list):
            return [str(pattern) for pattern in section[key]]
    return []


def _matches(module: str, patterns: list[str]) -> bool:
    """Whether a list of ignored modules names ``module``: a run of its dotted parts, a glob, or ``re:`` and a
    regex. Multi-modal checkpoints put ``language_model.`` before the same names.
    """
    names = (module, f"language_model.{module}", f"model.{module.replace('model.', 'language_model.', 1)}")
    return any(_names(pattern, name) for pattern in patterns for name in names)


def _names(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    return (
        f".{pattern}." in f".{name}."
        or fnmatch.fnmatch(name, pattern)
        or ("*" in pattern and fnmatch.fnmatch(name, f"{pattern}.*"))
    )
