"""One plan, one trace: what a run must satisfy whatever the costs are, and what the scenario refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.memory import DoesNotFit
from apexsim.engine.prefixes import DECLARED_PREFIXES, NO_PREFIXES
from apexsim.engine.result import COMPLETED
from apexsim.errors import InputError, UsageError
from apexsim.metrics.goodput import goodput_trace
from apexsim.metrics.itl import total_gaps
from apexsim.metrics.summary import Prices
from apexsim.scenario import Prepared
from apexsim.search.measure import measure_goodput
from apexsim.spec.slo import parse_slo
from apexsim.workload.load import Load
from tests.scenario_worlds import LARGE, SMALL, plan, trace


def prepared(*args, **pool) -> Prepared:
    found = scenario.prepare(plan(*args, **pool))
    assert isinstance(found, Prepared)
    return found


def test_a_run_adds_up():
    arriving = trace()
    run = scenario.run(prepared(replicas=2), arriving, slo=parse_slo("ttft=1s"))
    summary, requests = run.summary, run.result.requests
    assert summary.requests.completed == len(arriving)
    assert total_gaps(run.result.itl) == int((arriving.output_tokens - 1).sum())
    assert set(summary.breakdown_s) == {"gemm", "attention", "moe", "communication", "host", "idle"}
    assert sum(summary.breakdown_s.values()) == pytest.approx(2 * summary.duration_s, rel=1e-9)
    assert summary.duration_s == np.nanmax(requests.finish_s) - arriving.arrival_s[0]
    assert summary.energy.mean_power_w == pytest.approx(summary.energy.total_j / summary.duration_s)
    assert (requests.status == COMPLETED).all()
    # every gap is at most the request's largest, and the largest of all is the maximum of the distribution
    assert summary.itl_s.max == pytest.approx(np.nanmax(requests.itl_max_s), rel=1e-12)


def test_equal_inputs_give_equal_json_but_for_the_wall_time():
    first, second = (scenario.run(prepared(replicas=2), trace(), seed=5).summary.to_dict() for _ in range(2))
    assert first["simulation"].pop("wall_s") > 0
    second["simulation"].pop("wall_s")
    assert json.dumps(first) == json.dumps(second)


def test_the_profiles_price_applies_until_one_is_given():
    ready = prepared()
    own = scenario.run(ready, trace()).summary.cost.usd_per_hour
    assert own == ready.profile.price_usd_per_hour
    assert scenario.run(ready, trace(), prices=Prices(7.0)).summary.cost.usd_per_hour == 7.0


def test_a_request_that_cannot_be_served_is_rejected_and_counted():
    ready = prepared(max_model_len=4096)
    arriving = trace(4).with_columns(
        input_tokens=np.array([10, 5000, 4000, 20]), output_tokens=np.array([5, 5, 97, 96])
    )
    counts = scenario.run(ready, arriving).summary.requests
    assert (counts.total, counts.completed, counts.rejected) == (4, 2, 2)


def test_a_plan_that_does_not_fit_is_a_value_that_says_by_how_much():
    miss = scenario.prepare(plan(LARGE, tp=1))
    assert isinstance(miss, DoesNotFit)
    assert miss.resource == "memory"
    assert miss.short_bytes == pytest.approx(miss.needed_bytes - miss.available_bytes)
    assert "short by" in miss.reason


def test_a_plan_larger_than_its_cluster_does_not_fit():
    miss = scenario.prepare(plan(tp=4, replicas=4))
    assert isinstance(miss, DoesNotFit)
    assert miss.resource == "devices"
    assert miss.reason.endswith("the cluster 8xh100-sxm has 8: short by 8")


def test_where_it_fits_is_the_smallest_tp_that_does():
    fits = scenario.where_it_fits(plan(LARGE, tp=1, replicas=8))
    assert fits is not None
    pool = fits.pools[0]
    assert (pool.tp, pool.replicas) == (2, 4)
    assert isinstance(scenario.prepare(fits), Prepared)
    assert scenario.where_it_fits(plan("Llama-3.1-405B", "4xh100-sxm", tp=1)) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tp": 3}, "does not divide"),
        ({"dp": 2}, "use replicas: 2"),
        ({"speculative": {"method": "mtp", "num_speculative_tokens": 1}}, "speculative"),
        ({"role": "encode"}, "role=encode"),
        ({"max_model_len": 10**7}, "max_model_len"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_its_reason(changes, says):
    with pytest.raises(InputError, match=says) as caught:
        scenario.prepare(plan(**changes), source="mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")


def test_unknown_names_are_usage_errors():
    for bad in (plan("Llama-9"), plan(cluster="8xh100-smx"), plan(scheduler={"preset": "vlm"})):
        with pytest.raises(UsageError, match="did you mean"):
            scenario.prepare(bad)


def test_a_trace_without_shared_prefixes_is_said_to_leave_the_cache_empty():
    cached, plain = prepared(scheduler={"prefix_caching": True}), trace(session=np.zeros(60, np.int64))
    assert NO_PREFIXES in scenario.run(cached, plain).summary.confidence.notes
    assert NO_PREFIXES not in scenario.run(prepared(), plain).summary.confidence.notes
    declared = plain.with_columns(shared_prefix_tokens=np.full(60, 1))
    assert NO_PREFIXES not in scenario.notes(cached, declared)
    assert DECLARED_PREFIXES in scenario.notes(cached, declared)
    assert DECLARED_PREFIXES not in scenario.notes(prepared(), declared)


def test_found_prefixes_are_counted_and_save_time_and_energy():
    """A system prompt of 2,048 tokens before every prompt: nine tenths of the tokens are found."""
    ids = np.concatenate([[*range(128), 1000 + i] for i in range(60)])
    shared = trace(outputs=8).with_columns(
        input_tokens=np.full(60, 2048 + 17), hash_ids=ids, hash_offsets=np.arange(61) * 129, hash_block_tokens=16
    )
    on, off = (
        scenario.run(prepared(scheduler={"prefix_caching": caching}), shared) for caching in (True, False)
    )
    assert off.summary.prefix_hit_rate == 0.0
    assert on.result.requests.cached_tokens.tolist() == [0] + [2048] * 59
    assert on.summary.prefix_hit_rate == pytest.approx(59 * 2048 / (60 * 2065))
    assert on.result.pools[0].prefill_tokens == 60 * 2065 - 59 * 2048
    assert on.summary.ttft_s.mean < 0.5 * off.summary.ttft_s.mean
    assert on.summary.energy.total_j < off.summary.energy.total_j
    assert on.summary.throughput.input_tokens_per_s == pytest.approx(off.summary.throughput.input_tokens_per_s, rel=0.1)
    assert NO_PREFIXES not in on.summary.confidence.notes


def test_dropped_rows_are_said():
    notes = scenario.notes(prepared(), trace(dropped={"failed (0 response tokens)": 12}))
    assert "12 rows of the trace were left out: failed (0 response tokens)" in notes


def test_a_load_scales_the_rate_and_cuts_the_trace():
    arriving = trace(60, rate=5.0)
    assert Load(rate_rps=20.0).of(arriving).rate_rps == pytest.approx(20.0)
    assert Load(rate_scale=0.5).of(arriving).rate_rps == pytest.approx(2.5)
    assert len(Load(requests=7).of(arriving)) == 7
    assert Load().of(arriving) is arriving
    with pytest.raises(UsageError, match="rate and concurrency exclude"):
        Load(rate_rps=1.0, concurrency=2)


def test_a_closed_loop_keeps_its_requests_in_flight():
    result = scenario.replay(prepared(), trace(), concurrency=3)
    arrival_s, finish_s = result.requests.arrival_s, result.requests.finish_s
    flying = [np.sum((arrival_s <= t) & (finish_s > t + 1e-9)) for t in arrival_s]  # one ends as the next arrives
    assert max(flying) == 3


def test_goodput_is_a_rate_that_meets_the_slo_and_one_percent_more_does_not():
    slo = parse_slo("ttft=1s,tpot=30ms@0.9")
    ready, load = prepared(SMALL, tp=1), trace(inputs=1000, outputs=200)
    found, last = measure_goodput(ready, load, slo, 200.0)
    assert not found.censored
    tested = dict(found.tested)
    assert tested[found.rps] >= 0.9
    above = min(rate for rate in tested if rate > found.rps)
    assert above <= found.rps * 1.01 * (1 + 1e-9)
    assert tested[above] < 0.9
    again = scenario.replay(ready, goodput_trace(load, found.rps))
    assert np.array_equal(last.requests.finish_s, again.requests.finish_s)


def test_goodput_repeats_itself():
    slo = parse_slo("ttft=1s")
    found = [measure_goodput(prepared(), trace(), slo, 50.0, guess_rps=20.0)[0] for _ in range(2)]
    assert found[0] == found[1]
