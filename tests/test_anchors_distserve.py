"""DistServe's published curves: host terms from its profile, memory, the order of systems, and the knees."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim.cost.host import host_model
from apexsim.metrics.latency import latencies
from apexsim.scenario import replay
from apexsim.spec import catalog
from benchmarks import distserve
from benchmarks.distserve import FIGURES, attained, fit, knee, lengths, measured, plan_of, ready, requests
from tests.house import ROOT

SEEDS = range(1, 4)
SHARE_13B, SHARE_66B, SHARE_175B, HUMANEVAL, LONGBENCH = FIGURES


@pytest.mark.parametrize(("engine", "version"), [("vllm", "0.2.3"), ("distserve", None)])
def test_host_terms_are_those_of_the_published_profile(engine: str, version: str | None) -> None:
    """Iterations of plans with 1 to 8 devices are met with five terms, and those are in the engine's profile."""
    terms, error = fit(engine)
    host = host_model(engine, version)
    held = (*host.kernels, host.iteration_s, host.sequence_s, host.rank_s)
    np.testing.assert_allclose(held, terms, rtol=0.02, atol=2e-6)
    assert error < 0.08
    assert host_model("vllm", "0.6.0").rank_s == 0
    assert host_model("vllm", "0.6.0").kernels == (1.0, 1.0)


@pytest.mark.parametrize(
    ("model", "tp", "published"),
    [("OPT-13B", 1, 66_144), ("OPT-66B", 4, 78_496), ("OPT-175B", 8, 59_520)],
)
def test_as_much_kv_fits_as_was_published(model: str, tp: int, published: int) -> None:
    assert plan_of(model, "vllm").pools[0].tp == tp
    assert ready(model, "vllm").compiled.memory.kv_capacity_tokens == pytest.approx(published, rel=0.05)


@pytest.mark.parametrize("dataset", distserve.LENGTHS)
def test_lengths_are_a_seeded_surrogate_with_the_stated_means(dataset: str) -> None:
    prompts, answers = lengths(dataset, 20_000, 5)
    assert (prompts.mean(), answers.mean()) == pytest.approx(distserve.LENGTHS[dataset], rel=0.03)
    assert (prompts + answers).max() <= distserve.LONGEST
    assert (lengths(dataset, 50, 1)[0] == lengths(dataset, 50, 1)[0]).all()
    assert (lengths(dataset, 50, 1)[0] != lengths(dataset, 50, 2)[0]).any()


@pytest.mark.parametrize(
    ("figure", "rate"), [(SHARE_13B, 1.5), (SHARE_66B, 0.75), (HUMANEVAL, 0.875), (LONGBENCH, 0.4375)]
)
def test_disaggregated_serves_more_within_the_slo(figure: distserve.Figure, rate: float) -> None:
    assert attained(figure, "distserve", rate, SEEDS) > attained(figure, "vllm", rate, SEEDS) + 0.15


def test_transfers_are_a_small_part_of_a_request() -> None:
    """Within a node: less than a hundredth of the mean latency."""
    prepared = ready("OPT-66B", "distserve")
    result = replay(prepared, requests("sharegpt", 3.0, 1, 200))
    moved = result.transfers.landed_s - result.transfers.reserved_s
    assert np.nanmean(moved) < 0.01 * np.nanmean(latencies(result.requests).e2e_s)


@pytest.mark.parametrize(
    ("figure", "rates"), [(SHARE_13B, (1.5, 2, 2.5)), (SHARE_66B, (0.625, 0.75, 0.875))]
)
def test_the_knee_is_where_it_was_measured(figure: distserve.Figure, rates: tuple[float, ...]) -> None:
    real = measured(figure, "distserve")
    if not real:
        pytest.skip("no published curves here")
    theirs = knee(sorted(real), [real[rate] for rate in sorted(real)])
    ours = knee(list(rates), [attained(figure, "distserve", rate, SEEDS) for rate in rates])
    assert theirs is not None
    assert ours == pytest.approx(theirs, rel=0.25)


def test_a_knee_lies_between_its_points() -> None:
    assert knee([1, 2, 3], [1.0, 0.95, 0.85]) == pytest.approx(2.5)
    assert knee([1, 2], [1.0, 0.95]) is None
    assert knee([1, 2], [0.8, 0.7]) is None


def test_the_plan_of_the_docs_is_that_of_the_curves() -> None:
    plan = catalog.load_plan(ROOT / "docs/examples/distserve-66b.yaml")
    assert plan.pools == plan_of("OPT-66B", "distserve").pools
    assert (plan.engine, plan.transfer) == ("distserve", plan_of("OPT-66B", "distserve").transfer)
