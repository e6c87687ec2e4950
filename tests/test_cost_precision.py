"""Number formats: what multiplies, whose kernels price it, and what a device cannot run."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from apexsim.cost.graph import cut_of
from apexsim.cost.kernels import AnalyticKernels, CalibratedKernels
from apexsim.cost.memory import DoesNotFit, stage_weight_bytes
from apexsim.cost.precision import check_dtypes, priced_by
from apexsim.spec import catalog
from apexsim.spec.dtypes import WeightDtype
from apexsim.spec.formats import (
    GROUPED,
    PAIRS,
    STORED,
    linear_format,
    partners,
    weight_bytes,
    weights_part,
    with_activations,
    word_of,
)
from apexsim.spec.huggingface import model_from_config
from apexsim.spec.plan import Pool
from tests.cost_worlds import attempt, compiled, same_bytes

LLAMA = catalog.model("Llama-3.1-8B")


def test_every_weight_dtype_is_stored_somehow_and_has_a_default_kernel() -> None:
    assert set(STORED) == set(get_args(WeightDtype)) == {pair.weights for pair in PAIRS if pair.default}
    for pair in PAIRS:
        assert pair.dequant >= 1.0
        assert pair.kernels
        assert set(pair.borrows) <= set(STORED)
        assert pair.weights not in pair.borrows


@pytest.mark.parametrize(
    ("word", "weights", "each"),
    [
        ("bf16", "bf16", 2.0), ("fp8-block", "fp8-block", 1 + 4 / 128**2), ("w4a16", "w4a16", (4 + 20 / 128) / 8),
        ("w4a16-g32", "w4a16", (4 + 20 / 32) / 8), ("w4a16-g32s", "w4a16", (4 + 16 / 32) / 8),
        ("w4a8-g64:fp8", "w4a8", (4 + 20 / 64) / 8), ("fp8:bf16", "fp8", 1.0), ("nvfp4", "nvfp4", 4.5 / 8),
        ("mxfp4:bf16", "mxfp4", 4.25 / 8),
    ],
)  # fmt: skip
def test_a_word_says_its_bytes(word: str, weights: str, each: float) -> None:
    assert (weights_part(word), weight_bytes(word)) == (weights, pytest.approx(each))


@pytest.mark.parametrize("word", ["bf15", "w4a16:", "w4a16-g:int8", "bf16:fp8", ""])
def test_what_is_no_word_is_an_error(word: str) -> None:
    with pytest.raises(ValueError, match=r"names no format|no kernel multiplies"):
        linear_format(word)


def test_usual_groups_and_the_only_default_go_without_saying() -> None:
    assert word_of("w4a16", None, 128) == "w4a16"
    assert word_of("w4a16", None, 128, symmetric=True) == "w4a16-g128s"
    assert word_of("w4a16", "int8", 32) == "w4a16-g32:int8"
    assert word_of("fp8", "fp8") == "fp8"
    assert word_of("mxfp4", "bf16") == "mxfp4:bf16"  # which of two defaults runs, the device decides
    assert word_of("nvfp4", None, 16) == "nvfp4"
    assert with_activations("w4a8-g64:fp8", "int8") == "w4a8-g64"
    assert set(GROUPED) < set(STORED)


@pytest.mark.parametrize(
    ("device", "word", "compute"),
    [
        ("a100-sxm-80gb", "fp8:bf16", "bf16"), ("a100-sxm-80gb", "w4a8", "int8"), ("a100-sxm-80gb", "w4a8:fp8", None),
        ("l40s", "w4a8:fp8", "fp8"), ("h100-sxm", "nvfp4", None), ("h100-sxm", "nvfp4:bf16", "bf16"),
        ("h100-sxm", "nvfp4:fp8", None), ("b200-sxm", "nvfp4:fp8", "fp8"), ("b200-sxm", "mxfp4:bf16", "bf16"),
        ("v100-sxm2-32gb", "w4a16", "fp16"), ("v100-sxm2-32gb", "w4a16:bf16", None), ("h100-sxm", "int8:bf16", "bf16"),
    ],
)  # fmt: skip
def test_what_a_device_multiplies_in(device: str, word: str, compute: str | None) -> None:
    assert catalog.device(device).executes(word) == compute


@pytest.mark.parametrize(
    ("device", "pool", "reason"),
    [
        (
            "a100-sxm-80gb", {"weights": "fp8"},
            "a100-sxm-80gb has no matrix units for fp8 weights (it has: bf16, fp16, int8); activations: bf16 would run",
        ),
        ("a100-sxm-80gb", {"weights": "fp8", "activations": "bf16"}, None),
        (
            "a100-sxm-80gb", {"weights": "w4a8", "activations": "fp8"},
            "a100-sxm-80gb cannot multiply w4a8 weights by fp8 activations (its units: bf16, fp16, int8)",
        ),
        ("a100-sxm-80gb", {"kv_cache": "fp8"}, "a100-sxm-80gb does not read a fp8 KV cache"),
        ("a100-sxm-80gb", {"kv_cache": "int4"}, None),
        (
            "tpu-v6e", {"kv_cache": "int4"},
            "kv_cache=int4: its vector units expand it, and their rate is not known of tpu-v6e",
        ),
        (
            "a100-sxm-80gb", {"precision": ({"layers": "0-3", "part": "mlp", "weights": "fp8"},)},
            "precision mlp@0-3=fp8: a100-sxm-80gb has no matrix units for fp8 weights",
        ),
        (
            "tpu-v6e", {"precision": ({"kv_cache": "int8"},)},
            "precision all@all=kvint8: kv_cache=int8: its vector units expand it",
        ),
    ],
)  # fmt: skip
def test_what_a_device_cannot_run_is_one_line(device: str, pool: dict[str, object], reason: str | None) -> None:
    found = check_dtypes(catalog.device(device), LLAMA, Pool.model_validate(pool))
    assert (found or "").startswith(reason or "")
    assert (found is None) == (reason is None)
    assert "\n" not in (found or "")


def test_every_pair_has_a_price_on_some_device_and_its_floor_holds() -> None:
    for pair in PAIRS:
        word = f"{pair.weights}:{pair.activations}"
        devices = [name for name in ("a100-sxm-80gb", "h100-sxm", "b200-sxm") if catalog.device(name).supports(word)]
        assert devices, word
        for name in devices:
            profile = catalog.device(name)
            seconds = CalibratedKernels(profile).gemm(np.array([1, 64, 4096]), 8192, 8192, word).seconds
            read = weight_bytes(word) * 8192**2 / profile.memory_bandwidth
            work = 2.0 * 4096 * 8192**2 / profile.peak_flops[pair.compute]
            assert (seconds >= 0.95 * read).all()
            assert seconds[-1] >= 0.95 * work
            assert (seconds < 10 * max(read, work) + 1e-3).all()


def test_a_borrowed_fit_is_extrapolated_and_an_own_one_is_not() -> None:
    a100, h100, b200 = (CalibratedKernels(catalog.device(name)) for name in ("a100-sxm-80gb", "h100-sxm", "b200-sxm"))
    assert priced_by(a100.profile, "w4a8") == (("w4a8", True), ("int8", False))
    assert priced_by(h100.profile, "w4a8") == (("w4a8", True), ("int8", False), ("fp8", False))
    assert priced_by(catalog.device("b300-sxm"), "int8") == (("int8", True),)  # 1/29 of the rate of fp8
    assert priced_by(b200.profile, "mxfp4:bf16") == (("w4a16", False),)  # its own files are of fp8 arithmetic
    for kernels, word, calibrated, extrapolated in (
        (a100, "w4a8", True, True), (a100, "int8", True, False), (h100, "int8", True, True), (h100, "fp8", True, False),
        (h100, "w4a16", False, False),
    ):  # fmt: skip
        price = kernels.gemm(512, 8192, 8192, word)
        assert (price.calibrated, bool(price.extrapolated)) == (calibrated, extrapolated), word


def test_four_bits_by_int8_beat_both_of_their_neighbours() -> None:
    """W4A8's point: the bytes of W4A16 with the arithmetic of W8A8 (QServe, section 3)."""
    kernels = CalibratedKernels(catalog.device("a100-sxm-80gb"), "tensorrt-llm")
    rows = np.array([1, 16, 64, 256, 1024, 8192])
    w4a8, w4a16, int8 = (kernels.gemm(rows, 28672, 8192, word).seconds for word in ("w4a8", "w4a16", "int8"))
    assert (w4a8 <= int8).all()
    assert (w4a8[rows >= 64] < w4a16[rows >= 64]).all()


def test_expanding_weights_costs_arithmetic_where_nothing_was_measured() -> None:
    kernels = AnalyticKernels(catalog.device("l40s"))
    many = np.array([4096])
    ratio = kernels.gemm(many, 8192, 8192, "w4a16").seconds / kernels.gemm(many, 8192, 8192, "bf16").seconds
    assert 1.06 < ratio.item() < 1.15  # Tilus on L40S: 1.07 to 1.14
    few = kernels.gemm(1, 8192, 8192, "bf16").seconds / kernels.gemm(1, 8192, 8192, "w4a16").seconds
    assert few > 3.0  # bound by the read of the weights


def test_weight_only_formats_gain_what_tilus_measured_on_an_l40s() -> None:
    """Gemma-2-9B: a decode step of 16 sequences 2.65 times as fast with 4 bits, 1.9 with 8, a prefill of 2048 tokens
    no faster; Qwen2.5-32B fits with 4 and 8 bits only, Llama-3-70B with 4 (techniques notes, section 8)."""
    more = {"gpu_memory_utilization": 0.98, "max_model_len": 4096}
    t = {
        word: compiled("Gemma-2-9B", "l40s", 2048, 16, weights=word, **more).tables
        for word in ("bf16", "w8a16", "w4a16")
    }
    prompt = t["bf16"].token_dense + (2048 - t["bf16"].token_dense) // t["bf16"].token_stride
    step = {word: each.decode_s[0, 16] + each.head_s[16] for word, each in t.items()}
    prefill = {word: each.mixed_s[0, prompt] + each.prefill_s[0, :, prompt].sum() for word, each in t.items()}
    assert 2.2 < step["bf16"] / step["w4a16"] < 3.0
    assert 1.6 < step["bf16"] / step["w8a16"] < 2.1
    assert 0.85 < prefill["bf16"] / prefill["w4a16"] < 1.05
    fits = {
        (name, word): not isinstance(attempt(name, "l40s", 2048, 16, weights=word, **more), DoesNotFit)
        for name in ("Qwen2.5-32B", "Llama-3-70B") for word in t
    }
    assert [word for name, word in fits if name == "Qwen2.5-32B" and fits[name, word]] == ["w8a16", "w4a16"]
    assert [word for name, word in fits if name == "Llama-3-70B" and fits[name, word]] == ["w4a16"]


def test_the_group_of_a_checkpoint_is_read() -> None:
    """Kimi-K2-Thinking: int4 in symmetric groups of 32, 4.5 bits a weight; groups of 128 would be 4.16."""
    group = {
        "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        "input_activations": None,
    }
    ignored = ["re:.*self_attn.*"]
    section = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ignored}
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 2, "num_attention_heads": 32, "vocab_size": 1000, "max_position_embeddings": 4096,
        "quantization_config": section,
    }  # fmt: skip
    model = model_from_config(config, "tiny", "config.json")
    assert (model.quantization, model.quantization_format) == ("w4a16", "w4a16-g32s")
    cut = cut_of(model, Pool())
    assert (cut.mlp, cut.attention) == ("w4a16-g32s", "bf16")
    assert cut_of(model, Pool(weights="w4a8")).mlp == "w4a8"  # another format is another quantisation
    assert cut_of(model, Pool(activations="int8")).mlp == "w4a16-g32s:int8"
    usual = model.model_copy(update={"quantization_format": "w4a16"})
    ours, theirs = (stage_weight_bytes(each, cut_of(each, Pool()), 0) for each in (model, usual))
    mlp = 2 * 3 * 4096 * 14336
    assert ours - theirs == pytest.approx(mlp * (4.5 - 4 - 20 / 128) / 8)


def test_a_checkpoint_with_small_groups_takes_what_its_files_take() -> None:
    """moonshotai/Kimi-K2-Thinking is 594 GB on the Hugging Face hub: experts in int4, groups of 32, the rest in bf16.
    With groups of 128 it would come out 7 % smaller."""
    model = catalog.model("Kimi-K2-Thinking")
    assert (model.quantization_format, model.unquantized) == (
        "w4a16-g32s", ("attention", "mlp", "shared_experts", "lm_head"),
    )  # fmt: skip
    assert stage_weight_bytes(model, cut_of(model, Pool()), 0) == pytest.approx(594e9, rel=0.01)


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "w4a16-g32"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "w4a16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "w4a16"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "w4a8:fp8"),
    ],
)
def test_formats_of_checkpoints(section: dict[str, object], word: str) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 4096, "quantization_config": section,
    }  # fmt: skip
    assert model_from_config(config, "tiny", "config.json").quantization_format == word


def test_activations_that_follow_anyway_change_no_byte() -> None:
    plain, said = (
        compiled("Llama-3.1-8B", tokens=2048, seqs=64, weights="fp8", **more) for more in ({}, {"activations": "fp8"})
    )
    assert same_bytes(plain.tables, said.tables)
    assert plain.memory == said.memory


def test_weight_only_execution_reads_less_but_multiplies_no_faster() -> None:
    """An fp8 checkpoint on an A100 (Marlin): decodes faster than bf16, prefills no faster."""
    own, expanded = (
        compiled("Llama-3.1-8B", "a100-sxm-80gb", 4096, 64, **pool).tables
        for pool in ({}, {"weights": "fp8", "activations": "bf16"})
    )
    assert (expanded.decode_s[0, 1:9] < 0.75 * own.decode_s[0, 1:9]).all()
    assert expanded.mixed_s[0, -1] > 0.98 * own.mixed_s[0, -1]


def test_partners_are_those_of_the_table() -> None:
    assert partners("bf16") == ("bf16",)
    assert partners("w4a8") == ("int8", "fp8")
    assert partners("nvfp4") == ("fp4", "fp8", "bf16")


def test_notes_say_what_was_not_measured() -> None:
    """A borrowed fit and an expanded cache, once each; measured formats say nothing."""
    a100 = compiled("Llama-3-8B", "a100-sxm-80gb", 2048, 64, weights="w4a8", kv_cache="int4").confidence.notes
    assert sum("gemm of w4a8 was not measured: priced by that of int8" in note for note in a100) == 1
    assert sum("decode attention over int4 KV was not measured" in note for note in a100) == 1
    for pool in ({}, {"weights": "fp8", "kv_cache": "fp8"}, {"weights": "w4a16"}):
        notes = compiled("Llama-3-8B", "h100-sxm", 2048, 64, **pool).confidence.notes
        assert not any("was not measured: priced" in note or "KV was not measured" in note for note in notes)
    experts = compiled("Mixtral-8x7B", "h100-sxm", 2048, 64, tp=2, weights="fp8").confidence.notes
    assert not any("grouped gemm of fp8" in note for note in experts)  # blockwise kernels stand for them
