"""Plans with a fleet: what is legal, what is paid, what the summary says, and that the same seed is the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.memory import DoesNotFit
from apexsim.engine.result import FAILED
from apexsim.errors import InputError
from apexsim.report.simulation import simulate
from apexsim.scenario import Prepared, Run, prepare
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from apexsim.workload.trace import Trace

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
SCALE = {"max_replicas": 4, "target_requests": 4, "period": "2s", "provision": "3s", "load": "5s", "cooldown": "10s"}
FAILING = {"mtbf": "8s", "mttr": "3s", "retries": 1}


def plan(fleet: dict[str, Any] | None, *pools: dict[str, Any], cluster: str = "8xh100-sxm", **keys: Any) -> Plan:
    data = {"model": "Llama-3.1-8B", "cluster": cluster, "pools": list(pools or ({"replicas": 2},)), **keys}
    return parse(Plan, data | ({} if fleet is None else {"fleet": fleet}), source="plan.yaml")


def trace(n: int = 200, rate: float = 10.0) -> Trace:
    random = np.random.default_rng(3)
    return Trace("t", np.arange(n) / rate, random.integers(50, 900, n), random.integers(1, 300, n))


def run(declared: Plan, arriving: Trace | None = None, **options: Any) -> Run:
    prepared = prepare(declared, source="plan.yaml")
    assert isinstance(prepared, Prepared)
    return scenario.run(prepared, arriving or trace(), **options)


# --- what is paid ---------------------------------------------------------------------------------------------------


def test_devices_are_paid_from_when_they_are_there_until_they_are_given_back() -> None:
    """By the events: from the end of provisioning, loading included, to the release."""
    found = run(plan({"autoscale": [SCALE]}, {"replicas": 1}))
    summary, duration_s = found.summary, found.summary.duration_s
    seconds = {0: duration_s}
    for event in found.result.fleet_events:
        if event.kind in ("loading", "released"):
            sign = 1 if event.kind == "loading" else -1
            seconds[event.replica] = seconds.get(event.replica, 0.0) + sign * max(duration_s - event.at_s, 0.0)
    use = summary.fleet
    assert use is not None
    assert use.serving_max == 4
    assert use.added >= 3
    assert use.device_hours * 3600 == pytest.approx(sum(seconds.values()), rel=1e-9)
    assert summary.cost.usd == pytest.approx(summary.cost.usd_per_hour * duration_s / 3600)
    assert summary.cost.usd_per_hour * duration_s == pytest.approx(
        catalog.device("h100-sxm").price_usd_per_hour * sum(seconds.values())
    )
    assert sum(summary.breakdown_s.values()) == pytest.approx(sum(seconds.values()), rel=1e-9)


def test_a_replica_that_is_not_there_draws_nothing() -> None:
    """Two replicas that stay, and one that may become two and never does: half of the idle joules."""
    quiet = trace(20, rate=0.5)
    alone = run(plan(None, {"replicas": 1}), quiet).summary
    scaled = run(plan({"autoscale": [SCALE | {"target_requests": 1000}]}, {"replicas": 1}), quiet).summary
    assert scaled.energy.total_j == pytest.approx(alone.energy.total_j, rel=1e-9)
    assert scaled.cost.usd == pytest.approx(alone.cost.usd, rel=1e-9)


def test_load_bandwidth_is_of_the_weights_of_a_replica() -> None:
    rule = {key: value for key, value in SCALE.items() if key != "load"}
    found = run(plan({"autoscale": [rule | {"load_bandwidth": "4GB/s"}]}, {"replicas": 1, "tp": 2}))
    events = {event.kind: event.at_s for event in reversed(found.result.fleet_events) if event.replica == 1}
    weights = 2 * found.summary.memory.weights_bytes_per_device
    assert events["serving"] - events["loading"] == pytest.approx(weights / 4e9)
    assert events["loading"] - events["coming"] == pytest.approx(3.0)


def test_nodes_are_whole_and_only_those_that_hold_a_device() -> None:
    watts = {"device": "h100-sxm", "devices_per_node": 2, "nodes": 2, "node_overhead_w": 100.0}
    scaled = run(plan({"autoscale": [SCALE]}, {"replicas": 1}, cluster=watts)).summary  # type: ignore[arg-type]
    assert scaled.energy.overhead_j is not None
    mean_nodes = scaled.energy.overhead_j / scaled.duration_s / 100.0
    assert 1.0 < mean_nodes < 2.0


# --- what the summary says ------------------------------------------------------------------------------------------


def test_failed_requests_are_counted_and_miss_the_slo() -> None:
    found = run(plan({"failures": FAILING | {"retries": 0}}), slo=catalog.slo("e2e=1000s@0.9"))
    summary, columns = found.summary, found.result.requests
    failed = int((columns.status == FAILED).sum())
    assert failed > 0
    assert summary.requests.failed == failed == summary.fleet.failed_requests
    assert summary.requests.completed + failed == 200
    assert summary.slo.attainment == pytest.approx(1 - failed / 200)


def test_a_request_that_is_offered_again_says_so(tmp_path: Path) -> None:
    report = simulate(plan({"failures": FAILING | {"retries": 5}}), trace())
    table = report.to_pandas()
    assert report.summary.fleet.retries == (table.attempts - 1).sum() > 0
    assert (table.status == "completed").all()
    assert "requests offered again" in str(report._repr_html_())


def test_stragglers_have_a_part_of_the_time_of_their_own() -> None:
    found = run(plan({"stragglers": [{"replica": 0, "factor": 2.0}]}))
    parts, plain = found.summary.breakdown_s, run(plan(None)).summary.breakdown_s
    assert parts["slowed"] == pytest.approx(found.summary.fleet.slowed_s)
    assert sum(parts.values()) == pytest.approx(2 * found.summary.duration_s, rel=1e-9)
    assert "slowed" not in plain


@pytest.mark.parametrize("pool", [0, 1])
def test_stragglers_of_one_pool_count_in_the_time_of_all(pool: int) -> None:
    two = ({"role": "prefill", "replicas": 1}, {"role": "decode", "replicas": 1})
    summary = run(plan({"stragglers": [{"pool": pool, "replica": 0, "factor": 2.0}]}, *two)).summary
    assert summary.fleet is not None
    assert summary.breakdown_s["slowed"] == pytest.approx(summary.fleet.slowed_s)
    assert sum(summary.breakdown_s.values()) == pytest.approx(2 * summary.duration_s, rel=1e-9)


def test_a_plan_without_a_fleet_says_nothing_of_it() -> None:
    for fleet in (None, {}, {"seed": 3}):
        report = simulate(plan(fleet), trace())
        assert "fleet" not in report.summary.to_dict()
        assert "attempts" not in report.to_pandas()
        assert report.plan.id == plan(None).id


def test_a_fleet_in_which_nothing_happens_serves_as_one_pool_does() -> None:
    """The loop of several pools, where the plan has one: equal to rounding."""
    still = run(plan({"drain": [{"replica": 0, "at": "10h", "away": "1s"}]})).result.requests
    plain = run(plan(None)).result.requests
    for name in ("start_s", "first_token_s", "finish_s", "itl_max_s", "replica"):
        np.testing.assert_allclose(getattr(still, name), getattr(plain, name), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("at", ["10ms", "1s", "19950ms"])
def test_time_adds_up_where_the_last_replica_goes(at: str) -> None:
    """Nothing completes, something does, or the last request is lost after the last token: no idle time below 0."""
    lost = [{"replica": replica, "at": at} for replica in (0, 1)]
    summary = run(plan({"failures": {"scheduled": lost, "retries": 0}})).summary
    assert summary.requests.completed + summary.requests.failed == 200
    assert summary.requests.failed > 0
    assert summary.breakdown_s["idle"] >= 0
    assert sum(summary.breakdown_s.values()) <= 2 * summary.duration_s * (1 + 1e-9)


# --- seeds ----------------------------------------------------------------------------------------------------------


def test_the_same_seeds_are_the_same_run() -> None:
    def result(fleet_seed: int, seed: int) -> Any:
        prepared = prepare(plan({"failures": FAILING, "seed": fleet_seed}))
        assert isinstance(prepared, Prepared)
        return scenario.replay(prepared, trace(), seed=seed)

    assert result(0, 0).same_bytes(result(0, 0))
    assert result(0, 0).fleet_events != result(1, 0).fleet_events
    assert result(0, 0).fleet_events != result(0, 1).fleet_events


def test_plans_meet_the_same_failures_whatever_else_they_are() -> None:
    def failures(*pools: dict[str, Any]) -> list[float]:
        events = run(plan({"failures": FAILING}, *pools)).result.fleet_events
        return [event.at_s for event in events if event.kind == "failed" and event.replica == 0 and event.at_s < 20]

    assert failures({"replicas": 2}) == failures({"replicas": 3, "weights": "fp8"}) != []


# --- what is refused --------------------------------------------------------------------------------------------------

PAIR = ({"role": "prefill", "replicas": 2}, {"role": "decode", "replicas": 2})


@pytest.mark.parametrize(
    ("fleet", "pools", "keys", "says"),
    [
        ({"autoscale": [SCALE | {"pool": 1}]}, (), {}, r"fleet\.autoscale\[0\]\.pool = 1: the plan has 1 pool"),
        ({"autoscale": [SCALE, SCALE]}, (), {}, "stands twice"),
        ({"autoscale": [SCALE]}, ({"replicas": 5},), {}, r"replicas = 5 \(allowed: min_replicas to max_rep"),
        ({"drain": [{"replica": 2, "at": "1s", "away": "1s"}]}, (), {}, r"drain\[0\]\.replica = 2: pools\[0\] has 2"),
        ({"failures": {"scheduled": [{"replica": 9, "at": "1s"}]}}, (), {}, r"failures\.scheduled\[0\]\.replica = 9"),
        ({"failures": FAILING}, ({"role": "prefill"},), {}, "role=prefill: not simulated where replicas come and go"),
        ({"failures": FAILING}, ({"scheduler": {"policy": "fair"}},), {}, "scheduler.policy=fair"),
        ({"failures": FAILING}, ({"kv_tiers": [{"tier": "host", "capacity": "9GB"}]},), {}, "kv_tiers"),
        ({"failures": FAILING}, ({"scheduler": {"preemption": "swap"}},), {}, "preemption=swap"),
        ({"failures": FAILING}, (*PAIR, {"role": "decode"}), {"transfer": {"mode": "push"}}, "several decode pools"),
        (
            {"switch": {"pools": [{"pool": 0, "target_requests": 1}, {"pool": 1, "target_requests": 1}]}},
            ({"role": "prefill"}, {"role": "decode", "tp": 2}), {}, r"switch\.pools\[1\]: a replica of pools\[1\]",
        ),
        (
            {"switch": {"pools": [{"pool": 0, "target_requests": 1}, {"pool": 1, "target_requests": 1}]},
             "autoscale": [SCALE]}, PAIR, {}, "autoscale changes that",
        ),
    ],
)  # fmt: skip
def test_impossible_lives_are_refused_with_a_reason(
    fleet: dict[str, Any], pools: tuple[dict[str, Any], ...], keys: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as problem:
        prepare(plan(fleet, *pools, **keys), source="plan.yaml")
    assert "\n" not in str(problem.value)
    assert str(problem.value).startswith("plan.yaml: fleet")


@pytest.mark.parametrize(
    ("fleet", "says"),
    [
        ({"failures": {"mtbf": "1h"}}, "mtbf and mttr belong together"),
        ({"autoscale": [{"max_replicas": 2, "load": "1s"}]}, "needs target_requests or target_utilization"),
        ({"autoscale": [{"max_replicas": 2, "target_requests": 1}]}, "needs load or load_bandwidth"),
        ({"autoscale": [SCALE | {"min_replicas": 9}]}, "min_replicas 9 exceeds max_replicas 4"),
        ({"stragglers": [{"replica": 0, "factor": 0.5}]}, r"fleet\.stragglers\[0\]\.factor = 0\.5"),
        ({"stragglers": [{"replica": 0, "factor": 2.0, "at": "2s", "until": "1s"}]}, "is not after"),
        ({"failure": {}}, "fleet.failure: unknown key; did you mean 'failures'"),
        ({"failures": {"mtbf": 3600, "mttr": "1s"}}, "has no unit"),
    ],
)
def test_a_wrong_fleet_is_one_line(fleet: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as problem:
        plan(fleet)
    assert "\n" not in str(problem.value)


def test_the_cluster_holds_the_most_replicas() -> None:
    short = prepare(plan({"autoscale": [SCALE]}, {"replicas": 1, "tp": 4}))
    assert isinstance(short, DoesNotFit)
    assert "needs 16 devices" in short.reason


def test_ids_tell_fleets_apart() -> None:
    fleets = [None, {"failures": FAILING}, {"failures": FAILING | {"retries": 2}}, {"failures": FAILING, "seed": 1},
              {"autoscale": [SCALE]}, {"drain": [{"replica": 0, "at": "1s", "away": "1s"}]}]  # fmt: skip
    assert len({plan(fleet).id for fleet in fleets}) == len(fleets)
