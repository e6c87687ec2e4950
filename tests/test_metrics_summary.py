"""The summary of runs whose every figure is worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apexsim.engine.result import IN_FLIGHT
from apexsim.metrics.distribution import Distribution, distribution
from apexsim.metrics.latency import latencies
from apexsim.metrics.summary import Deployment, Prices, summarise
from apexsim.spec.slo import parse_slo
from tests.metrics_worlds import account, gaps, rejected, request, result

TWO_DEVICES = Deployment(devices=2, weights_bytes_per_device=8e9, kv_capacity_tokens=1600)

STATISTICS = {"mean", "p50", "p90", "p95", "p99", "max"}
KEYS = {
    "requests": {"total", "completed", "rejected", "failed", "in_flight"},
    "duration_s": None,
    "ttft_s": STATISTICS,
    "tpot_s": STATISTICS,
    "itl_s": STATISTICS,
    "e2e_s": STATISTICS,
    "queue_s": STATISTICS,
    "throughput": {
        "requests_per_s", "input_tokens_per_s", "output_tokens_per_s", "output_tokens_per_s_per_device"
    },
    "slo": {"met", "target", "attainment", "by_limit"},
    "energy": {
        "total_j", "j_per_output_token", "j_per_request", "mean_power_w", "devices_j", "overhead_j", "site_j"
    },
    "cost": {"usd", "usd_per_hour", "usd_per_million_output_tokens"},
    "carbon": {"g_co2e"},
    "memory": {"weights_bytes_per_device", "kv_capacity_tokens", "kv_peak_fraction"},
    "preemptions": None,
    "prefix_hit_rate": None,
    "utilization": {"mfu", "mbu", "busy_fraction"},
    "breakdown_s": {"gemm", "attention", "moe", "communication", "host", "idle"},
    "confidence": {"calibrated_fraction", "extrapolated_fraction", "notes"},
    "simulation": {"wall_s", "iterations", "seed", "version"},
}
"""The summary JSON of the design, §7: keys and the keys below them."""


def a_run():
    """Two completed requests and a rejected one; the run lasts from 1 s to 5 s."""
    requests = [
        request(1.0, 1.5, 2.0, 4.0, inputs=100, outputs=5, itl_max=0.8, cached=0),
        request(2.0, 2.0, 3.0, 5.0, inputs=300, outputs=3, itl_max=1.5, preemptions=1, cached=40),
        rejected(3.0, inputs=9999, outputs=7),
    ]
    runs = gaps((0.4, 0.0, 3, 1), (0.8, 0.0, 1, 1), (0.5, 1.0, 2, 1))
    return result(requests, runs, iterations=9, busy_s=3.0, preemptions=1, kv_peak_blocks=25)


def test_every_figure_of_a_hand_computed_run():
    summary = summarise(
        a_run(), account(energy_j=3600.0, breakdown_s={"idle": 1.0, "gemm": 3.0}, mfu=0.25, mbu=0.5),
        TWO_DEVICES, slo=parse_slo("ttft=1s,e2e=3s@0.6"), prices=Prices(1.8, 500.0), wall_s=0.1, version="x",
    ).to_dict()
    assert summary["requests"] == {"total": 3, "completed": 2, "rejected": 1, "failed": 0, "in_flight": 0}
    assert summary["duration_s"] == 4.0
    assert summary["ttft_s"]["mean"] == 1.0
    assert summary["tpot_s"] == pytest.approx(
        {"mean": 0.75, "p50": 0.75, "p90": 0.95, "p95": 0.975, "p99": 0.995, "max": 1.0}
    )
    assert summary["itl_s"] == pytest.approx(  # 0.4 ×3, 0.5, 0.8, 1.5
        {"mean": 4.0 / 6, "p50": 0.45, "p90": 1.15, "p95": 1.325, "p99": 1.465, "max": 1.5}
    )
    assert summary["e2e_s"]["p50"] == 3.0
    assert summary["queue_s"]["max"] == 0.5
    assert summary["throughput"] == {
        "requests_per_s": 0.5, "input_tokens_per_s": 100.0, "output_tokens_per_s": 2.0,
        "output_tokens_per_s_per_device": 1.0,
    }
    assert summary["slo"] == {
        "met": True, "target": 0.6, "attainment": pytest.approx(2 / 3),
        "by_limit": {"ttft": pytest.approx(2 / 3), "e2e": pytest.approx(2 / 3)},
    }
    assert summary["energy"] == {
        "total_j": 3600.0, "j_per_output_token": 450.0, "j_per_request": 1800.0, "mean_power_w": 900.0,
        "devices_j": 3600.0, "overhead_j": 0.0, "site_j": 0.0,
    }
    assert summary["cost"] == pytest.approx(
        {"usd": 0.004, "usd_per_hour": 3.6, "usd_per_million_output_tokens": 500.0}
    )
    assert summary["carbon"] == {"g_co2e": pytest.approx(0.5)}
    assert summary["memory"] == {
        "weights_bytes_per_device": 8e9, "kv_capacity_tokens": 1600, "kv_peak_fraction": 0.25
    }
    assert (summary["preemptions"], summary["prefix_hit_rate"]) == (1, 0.1)
    assert summary["utilization"] == {"mfu": 0.25, "mbu": 0.5, "busy_fraction": 0.75}
    assert summary["breakdown_s"] == {"idle": 1.0, "gemm": 3.0}
    assert summary["simulation"] == {"wall_s": 0.1, "iterations": 9, "seed": 0, "version": "x"}


def test_the_json_has_exactly_the_keys_of_the_design():
    summary = summarise(a_run(), account(), TWO_DEVICES).to_dict()
    assert list(summary) == list(KEYS)
    for key, below in KEYS.items():
        if below and key != "breakdown_s":
            assert set(summary[key]) == below, key
    json.dumps(summary, allow_nan=False)


def test_what_is_undefined_is_null_and_never_nan():
    nothing = result([rejected(0.0), rejected(1.0)])
    slo = parse_slo("ttft=1s")
    summary = summarise(nothing, account(), TWO_DEVICES, slo=slo, prices=Prices(2.0)).to_dict()
    assert summary["ttft_s"] == dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"))
    assert set(summary["throughput"].values()) == {None}
    assert set(summary["energy"].values()) == {None}
    assert summary["cost"] == {"usd": None, "usd_per_hour": 4.0, "usd_per_million_output_tokens": None}
    assert summary["prefix_hit_rate"] is None
    assert summary["slo"]["attainment"] == 0.0
    assert summary["slo"]["met"] is False
    json.dumps(summary, allow_nan=False)


def test_without_slo_price_or_intensity_there_is_no_verdict_and_no_dollar():
    summary = summarise(a_run(), account(), TWO_DEVICES).to_dict()
    assert summary["slo"] == {"met": None, "target": None, "attainment": None, "by_limit": {}}
    assert set(summary["cost"].values()) == {None}
    assert summary["carbon"] == {"g_co2e": None}


def test_the_warm_up_is_simulated_but_not_counted():
    run = result([request(float(t), float(t), t + (9.0 if t == 0 else 1.0), t + 9.0) for t in range(11)])
    cold, warm = (summarise(run, account(), TWO_DEVICES, warmup=share) for share in (0.0, 0.1))
    assert cold.ttft_s.max == 9.0
    assert warm.ttft_s.max == 1.0  # t = 0 is in the first 10 % of 10 s, t = 1 is not
    assert warm.requests.total == 11


def test_leaving_the_gaps_out_leaves_only_them_out():
    full = summarise(a_run(), account(), TWO_DEVICES).to_dict()
    quick = summarise(a_run(), account(), TWO_DEVICES, with_itl=False).to_dict()
    assert full.pop("itl_s")["p50"] == pytest.approx(0.45)
    assert set(quick.pop("itl_s").values()) == {None}
    assert full == quick


def test_one_output_token_has_no_tpot_and_an_unfinished_request_no_latency():
    values = latencies(result([
        request(0.0, 0.0, 1.0, 1.0, outputs=1),
        request(0.0, 0.0, 1.0, outputs=3, status=IN_FLIGHT),
    ]).requests)
    assert values.e2e_s[0] == 1.0
    assert np.isnan(values.tpot_s).all()
    assert np.isnan(values.ttft_s[1])


def test_distribution_is_numpys_linear_percentile():
    values = np.array([3.0, np.nan, 1.0, 2.0])
    assert distribution(values) == Distribution(2.0, 2.0, 2.8, 2.9, pytest.approx(2.98), 3.0)
    assert distribution(np.array([np.nan])) == Distribution()


def test_where_nothing_ran_time_has_no_figure_and_an_hour_keeps_its_price():
    idle = account(energy_j=0.0)
    summary = summarise(result([rejected(1.0), rejected(2.0)]), idle, TWO_DEVICES, prices=Prices(1.8, 500.0)).to_dict()
    assert set(summary["energy"].values()) == {None}
    assert summary["cost"] == {"usd": None, "usd_per_hour": 3.6, "usd_per_million_output_tokens": None}
    assert summary["carbon"] == {"g_co2e": None}


def test_prefix_hits_and_prompts_are_of_the_same_requests():
    lost = request(0.0, 0.0, 0.1, outputs=5, status=IN_FLIGHT, inputs=100, cached=100)
    done = request(0.0, 0.0, 1.0, 2.0, outputs=5, inputs=200, cached=50)
    assert summarise(result([lost, done]), account(), TWO_DEVICES).prefix_hit_rate == 0.25
