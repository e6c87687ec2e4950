"""The metric seam, and two runs side by side."""

from __future__ import annotations

import pytest

from apexsim import registry
from apexsim.metrics.compare import compare, compare_values
from apexsim.metrics.metric import Metric, metrics
from apexsim.metrics.summary import Deployment, Prices, Summary, summarise
from apexsim.testing.metric import MetricContract
from tests.metrics_worlds import account, rejected, request, result


def summary_of(*requests: dict, price: float | None = None, **changes) -> Summary:
    run = result(requests, **changes)
    return summarise(run, account(energy_j=10.0), Deployment(1, 1e9, 1600), prices=Prices(price))


SUMMARIES = (
    summary_of(request(0.0, 0.1, 1.0, 3.0, outputs=3, itl_max=1.5), price=2.0),
    summary_of(rejected(0.0)),
)


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric.tag)
class TestRegisteredMetrics(MetricContract):
    summaries = SUMMARIES


def test_tags_are_unique():
    tags = [metric.tag for metric in metrics()]
    assert len(set(tags)) == len(tags)


def test_a_registered_metric_is_picked_up_by_the_comparison(monkeypatch):
    mine = Metric("spread", "p99 over p50 of E2E", "1", "down", lambda s: 2.0)
    monkeypatch.setattr(registry, "names", lambda seam: ("mine",))
    monkeypatch.setattr(registry, "load", lambda seam, name: (mine,))
    assert [change.tag for change in compare(*SUMMARIES)] == ["spread"]


def test_a_change_is_judged_by_the_direction_of_its_metric():
    fast = summary_of(request(0.0, 0.0, 1.0, 2.0), price=2.0, kv_peak_blocks=50)
    slow = summary_of(request(0.0, 0.0, 2.0, 4.0), price=2.0, kv_peak_blocks=60)
    changes = {change.tag: change for change in compare(fast, slow)}
    assert (changes["ttft_p99"].verdict, changes["ttft_p99"].relative) == ("worse", 1.0)
    assert (changes["requests_per_s"].verdict, changes["requests_per_s"].relative) == ("worse", -0.5)
    assert changes["usd_per_hour"].verdict == "same"
    assert changes["kv_peak"].verdict == "changed"
    assert changes["tpot_p50"].verdict == "unknown"
    assert changes["preemptions"].relative is None
    assert {c.tag: c.verdict for c in compare(slow, fast)}["ttft_p99"] == "better"


@pytest.mark.parametrize(("other", "verdict"), [(100.04, "same"), (100.06, "worse"), (99.9, "better")])
def test_a_change_that_prints_as_nothing_is_none(other, verdict):
    assert compare_values("x", "x", "s", "down", 100.0, other).verdict == verdict
