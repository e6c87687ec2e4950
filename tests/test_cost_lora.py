"""LoRA adapters: bytes by the formula, slots, time of an iteration, and S-LoRA's published ratios."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.lora import adapter_bytes, distinct_adapters
from apexsim.scenario import Prepared
from apexsim.spec import catalog
from apexsim.spec.legality import check_pool
from apexsim.spec.lora import Lora
from apexsim.spec.plan import Pool
from apexsim.workload.trace import Trace
from tests.cost_worlds import compiled, device_s
from tests.scenario_worlds import plan, trace

TWENTY = {"adapters": 20, "max_loras": 20, "rank": 16}


def prepared(model: str = "Llama-3.1-8B", cluster: str = "8xh100-sxm", **pool: Any) -> Prepared:
    found = scenario.prepare(plan(model, cluster, **pool))
    assert isinstance(found, Prepared), found
    return found


def test_an_adapter_of_attention_has_8_l_r_h_values() -> None:
    """S-LoRA: q, k, v, o of Llama 7B, 32 layers of 4096, without grouped heads."""
    model = catalog.model("Llama-2-7B")
    assert adapter_bytes(model, Lora(adapters=1), 64) == 8 * 32 * 64 * 4096 * 2
    all_linear = Lora(adapters=1, targets="all-linear")
    assert adapter_bytes(model, all_linear, 1) == 32 * 2 * (8 * 4096 + 3 * (4096 + 11008))


def test_ranks_share_what_is_cut() -> None:
    """A of q, k, v and B of o are on every rank whole; the rest is shared."""
    model, lora = catalog.model("Llama-2-7B"), Lora(adapters=1)
    assert adapter_bytes(model, lora, 1, tp=4) == 32 * 2 * 4 * (4096 + 4096 / 4)


def test_slots_are_taken_from_the_kv_cache() -> None:
    off, on = compiled("Llama-3.1-8B"), compiled("Llama-3.1-8B", lora={**TWENTY, "rank": [8, 64], "max_loras": 32})
    slots = 32 * adapter_bytes(catalog.model("Llama-3.1-8B"), Lora(adapters=1), 64)
    assert on.memory.weights_bytes_per_device == pytest.approx(off.memory.weights_bytes_per_device + slots)
    lost = (off.memory.kv_capacity_tokens - on.memory.kv_capacity_tokens) * off.memory.kv_bytes_per_token_per_device
    assert lost == pytest.approx(slots, abs=16 * off.memory.kv_bytes_per_token_per_device)


def test_distinct_adapters_of_a_batch() -> None:
    random = np.random.default_rng(0)
    weight = np.arange(1, 21) ** -1.0
    draws = random.choice(20, (4000, 12), p=weight / weight.sum())
    mean = np.mean([len(set(row)) for row in draws])
    assert float(distinct_adapters(np.array([12.0]), 20, 1.0)[0]) == pytest.approx(mean, rel=0.01)
    assert float(distinct_adapters(np.array([1.0]), 20, 1.0)[0]) == pytest.approx(1.0)
    assert float(distinct_adapters(np.array([1e4]), 20, 0.0)[0]) == pytest.approx(20.0)


def test_more_ranks_targets_and_adapters_never_cost_less() -> None:
    seconds = [
        device_s(compiled("Llama-3.1-8B", lora=lora), 32, 1024)
        for lora in (
            None, {"adapters": 1, "rank": 8}, {"adapters": 8, "rank": 8}, {"adapters": 8, "rank": 64},
            {"adapters": 8, "rank": 64, "targets": "all-linear"},
        )
    ]
    assert seconds == sorted(seconds)
    assert seconds[1] > 1.02 * seconds[0]


def throughput(lora: dict[str, Any] | None) -> float:
    """Requests/s of S-LoRA's load, U[8, 512] tokens in and out, all there at once, on an A100 of 80 GB."""
    random = np.random.default_rng(0)
    load = Trace("s-lora", np.zeros(200), random.integers(8, 513, 200), random.integers(8, 513, 200))
    ready = prepared("Llama-2-7B", "1xa100-sxm-80gb", lora=lora)
    rate = scenario.run(ready, load, with_itl=False).summary.throughput.requests_per_s
    assert rate is not None
    return rate


def test_s_loras_throughput_with_adapters_over_none() -> None:
    """Published on Llama 7B: 0.80 with one adapter, interval [0.75, 0.92]; 200 of them 0.95 of five, [0.85, 1]."""
    none = throughput(None)
    one = throughput({"adapters": 1, "max_loras": 1, "rank": [64, 32, 16, 8]})
    five = throughput({"adapters": 5, "rank": [64, 32, 16, 8]})
    many = throughput({"adapters": 200, "max_loras": 200, "rank": [64, 32, 16, 8]})
    assert 0.75 <= one / none <= 0.92
    assert 0.85 <= many / five <= 1.0


def test_no_adapters_change_no_byte() -> None:
    off, none = (prepared(replicas=1, lora=lora) for lora in (None, {**TWENTY, "adapters": 0}))
    assert off.plan.id == none.plan.id
    assert scenario.run(off, trace(20)).result.same_bytes(scenario.run(none, trace(20)).result)
    assert off.compiled.memory == none.compiled.memory


def test_time_and_energy_of_adapters_are_booked() -> None:
    off, on = (
        scenario.run(prepared(replicas=1, lora=lora), trace(20), concurrency=1).summary for lora in (None, TWENTY)
    )
    assert on.breakdown_s["gemm"] > off.breakdown_s["gemm"]
    assert sum(on.breakdown_s.values()) == pytest.approx(on.duration_s)
    assert on.energy.total_j > off.energy.total_j
    assert any(note.startswith("lora: every request") for note in on.confidence.notes)


@pytest.mark.parametrize(
    ("model", "pool", "reason"),
    [
        ("Llama-3.1-8B", {"lora": {"adapters": 9}}, "9 adapters on 8 slots"),
        ("Llama-3.1-8B", {"pp": 2, "lora": TWENTY}, "lora with pp=2"),
        ("DeepSeek-V3", {"tp": 8, "lora": TWENTY}, "no q, k and v projections"),
        ("Mixtral-8x7B", {"lora": {**TWENTY, "targets": "all-linear"}}, "adapters on the experts"),
        (
            "Llama-3.1-8B", {"lora": TWENTY, "speculative": {"method": "ngram", "num_speculative_tokens": 1}},
            "lora with speculative decoding",
        ),
    ],
)  # fmt: skip
def test_what_is_not_simulated_is_refused_with_the_reason(model: str, pool: dict[str, Any], reason: str) -> None:
    assert reason in (check_pool(catalog.model(model), Pool.model_validate(pool)) or "")


@pytest.mark.parametrize("lora", [{"rank": 0}, {"targets": []}, {"targets": ["q", "q"]}])
def test_what_is_no_adapter_is_an_error(lora: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rank must|targets must"):
        Lora.model_validate({"adapters": 1, **lora})
