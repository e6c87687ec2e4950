"""``ax.simulate`` and ``ax.what_if``: typed results, tables, pictures and notebooks."""

from __future__ import annotations

import io

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

import apexsim as ax
from apexsim.errors import InputError, NoFeasiblePlan, UsageError
from apexsim.report.simulation import SimulationReport
from apexsim.report.what_if import changed_plan
from tests.scenario_worlds import LARGE, PLAN_YAML, plan, trace, write_inputs


@pytest.fixture(autouse=True)
def _close_pictures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def report() -> SimulationReport:
    return ax.simulate(plan(replicas=2), trace(), slo="ttft=1s,tpot=50ms@0.9", carbon=300)


def test_a_plan_can_be_a_value_a_mapping_or_a_path(tmp_path, report):
    path, trace_path = write_inputs(tmp_path)
    mapping = {"model": "Llama-3.1-8B", "cluster": "8xh100-sxm", "pools": [{"replicas": 2}]}
    assert ax.simulate(mapping, trace()).summary.ttft_s == report.summary.ttft_s
    assert ax.simulate(path, trace_path).summary.requests.completed == 40


def test_the_summary_is_the_json_of_the_command_line(report):
    assert report.to_dict()["slo"]["met"] is True
    assert report.to_dict()["requests"]["total"] == 60


def test_to_pandas_has_a_row_a_request(report):
    table = report.to_pandas()
    assert len(table) == 60
    assert (table["status"] == "completed").all()
    np.testing.assert_allclose(table["e2e_s"], table["finish_s"] - table["arrival_s"])
    assert table["tpot_s"].isna().equals(table["output_tokens"] == 1)


def test_rejected_requests_say_why():
    arriving = trace(3).with_columns(input_tokens=np.array([10, 10**6, 10]))
    table = ax.simulate(plan(), arriving).to_pandas()
    assert table["status"].tolist() == ["completed", "rejected", "completed"]
    assert table["reason"].tolist() == ["", "longer than the context window", ""]
    assert table["ttft_s"].isna().tolist() == [False, True, False]


def test_pictures_are_drawn_into_the_axes_that_are_given(report):
    assert isinstance(report.plot_latency(), Figure)
    for draw in (report.plot_timeline, report.plot_breakdown):
        mine = plt.subplots()[1]
        assert draw(mine) is mine
        assert isinstance(draw(), Axes)


def test_the_latency_picture_shows_the_limits_of_the_slo(report):
    panels = report.plot_latency().axes
    assert [ax.get_title() for ax in panels] == ["TTFT", "TPOT", "E2E"]
    assert [len(ax.lines) for ax in panels] == [2, 2, 1]
    assert panels[0].lines[1].get_xdata()[0] == 1.0


def test_the_timeline_shows_every_request(report):
    requests = report.result.requests
    middle = float(np.median(requests.arrival_s))
    running = np.sum((requests.start_s <= middle) & (requests.finish_s > middle))
    polygon = report.plot_timeline().collections[0].get_paths()[0].vertices
    heights = polygon[np.abs(polygon[:, 0] - middle) < 0.05, 1]
    assert heights.min() <= running <= heights.max() + 1


def test_a_run_in_which_nothing_completed_can_still_be_shown():
    arriving = trace(3).with_columns(input_tokens=np.full(3, 10**6))
    nothing = ax.simulate(plan(), arriving, slo="ttft=1s")
    assert nothing.summary.ttft_s.mean is None
    assert "–" in nothing._repr_html_()
    nothing.plot_latency()
    nothing.plot_timeline()
    nothing.plot_breakdown()


def test_notebook_and_terminal_show_the_same_cells(report):
    html = report._repr_html_()
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(report)
    text = console.export_text()
    for cell in ("TTFT", "SLO met", "g CO2e", "60"):
        assert cell in html
        assert cell in text


def test_a_plan_that_does_not_fit_raises_and_says_where_it_would():
    with pytest.raises(NoFeasiblePlan, match=r"short by .*; it would fit at tp=2 with 1 replica$"):
        ax.simulate(plan(LARGE), trace())


def test_what_if_changes_the_plan_and_keeps_the_rest(report):
    answer = ax.what_if(report, tp=2, max_num_seqs=32)
    pool = answer.other.plan.pools[0]
    assert (pool.tp, pool.replicas, pool.scheduler.max_num_seqs) == (2, 2, 32)
    assert answer.base is report
    assert answer.other.conditions == report.conditions
    assert answer.other.summary.carbon.g_co2e is not None


def test_what_if_tells_better_from_worse(report):
    table = ax.what_if(report, tp=4).to_pandas()
    assert table.loc["tpot_p50", "verdict"] == "better"
    assert table.loc["usd_per_hour", ["base", "other", "verdict"]].tolist() == [
        report.summary.cost.usd_per_hour, 4 * report.summary.cost.usd_per_hour, "worse",
    ]


def test_what_if_says_what_may_be_chance(report):
    """Intervals over the same windows of the same requests, as ``apexsim compare`` draws them."""
    faster = ax.what_if(report, tp=4)
    low, high = faster.to_pandas().loc["tpot_p50", "interval"]
    assert low < faster.other.summary.tpot_s.p50 - report.summary.tpot_s.p50 < high < 0
    same = ax.what_if(report, max_num_seqs=300)
    assert {row.interval for row in same.rows if row.tag == "ttft_p50"} == {(0.0, 0.0)}
    fewer = ax.what_if(report, requests=20)
    assert "the requests are not the same" in fewer.paired.note
    assert fewer.paired.note in fewer._repr_html_()
    assert {row.interval for row in fewer.rows} == {None}


def test_what_if_changes_device_load_and_conditions(report):
    answer = ax.what_if(report, device="h200-sxm", rate=20.0, price=9.0)
    assert answer.other.plan.cluster.device == "h200-sxm"
    assert answer.other.plan.cluster.devices == 8
    assert answer.other.summary.cost.usd_per_hour == 18.0
    arrivals = answer.other.to_pandas()["arrival_s"]
    assert 59 / (arrivals.iloc[-1] - arrivals.iloc[0]) == pytest.approx(20.0)


def test_what_if_replaces_one_way_of_offering_the_trace_by_another(report):
    slow = ax.what_if(report, rate=2.0, requests=20).other
    closed = ax.what_if(slow, concurrency=4).other
    assert closed.conditions.load.rate_rps is None
    assert (closed.conditions.load.concurrency, closed.conditions.load.requests) == (4, 20)


def test_what_if_of_a_plan_file(tmp_path):
    path, trace_path = write_inputs(tmp_path)
    answer = ax.what_if(path, trace=trace_path, slo="ttft=1s", replicas=1)
    assert answer.base.plan.pools[0].replicas == 2
    assert answer.other.plan.pools[0].replicas == 1
    assert answer.base.summary.slo.attainment is not None


def test_what_if_pictures_and_notebook(report):
    answer = ax.what_if(report, tp=4)
    drawn = answer.plot_changes()
    assert "TTFT p50" in [label.get_text() for label in drawn.get_yticklabels()]
    assert len(answer.plot_latency("e2e").lines) == 2
    assert "What if tp=4?" in answer._repr_html_()


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({}, UsageError, "at least one change"),
        ({"tpp": 2}, UsageError, "did you mean 'tp'"),
        ({"tp": "two"}, UsageError, "tp"),
        ({"kv_cache": "fp9"}, UsageError, "kv_cache"),
        ({"device": "h100-smx"}, UsageError, "h100-sxm"),
        ({"tp": 3}, InputError, "changed plan: tp=3 does not divide"),
        ({"gpu_memory_utilization": 0.1}, NoFeasiblePlan, "short by"),
        ({"rate": -1.0}, UsageError, "rate"),
    ],
)
def test_what_if_refuses_what_cannot_be(report, changes, error, says):
    with pytest.raises(error, match=says):
        ax.what_if(report, **changes)


def test_what_if_of_a_plan_needs_a_trace():
    with pytest.raises(UsageError, match="needs a trace"):
        ax.what_if(plan(), tp=2)


def test_a_changed_plan_keeps_what_was_left_out_left_out():
    declared = ax.Plan.model_validate({"model": "Llama-3.1-8B", "cluster": "8xh100-sxm", "pools": [{}]})
    changed = changed_plan(declared, {"tp": 2})
    assert changed.pools[0].model_fields_set == {"tp", "scheduler"}
    assert "tp: 1" in PLAN_YAML


def test_listing_is_a_table():
    assert "Llama-3.1-8B" in ax.listing("models")["name"].tolist()
    with pytest.raises(UsageError, match="did you mean 'models'"):
        ax.listing("model")
