"""Plans under traces with images: what it costs, EPD's published figures, and that text is served as before."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.host import host_model
from apexsim.cost.vision import operators, slice_flops
from apexsim.errors import InputError
from apexsim.scenario import Prepared
from apexsim.search.executors import Serial
from apexsim.search.problem import make_problem
from apexsim.search.run import search
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from apexsim.spec.slo import parse_slo
from apexsim.workload.synthetic import poisson
from apexsim.workload.trace import Trace

SCHEDULER = {"preset": "vllm-v0", "max_num_batched_tokens": 49152}
SERVE = [{"role": "serve", "replicas": 8, "vision": True, "scheduler": SCHEDULER}]
DISTSERVE = [
    {"role": "prefill", "replicas": 7, "vision": True, "scheduler": SCHEDULER},
    {"role": "decode", "replicas": 1, "scheduler": SCHEDULER},
]
EPD = [
    {"role": "encode", "replicas": 6, "irp": True, "encode_batch": 16},
    {"role": "prefill", "replicas": 1, "scheduler": SCHEDULER},
    {"role": "decode", "replicas": 1, "scheduler": SCHEDULER},
]


def plan(pools: list[dict[str, Any]], model: str = "MiniCPM-V-2.6", version: str = "0.6.1") -> Plan:
    keys = {"model": model, "cluster": "8xa100-sxm-80gb", "engine_version": version, "pools": pools}
    return parse(Plan, keys, source="plan")


def prepared(pools: list[dict[str, Any]], **how: Any) -> Prepared:
    made = scenario.prepare(plan(pools), **how)
    assert isinstance(made, Prepared)
    return made


def frames(count: int, rate: float = 1.0, seed: int = 0) -> Trace:
    """EPD's load: 100 Poisson requests, 22 prompt tokens, 10 output tokens, so many frames each."""
    return poisson(rate, 100, 22, 10, seed).with_columns(images=np.full(100, count, np.int64))


# --- published anchors ----------------------------------------------------------------------------------------------

FRAMES = (8, 16, 32, 64)
TABLE = {
    # EPD, arXiv 2501.05460, table 1: mean TTFT in s; media and efficiency were fitted on it (engine_profiles/vllm.yaml)
    "vllm": (SERVE, (0.42, 0.82, 1.59, 3.11)),
    "distserve": (DISTSERVE, (0.42, 0.81, 1.54, 3.08)),
    "epd": (EPD, (0.24, 0.30, 0.49, 1.00)),
}


@cache
def ttft_s(system: str, count: int) -> float:
    """Of three traces."""
    made = prepared(TABLE[system][0])
    means = [scenario.run(made, frames(count, seed=seed)).summary.ttft_s.mean for seed in range(3)]
    return float(np.mean(means))  # type: ignore[arg-type]


@pytest.mark.parametrize("system", sorted(TABLE))
@pytest.mark.parametrize("column", range(4))
def test_ttft_by_frames_is_that_of_epd(system: str, column: int) -> None:
    assert ttft_s(system, FRAMES[column]) == pytest.approx(TABLE[system][1][column], rel=0.2)


@pytest.mark.parametrize(("count", "ratio"), list(zip(FRAMES, (1.75, 2.73, 3.24, 3.11), strict=True)))
def test_epd_is_as_much_faster_than_vllm(count: int, ratio: float) -> None:
    assert ttft_s("vllm", count) / ttft_s("epd", count) == pytest.approx(ratio, rel=0.2)


@pytest.mark.parametrize(("pictures", "ratio"), [(2, 1.6), (4, 2.4), (6, 2.9), (8, 2.5)])
def test_irp_is_as_much_faster(pictures: int, ratio: float) -> None:
    """4032 × 3024, 10.3 slices a picture; their preprocessing, 0.62 s, is taken from the same experiment."""
    host = replace(host_model("vllm", "0.6.1"), media_s=0.62)
    trace = frames(round(10.3 * pictures), rate=0.25)
    found = {}
    for irp in (True, False):
        made = prepared([{**EPD[0], "irp": irp}, *EPD[1:]], host=host)
        found[irp] = scenario.run(made, trace).summary.ttft_s.mean
    assert found[False] / found[True] == pytest.approx(ratio, rel=0.25)  # type: ignore[operator]


def test_without_an_slo_units_of_their_own_give_no_more_throughput() -> None:
    """EPD's limitation, section 5: where only throughput counts, eight replicas that do all are as good or better."""
    burst = frames(16).with_columns(arrival_s=np.zeros(100))
    together, apart = (scenario.run(prepared(pools), burst).summary.duration_s for pools in (SERVE, EPD))
    assert together < apart


# --- costs ----------------------------------------------------------------------------------------------------------


def test_a_slice_has_the_flops_of_its_matrices() -> None:
    """SigLIP on 1,024 patches, by hand: 27 layers of 4h² + 2h·4304, all pairs; then the resampler's matrices."""
    spec = catalog.model("MiniCPM-V-2.6").vision
    assert spec is not None
    h, patches, out = 1152, 1024, 3584
    layers = 27 * (2 * patches * (4 * h * h + 2 * h * 4304) + 4 * patches**2 * h)
    rest = 2 * patches * (588 * h + h * out + 2 * out * out) + 2 * 64 * 3 * out * out
    assert slice_flops(spec) == pytest.approx(layers + rest, rel=1e-12)


def test_ranks_split_the_encoder() -> None:
    spec = catalog.model("MiniCPM-V-2.6").vision
    assert spec is not None
    one, four = (operators(spec, "bf16", tp, 1024, 64) for tp in (1, 4))
    assert [op.name for op, _ in four if op.name not in {op.name for op, _ in one}] == ["encoder_all_reduce"]
    made = prepared([{"vision": True}]), prepared([{"vision": True, "tp": 4}])
    alone, split = (each.compiled.encoder for each in made)
    assert alone is not None
    assert split is not None
    assert split.weights_bytes < 0.5 * alone.weights_bytes  # the projector is whole on every rank
    assert split.work.slice_s < alone.work.slice_s


def test_the_encoder_takes_its_memory_from_the_kv_cache() -> None:
    text, sees = prepared([{}]), prepared([{"vision": True}])
    encoder = sees.compiled.encoder
    assert encoder is not None
    lost = text.compiled.memory.kv_blocks - sees.compiled.memory.kv_blocks
    block = 16 * text.compiled.memory.kv_bytes_per_token_per_device
    assert lost * block == pytest.approx(encoder.weights_bytes, rel=0.01)
    spec = text.model.vision
    assert spec is not None
    assert encoder.weights_bytes == pytest.approx(2 * spec.parameters)


def test_images_of_two_sizes_cost_by_their_size() -> None:
    made = scenario.prepare(plan([{"vision": True}], "Qwen3-VL-8B"))
    assert isinstance(made, Prepared)
    law = made.compiled.encoder
    assert law is not None
    small, usual, large = law.slice_s(np.array([64, 576, 2304]))
    assert small < usual < large / 4  # attention grows faster than the patches
    assert usual == pytest.approx(law.work.slice_s)


def test_encoding_is_in_the_books() -> None:
    """Time sums to replicas · duration, joules and MFU grow by the slices, and each pool has a row."""
    trace = frames(16)
    for pools, replicas in ((SERVE, 8), (DISTSERVE, 8), (EPD, 8)):
        run = scenario.run(prepared(pools), trace)
        summary = run.summary
        assert summary.encoding is not None
        assert summary.encoding.slices == 1600
        assert sum(summary.breakdown_s.values()) == pytest.approx(replicas * summary.duration_s)
        assert min(summary.breakdown_s.values()) >= 0
        text = scenario.run(prepared(pools), poisson(1.0, 100, 22 + 16 * 64, 10, 0)).summary
        assert summary.energy.total_j > text.energy.total_j  # type: ignore[operator]
        assert summary.utilization.mfu > text.utilization.mfu  # type: ignore[operator]
        data = summary.to_dict()
        assert data["encoding"]["requests"] == 100
        assert [row["role"] for row in data.get("by_pool", [])][-1:] == (["encode"] if pools is EPD else
                                                                         ["decode"] if pools is DISTSERVE else [])


def test_the_prompt_is_text_and_visual_tokens() -> None:
    made, trace = prepared(SERVE), frames(8)
    run = scenario.run(made, trace)
    assert (run.result.requests.input_tokens == 22 + 8 * 64).all()
    stated = scenario.run(made, trace.with_columns(visual_tokens=np.full(100, 10)))
    assert (stated.result.requests.input_tokens == 22 + 8 * 10).all()


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["MiniCPM-V-2.6", "Qwen3-VL-8B"])
def test_an_encoder_changes_no_byte_of_serving_text(model: str) -> None:
    """A model's vision_config says nothing to a plan that does not ask for it, nor do requests without images."""
    spec, trace = catalog.model(model), poisson(4.0, 60, 300, 20, 1)
    bare = spec.model_copy(update={"vision": None})
    declared = plan([{"role": "serve", "replicas": 2}], model)
    results = []
    for known, offered in ((bare, trace), (spec, trace), (spec, trace.with_columns(images=np.zeros(60, np.int64)))):
        made = scenario.prepare(declared, model=known)
        assert isinstance(made, Prepared)
        run = scenario.run(made, offered)
        data = run.summary.to_dict()
        data["simulation"].pop("wall_s")
        assert "encoding" not in data
        results.append((run.result, repr(data)))
    assert all(result.same_bytes(results[0][0]) and text == results[0][1] for result, text in results)


# --- refusals and searching -----------------------------------------------------------------------------------------


def test_what_cannot_serve_images_says_why() -> None:
    with pytest.raises(InputError, match=r"requests have images, and pools\[0\] encodes none"):
        scenario.run(prepared([{}]), frames(8))
    text = scenario.prepare(plan([{}], "Llama-3.1-8B"))
    assert isinstance(text, Prepared)
    with pytest.raises(InputError, match=r"request 1 has images, and Llama-3\.1-8B reads text only"):
        scenario.run(text, frames(8))


def test_a_unit_that_is_too_small_says_by_how_much() -> None:
    pools = [{"role": "encode", "encode_batch": 9000}, {}]
    made = scenario.prepare(plan(pools))
    assert not isinstance(made, Prepared)
    assert "pools[0]: the vision encoder of MiniCPM-V-2.6 needs" in made.reason


def test_a_search_encodes_what_the_trace_brings() -> None:
    """Every plan holds the encoder, and prompts hold the visual tokens."""
    space = {"tp": [1, 2], "pp": [1], "replicas": [1, 2], "max_num_seqs": [64], "max_num_batched_tokens": [8192],
             "weights": ["bf16"], "kv_cache": ["bf16"]}
    problem = make_problem(
        "MiniCPM-V-2.6", catalog.cluster("2xa100-sxm-80gb"), frames(4), parse_slo("ttft=3s,tpot=60ms@0.9"), space=space
    )
    found = search(problem, Serial())
    assert len(found.ranked) == 3
    assert all(each.plan.pools[0].vision for each in found.ranked)
    assert (problem.trace.input_tokens == 22 + 4 * 64).all()
    assert found.ranked[0].plan.pools[0].replicas == 2
