"""Two-batch overlap: halves that take turns between compute and exchange, against the laws of such a pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim import scenario
from apexsim.cost.beside import ALL_OF_IT
from apexsim.cost.explain import Iteration
from apexsim.cost.ledger import JOULES, MOVED_BYTES, seconds
from apexsim.cost.tables import token_knots
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Plan
from apexsim.workload.trace import Trace
from tests.test_cost_exchange import DEEPSEEK, compiled, pool_of

HALVES = {"exchange": "deepep", "overlap": "two-batch"}


@pytest.fixture(scope="module")
def pools():
    return compiled(exchange="deepep"), compiled(**HALVES)


def iteration_s(pool, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """(compute, exchange) seconds of all sizes, without attention."""
    own, together = (pool.parts.decode if kind else pool.parts.mixed)[0], pool.parts.together
    return seconds(own) + seconds(together.all[kind]), seconds(together.fullest[kind])


@pytest.mark.parametrize("kind", [0, 1])
def test_halves_are_never_longer_than_the_whole_nor_shorter_than_what_they_cannot_hide(pools, kind: int) -> None:
    whole, halves = pools
    (compute, exchange), (_, left) = iteration_s(whole, kind), iteration_s(halves, kind)
    knots = np.arange(compute.size) if kind else token_knots(2048)
    half = -(-knots // 2)
    twice = [2.0 * np.interp(half, knots, line) for line in (compute, exchange)]
    assert (left <= exchange + 1e-15).all()
    cut = left < exchange - 1e-12
    assert ((compute + left)[cut] >= np.maximum(*twice)[cut] * (1 - 1e-9)).all()
    assert (compute + left >= np.maximum(compute, exchange) - 1e-12).all()
    assert left[knots == 1] == pytest.approx(exchange[knots == 1])  # one token has no halves


def test_a_long_prefill_hides_much_of_its_exchange(pools) -> None:
    whole, halves = pools
    (compute, exchange), (_, left) = iteration_s(whole, 0), iteration_s(halves, 0)
    assert exchange[-1] < compute[-1]
    assert left[-1] < 0.6 * exchange[-1]
    assert all(each is ALL_OF_IT for each in whole.parts.exposed)  # where it is off, nothing is touched


def test_what_halves_read_twice_is_booked(pools) -> None:
    whole, halves = (pool.parts.together.fullest[0] for pool in pools)
    for line in (MOVED_BYTES, JOULES):
        assert (halves[line] >= whole[line] - 1e-12).all()
    assert halves[MOVED_BYTES, -1] > whole[MOVED_BYTES, -1]


@pytest.mark.parametrize("model", ["Qwen3-30B-A3B", "DeepSeek-V2-Lite"])
@pytest.mark.parametrize("experts", [{"exchange": "deepep"}, HALVES, {"exchange": "deepep", "overlap_shared": True}])
def test_explained_rows_are_the_iteration_that_ranks_run(model: str, experts: dict[str, object]) -> None:
    """A prompt on each of the two ranks: one iteration of both, and its rows."""
    pool = {"dp": 2, "ep": 2, "experts": experts, "scheduler": {"preset": "sglang", "max_num_batched_tokens": 2048}}
    where = {"cluster": "2xh200-sxm", "engine": "sglang", "router": "round-robin"}
    plan = Plan.model_validate({"model": model, "pools": [pool]} | where)
    prepared = scenario.prepare(plan)
    trace = Trace("two", np.zeros(2), np.full(2, 2048), np.ones(2, np.int64))
    line = scenario.replay(prepared, trace, timeline=True).timeline
    found = scenario.explain(prepared, Iteration(chunk=2048))
    assert found.duration_s == pytest.approx(float(line.end_s[0] - line.begin_s[0]), rel=1e-9)


def test_it_needs_an_exchange_that_goes_directly() -> None:
    assert "DeepEP" in str(check_pool(DEEPSEEK, pool_of(dp=8, ep=8, experts={"overlap": "two-batch"}), "sglang"))
    both = pool_of(dp=8, ep=8, experts=HALVES | {"overlap_shared": True})
    assert "other half" in str(check_pool(DEEPSEEK, both, "sglang"))
