"""SLO attainment: joint shares, clauses, and who misses."""

from __future__ import annotations

import pytest

from apexsim.engine.result import FAILED, IN_FLIGHT
from apexsim.metrics.attainment import attainment, needed_shares, reaches
from apexsim.spec.slo import parse_slo
from tests.metrics_worlds import gaps, rejected, request, result


def ten_requests():
    """Request t arrives at t and has a TTFT of t/10 s, 5 output tokens 0.1 s apart."""
    firsts = [(float(t), t + t / 10) for t in range(10)]
    return [request(t, t, first, first + 0.4, outputs=5, itl_max=0.1) for t, first in firsts]


def test_joint_counts_requests_that_meet_every_limit():
    run = result(ten_requests())
    report = attainment(run, parse_slo("ttft=650ms,e2e=1s@0.7"))
    assert report.by_limit == {"ttft": 0.7, "e2e": 0.7}
    assert (report.attainment, report.met, report.target) == (0.7, True, 0.7)
    assert not attainment(run, parse_slo("ttft=550ms@0.7")).met


def test_a_limit_is_met_by_a_value_equal_to_it():
    assert attainment(result([request(0.0, 0.0, 0.5, 0.5)]), parse_slo("ttft=500ms@1")).attainment == 1.0


@pytest.mark.parametrize("status", [FAILED, IN_FLIGHT])
def test_what_was_rejected_failed_or_did_not_finish_misses(status):
    lost = request(9.0, 9.0, 9.1, outputs=5, status=status)
    for extra in (rejected(9.0), lost):
        run = result([*ten_requests()[:3], extra])
        report = attainment(run, parse_slo("ttft=10s,tpot=10s,itl=10s,queue=10s"))
        assert report.attainment == 0.75
        assert set(report.by_limit.values()) == {0.75}


def test_one_output_token_meets_tpot_and_itl_limits():
    run = result([request(0.0, 0.0, 1.0, 1.0, outputs=1)])
    for text in ("tpot=1ms,itl=1ms@1", "tpot:p99<=1ms;itl:p99<=1ms"):
        assert attainment(run, parse_slo(text)).met


def test_a_joint_itl_is_the_largest_gap_and_a_clause_pools_all_gaps():
    # 10 gaps: nine of 10 ms, one of 1 s, in two requests
    run = result(
        [
            request(0.0, 0.0, 0.1, 1.14, outputs=6, itl_max=1.0),
            request(1.0, 1.0, 1.1, 1.15, outputs=6, itl_max=0.01),
        ],
        gaps((0.01, 0.0, 9, 1), (1.0, 0.0, 1, 1)),
    )
    assert attainment(run, parse_slo("itl=50ms@0.9")).attainment == 0.5
    report = attainment(run, parse_slo("itl:p90<=50ms"))
    assert report.by_limit == {"itl": 0.9}
    assert report.met
    assert not attainment(run, parse_slo("itl:p91<=50ms")).met


def test_gaps_that_never_came_miss_a_clause():
    run = result(
        [request(0.0, 0.0, 0.1, 0.2, outputs=11, itl_max=0.01), rejected(1.0, outputs=11)],
        gaps((0.01, 0.0, 10, 1)),
    )
    assert attainment(run, parse_slo("itl:p90<=50ms")).by_limit == {"itl": 0.5}


def test_clauses_are_met_when_all_hold_and_attainment_is_that_of_the_worst():
    run = result(ten_requests())
    assert attainment(run, parse_slo("ttft:p70<=650ms;e2e:p50<=1s")).met
    report = attainment(run, parse_slo("ttft:p50<=350ms;e2e:p100<=1250ms"))
    assert report.by_limit == {"ttft": 0.4, "e2e": 0.9}
    assert report.attainment == 0.8  # 0.4 of the needed 0.5 is worse than 0.9 of the needed 1.0
    assert (report.met, report.target) == (False, 1.0)


def test_two_clauses_on_one_metric_are_told_apart():
    report = attainment(result(ten_requests()), parse_slo("ttft:p50<=450ms;ttft:p99<=1s"))
    assert report.by_limit == {"ttft:p50": 0.5, "ttft:p99": 1.0}


def test_only_counted_requests_count():
    run = result(ten_requests())
    assert attainment(run, parse_slo("ttft=450ms@0.5")).attainment == 0.5
    assert attainment(run, parse_slo("ttft=450ms@0.5"), warmup=0.5).attainment == 0.0


def test_shares_are_compared_but_for_rounding():
    assert reaches(999 / 1000, 99.9 / 100)
    assert not reaches(998 / 1000, 0.999)


def test_the_share_that_each_limit_needs_has_the_name_of_the_share_that_keeps_it():
    joint, clauses = parse_slo("ttft=1s,tpot=1s@0.8"), parse_slo("ttft:p99<=1s;ttft:p50<=500ms;tpot:p95<=1s")
    assert needed_shares(joint) == {"ttft": 0.8, "tpot": 0.8}
    assert needed_shares(clauses) == {"ttft:p99": 0.99, "ttft:p50": 0.5, "tpot": 0.95}
    for slo in (joint, clauses):
        assert list(needed_shares(slo)) == list(attainment(result(ten_requests()), slo).by_limit)
