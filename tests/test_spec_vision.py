"""Vision encoders of model configs: parameters against published ones, shapes, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.huggingface import load_model, model_from_config
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.pool_rules import check_pools
from apexsim.spec.vision_rules import cannot_encode, wrong_vision
from tests.cost_worlds import shared

PUBLISHED = [
    # model, parameters of encoder and decoder together, source
    ("MiniCPM-V-2.6", 8_099_175_152, "hub: openbmb/MiniCPM-V-2_6"),
    ("InternVL2-8B", 8_075_365_376, "hub: OpenGVLab/InternVL2-8B"),
    ("InternVL2-26B", 25_514_186_112, "hub: OpenGVLab/InternVL2-26B"),
    ("Qwen3-VL-8B", 8_767_123_696, "hub: Qwen/Qwen3-VL-8B-Instruct"),
    ("Qwen3-VL-32B", 33.36e9, "hub: Qwen/Qwen3-VL-32B-Instruct"),
    ("Llama-4-Scout-17B-16E", 109e9, "card: 109B in total"),
]


@pytest.mark.parametrize(("name", "published", "source"), PUBLISHED)
def test_encoder_and_decoder_have_the_published_parameters(name: str, published: float, source: str) -> None:
    model = catalog.model(name)
    assert model.vision is not None
    assert model.parameters + model.vision.parameters == pytest.approx(published, rel=0.004), source


@pytest.mark.parametrize(
    ("name", "encoder", "prefill"),
    [("MiniCPM-V-2.6", 95.0, 5.0), ("InternVL2-8B", 96.2, 3.7), ("InternVL2-26B", 78.3, 21.6)],
)
def test_weights_that_units_need_not_hold(name: str, encoder: float, prefill: float) -> None:
    """EPD, arXiv 2501.05460: per cent of the weights saved where a unit holds one part alone, within 2 points."""
    model = catalog.model(name)
    assert model.vision is not None
    share = 100 * model.vision.parameters / (model.parameters + model.vision.parameters)
    assert 100 - share == pytest.approx(encoder, abs=2.0)
    assert share == pytest.approx(prefill, abs=2.0)


@pytest.mark.parametrize(
    ("name", "patches", "tokens"),
    [("MiniCPM-V-2.6", 1024, 64), ("InternVL2-8B", 1025, 256), ("Llama-4-Scout-17B-16E", 577, 144),
     ("Qwen3-VL-8B", 2304, 576)],
)  # fmt: skip
def test_tokens_of_a_slice_before_and_after_merging(name: str, patches: int, tokens: int) -> None:
    vision = catalog.model(name).vision
    assert vision is not None
    assert (vision.patches, vision.visual_tokens) == (patches, tokens)
    assert vision.patches_of(tokens) == patches
    assert vision.patches_of(2 * tokens) == (2 * patches if vision.native_resolution else patches)


@pytest.mark.parametrize("name", ["Qwen--Qwen3-VL-8B-Instruct", "Qwen--Qwen3-VL-32B-Instruct"])
def test_untouched_configs_load_as_ours_do(name: str) -> None:
    theirs = load_model(shared(f"data/model_configs/{name}.json"))
    ours = catalog.model(name.removeprefix("Qwen--").removesuffix("-Instruct"))
    assert theirs.vision == ours.vision


def config(name: str) -> dict[str, object]:
    return json.loads((Path(catalog.data_root()) / "model_specs" / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("MiniCPM-V-2.6", {"num_hidden_layers": 0}, "vision_config: num_hidden_layers = 0: must be a whole number"),
        ("Qwen3-VL-8B", {"hidden_size": None}, "vision_config: hidden_size: missing"),
        ("Llama-4-Scout-17B-16E", {"pixel_shuffle_ratio": 2}, "pixel_shuffle_ratio = 2: must be a number above 0"),
    ],
)
def test_a_senseless_key_is_named(name: str, change: dict[str, object], message: str) -> None:
    keys = config(name)
    keys["vision_config"] = {**keys["vision_config"], **change}  # type: ignore[dict-item]
    with pytest.raises(InputError, match=message):
        model_from_config(keys, name, "file")
    with pytest.raises(InputError, match="vision_config: expected a mapping, got 3"):
        model_from_config({**keys, "vision_config": 3}, name, "file")


def test_a_config_without_an_encoder_reads_text_only() -> None:
    keys = config("Qwen3-VL-8B")
    del keys["vision_config"]
    assert model_from_config(keys, "text", "file").vision is None


# --- pools ----------------------------------------------------------------------------------------------------------

SEES = catalog.model("MiniCPM-V-2.6")


def plan(*pools: dict[str, object]) -> Plan:
    return parse(Plan, {"model": "MiniCPM-V-2.6", "cluster": "8xa100-sxm-80gb", "pools": list(pools)}, source="plan")


@pytest.mark.parametrize(
    ("model", "pool", "message"),
    [
        ("Llama-3.1-8B", {"vision": True}, "vision=true: Llama-3.1-8B has no vision encoder"),
        ("Llama-3.1-8B", {"role": "encode"}, "role=encode: Llama-3.1-8B has no vision encoder"),
        ("MiniCPM-V-2.6", {"role": "encode", "tp": 2}, "tp=2 with role=encode: a unit is one device"),
        ("MiniCPM-V-2.6", {"role": "encode", "vision": True}, "vision=true with role=encode"),
        ("MiniCPM-V-2.6", {"irp": True}, "irp=true: of pools with role=encode"),
        ("MiniCPM-V-2.6", {"encode_batch": 4}, "encode_batch=4: of pools with role=encode"),
        ("MiniCPM-V-2.6", {"role": "decode", "vision": True}, "vision=true with role=decode"),
        ("MiniCPM-V-2.6", {"vision": True, "pp": 2}, "vision=true with pp=2 is not simulated"),
        ("InternVL2-26B", {"vision": True, "tp": 2}, "tp=2 does not divide the 25 heads of the vision encoder"),
    ],
)
def test_pools_that_cannot_encode_say_why(model: str, pool: dict[str, object], message: str) -> None:
    reason = wrong_vision(catalog.model(model), Pool.model_validate(pool))
    assert reason is not None
    assert message in reason


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ([{"role": "encode"}, {"role": "encode"}, {}], "one pool may have role=encode"),
        ([{"role": "encode"}, {"vision": True}], "vision=true beside a pool with role=encode"),
        ([{"vision": True}, {}], "vision=true in some pools"),
    ],
)
def test_pools_that_cannot_share_the_encoding_say_why(pools: list[dict[str, object]], message: str) -> None:
    reason = check_pools(SEES, plan(*pools))
    assert reason is not None
    assert message in reason


@pytest.mark.parametrize(
    ("pool", "prefixes", "message"),
    [
        ({}, False, "pools\\[0\\] encodes none .allowed: vision: true there"),
        ({"vision": True, "scheduler": {"prefix_caching": True}}, True, "prefix_caching: prefixes of prompts with"),
        ({"vision": True, "scheduler": {"policy": "deadline"}}, False, "deadlines that run while images are encoded"),
        ({"vision": True, "scheduler": {"preemption": "swap"}}, False, "lora, kv_tiers and preemption: swap"),
    ],
)
def test_plans_that_cannot_serve_images_say_why(pool: dict[str, object], prefixes: bool, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert cannot_encode(plan(pool), with_prefixes=prefixes) is None, cannot_encode(
            plan(pool), with_prefixes=prefixes
        )


def test_a_plan_with_an_encoder_serves_images() -> None:
    assert cannot_encode(plan({"vision": True}), with_prefixes=False) is None
    assert cannot_encode(plan({"role": "encode"}, {}), with_prefixes=False) is None
    assert isinstance(SEES, ModelSpec)
