"""What changes of load, step time and lengths do to the first plans, and how that is shown."""

from __future__ import annotations

import numpy as np
import pytest

import apexsim as ax
from apexsim.errors import UsageError
from apexsim.report.search_doubt import place_mark, sensitivity_table, verdict_columns
from apexsim.search.confidence import Verdict
from apexsim.search.executors import Processes, Serial
from apexsim.search.sensitivity import CHANGES, Change, changed_case, sensitivity
from apexsim.workload.synthetic import poisson

SPACE = {
    "tp": [2, 4], "pp": [1], "weights": ["fp8"], "kv_cache": ["fp8"], "max_num_batched_tokens": [8192],
    "max_num_seqs": [128],
}  # fmt: skip
NOISE = 0.01


@pytest.fixture(scope="module")
def report():
    trace = poisson(2.0, 300, 600, 100, seed=4)
    return ax.search(
        "Llama-3.1-70B", "4xh100-sxm", trace, "ttft=2s,tpot=100ms@0.9", space=SPACE, workers=1, sensitivity=2
    )


def factors(report, what: str, figure: str) -> list[float]:
    """The figure of the best plan by rising factor."""
    cases = report.doubt.sensitivity.of(report.best.id)
    of_it = {(case.change.factor if case.change else 1.0): getattr(case, figure) for case in cases
             if case.change is None or case.change.what == what}  # fmt: skip
    return [of_it[factor] for factor in sorted(of_it)]


def test_94_more_load_and_slower_steps_help_nobody(report):
    for what in ("load", "step time", "output tokens"):
        assert np.all(np.diff(factors(report, what, "attainment")) <= NOISE)
        assert np.all(np.diff(factors(report, what, "headroom")) < 0)
    assert np.all(np.diff(factors(report, "step time", "goodput_rps")) < 0)
    assert len(set(factors(report, "load", "goodput_rps"))) == 1


def test_a_step_time_of_one_is_the_plan_itself(report):
    same = changed_case(report.result.problem, report.best, Change("step time", 1.0))
    assert same.goodput_rps == report.best.goodput_rps
    assert same.value == report.best.goodput_rps
    assert same.attainment == report.best.summary["slo"]["attainment"]


def test_the_choice_is_that_of_the_ranking_where_nothing_changes(report):
    first = report.doubt.sensitivity.choices[0]
    assert (first.change, first.best) == (None, report.best.id)
    assert first.lead >= 0
    assert len(report.doubt.sensitivity.cases) == 2 * (1 + len(CHANGES))


def test_who_replays_changes_nothing(report):
    result = report.result
    with Processes(2) as workers:
        assert sensitivity(result.problem, result.ranked, workers, 2) == report.doubt.sensitivity
    with Serial() as alone:
        assert sensitivity(result.problem, result.ranked, alone, 1).plans == (report.best.id,)


def test_the_report_shows_it(report, tmp_path):
    table = sensitivity_table(report.doubt.sensitivity)
    assert [row[0] for row in table.rows][:3] == ["as assumed", "load -20 %", "load +20 %"]
    left, right = report.plot_sensitivity()
    assert left.get_xlabel().startswith("headroom")
    assert right.get_xlabel().startswith("lead")
    data = report.to_dict()
    assert data["sensitivity"]["choices"][0]["best"] == report.best.id
    assert data["confidence"]["level"] == 0.95
    assert data["plans"][0]["goodput_ci"][0] < data["plans"][0]["goodput_rps"]
    frame = report.to_pandas()
    assert {"goodput_ci_low", "goodput_ci_high", "tied_rank", "tied_with", "p_beats_next", "p_ties_next"} <= set(frame)
    assert (tmp_path / "sensitivity.png") in report.save(tmp_path)
    assert "headroom" in report._repr_html_()


def test_a_search_that_was_not_asked_says_so(report):
    alone = ax.search(
        "Llama-3.1-70B", "4xh100-sxm", report.result.problem.trace, "ttft=2s,tpot=100ms@0.9", space=SPACE, workers=1
    )
    with pytest.raises(UsageError, match="--sensitivity 3"):
        alone.plot_sensitivity()
    assert "sensitivity" not in alone.to_dict()
    with pytest.raises(UsageError, match="sensitivity: -1 is not allowed"):
        ax.search("Llama-3.1-70B", "4xh100-sxm", alone.result.problem.trace, "ttft=2s", space=SPACE, sensitivity=-1)


def test_ties_are_marked():
    tied = Verdict((1.0, 2.0), None, 0.1, tied_rank=1, tied_with=("a",))
    assert place_mark(2, tied) == "=1"
    assert place_mark(2, None) == place_mark(2, Verdict((1.0, 2.0), None, 0.1, tied_rank=2)) == "2"
    assert verdict_columns(tied)["tied_with"] == "a"
    assert set(verdict_columns(None)) == set(verdict_columns(tied))
