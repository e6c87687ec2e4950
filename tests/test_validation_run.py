"""Whole validations: figures with known answers, the order of plans, requests one by one, any number of workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import apexsim as ax
from apexsim.errors import InputError, UsageError
from apexsim.metrics.latency import latencies
from apexsim.report.validation import ValidationReport
from apexsim.scenario import replay
from apexsim.validation import order
from apexsim.validation.case import Case
from apexsim.validation.errors import by_metric, by_regime, by_request, statistics
from apexsim.validation.run import CHUNK, validate_folder
from apexsim.validation.simulate import Compared, Outcome, offered, prepared_case, simulate_case
from tests.validation_worlds import CLOSED, OFFLINE, TRACE, case_of, cases_of, shared_set, write_set


def outcome(run: str, regime: str | None = None, **errors: float) -> Outcome:
    """A run whose metrics have these relative errors."""
    metrics = {column: Compared(2.0, 2.0 * (1 + error)) for column, error in errors.items()}
    return Outcome("s", run, regime, metrics=metrics)


# figures


def test_figures_of_errors_done_by_hand():
    found = statistics([0.1, -0.3, 0.2, 0.0])
    assert found.n == 4
    assert found.median_abs_error == pytest.approx(0.15)
    assert found.mean_abs_error == pytest.approx(0.15)
    assert found.p90_abs_error == pytest.approx(0.27)
    assert found.worst_abs_error == pytest.approx(0.3)
    assert found.bias == pytest.approx(0.0)
    assert statistics([]) is None


def test_errors_are_gathered_by_metric_and_regime():
    runs = [
        outcome("a", "light", ttft_mean_s=0.1, tpot_mean_s=0.2), outcome("b", "overload", ttft_mean_s=-0.5),
        outcome("c", None, ttft_mean_s=0.3),
    ]  # fmt: skip
    assert {c: f.n for c, f in by_metric(runs).items()} == {"ttft_mean_s": 3, "tpot_mean_s": 1}
    regimes = by_regime(runs)
    assert list(regimes) == ["light", "overload"]
    assert regimes["overload"]["ttft_mean_s"].bias == pytest.approx(-0.5)


def test_an_undefined_value_is_no_error():
    assert Compared(1.0, None).error is None
    nothing = Outcome("s", "a", None, metrics={"ttft_mean_s": Compared(1.0, None)})
    assert by_metric([nothing]) == {}


def test_a_perfect_measurement_has_no_error(tmp_path):
    """Measured values taken from a simulation: every error is 0."""
    first = simulate_case(case_of(tmp_path / "a"))
    exact = {column: repr(compared.simulated) for column, compared in first.metrics.items()}
    again = simulate_case(case_of(tmp_path / "b", **exact))
    assert [compared.error for compared in again.metrics.values()] == [0.0, 0.0]


# requests one by one


def with_requests(folder: Path, scale: float, shuffle: bool = False) -> Path:
    """A trace set whose measured requests are the simulated ones times ``scale``."""
    row = CLOSED | {"load": "trace", "trace": "t.csv", "concurrency": "", "run": "x/t"}
    write_set(folder, row, traces__t=TRACE)
    (case,) = cases_of(folder, row, traces__t=TRACE)
    prepared = prepared_case(case)
    found = latencies(replay(prepared, offered(case, prepared)).requests)
    rows = np.arange(len(found.ttft_s))
    rows = np.random.default_rng(0).permutation(rows) if shuffle else rows
    lines = [f"{i},{scale * found.ttft_s[i]},{scale * found.e2e_s[i]}" for i in rows]
    (folder / "requests").mkdir()
    (folder / "requests" / "t.csv").write_text("request,ttft_s,e2e_s\n" + "\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_request_is_compared_with_itself(tmp_path, shuffle):
    result = validate_folder(with_requests(tmp_path, 0.8, shuffle), workers=1)
    figures = by_request(result.simulated)
    assert set(figures) == {"ttft_s", "e2e_s"}
    for found in figures.values():
        assert found.n == 40
        assert found.median_abs_error == pytest.approx(0.25)
        assert found.worst_abs_error == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda lines: lines[:-1], "39 requests (allowed: 40, as in the trace)"),
        (lambda lines: [*lines[:-1], "39,quick,1"], "row 40: column 'ttft_s' is 'quick' (allowed: a number)"),
        (lambda lines: [*lines[:-1], lines[1]], "column 'request' does not number the requests 0 to 39"),
    ],
)
def test_measured_requests_that_are_not_those_of_the_trace_are_an_error(tmp_path, edit, words):
    path = with_requests(tmp_path, 1.0) / "requests" / "t.csv"
    path.write_text("\n".join(edit(path.read_text().splitlines())) + "\n")
    with pytest.raises(InputError) as caught:
        validate_folder(tmp_path, workers=1)
    assert words in str(caught.value)


# the order of plans


def ordered(tmp_path: Path, *plans: tuple[dict[str, object], float, float]) -> tuple[order.PlanOrder, ...]:
    """Rows of one load: what their plans change, their measured and their simulated throughput."""
    rows = [
        OFFLINE | {"run": f"r{i}", "output_tokens_per_s": measured, **changes}
        for i, (changes, measured, _) in enumerate(plans)
    ]
    cases = [case for case in cases_of(tmp_path, *rows) if isinstance(case, Case)]
    outcomes = [
        Outcome(case.set, case.run, None, metrics={"output_tokens_per_s": Compared(measured, simulated)})
        for case, (_, measured, simulated) in zip(cases, plans, strict=True)
    ]
    return order.plan_orders(cases, outcomes)


def test_pairs_of_plans_are_counted_and_ties_are_not(tmp_path):
    """Three plans, 100 < 120 < 122: the last two are a tie; of the other pairs one is simulated the wrong way."""
    (found,) = ordered(
        tmp_path, ({"max_num_seqs": 8}, 100, 50), ({"max_num_seqs": 16}, 120, 40), ({"max_num_seqs": 32}, 122, 60)
    )
    assert (found.pairs, found.right, found.tau) == (2, 1, 0.0)
    assert (found.equal_pairs, found.equal_right) == (2, 1)
    assert found.ranked_by == "output_tokens_per_s"
    assert found.runs == ("r0", "r1", "r2")


def test_plans_of_other_sizes_are_told_apart(tmp_path):
    one, two = {"tp": 1}, {"tp": 2, "devices": 2}
    (found,) = ordered(tmp_path, (one, 100, 10), (two, 150, 20))
    assert (found.pairs, found.right, found.equal_pairs, found.tau) == (1, 1, 0, 1.0)


def test_rows_of_different_loads_or_of_one_plan_are_not_compared(tmp_path):
    assert ordered(tmp_path, ({"requests": 100}, 100, 10), ({"requests": 101, "tp": 2, "devices": 2}, 150, 20)) == ()
    assert ordered(tmp_path, ({}, 100, 10), ({}, 150, 20)) == ()
    assert ordered(tmp_path, ({"device": "h100-sxm"}, 100, 10), ({"device": "h200-sxm"}, 150, 20)) == ()


def test_replicas_of_a_plan_stand_for_it_together(tmp_path):
    """Names as APEX+ gives them: two replicas with tp 4 against one with tp 8, per token."""
    rows = [CLOSED | {"run": f"chat-05-{name}", "itl_mean_s": 1.0} for name in ("2DP4TP-0", "2DP4TP-1", "8TP")]
    cases = cases_of(tmp_path, *rows)
    values = ((1.0, 1.5), (3.0, 1.5), (1.0, 2.0))
    outcomes = [
        Outcome(case.set, case.run, None, metrics={"itl_mean_s": Compared(*pair)})
        for case, pair in zip(cases, values, strict=True)
    ]
    (found,) = order.plan_orders(cases, outcomes)
    assert (found.load, found.ranked_by) == ("chat-05", "itl_mean_s")
    # measured 2.0 against 1.0, simulated 1.5 against 2.0; both plans have eight devices
    assert (found.pairs, found.right, found.equal_pairs) == (1, 0, 1)


def test_ttft_and_tpot_make_an_e2e_where_nothing_else_ranks(tmp_path):
    rows = [CLOSED | {"run": "a"}, CLOSED | {"run": "b", "tp": 2, "devices": 2}]
    cases = cases_of(tmp_path, *rows)
    slow, fast = (
        Outcome("s", name, None, metrics={"ttft_mean_s": Compared(t, t), "tpot_mean_s": Compared(p, p)})
        for name, t, p in (("a", 0.1, 0.02), ("b", 0.3, 0.001))
    )
    (found,) = order.plan_orders(cases, [slow, fast])
    assert (found.ranked_by, found.pairs, found.right) == (order.MEAN_E2E, 1, 1)


# whole folders


def mixed_set(folder: Path) -> Path:
    """Rows of all kinds, in no order of their plans, more than a worker takes at once."""
    rows = [
        CLOSED | {"run": f"r{i}", "concurrency": 1 + i % 5, "tp": 1 + i % 2, "devices": 1 + i % 2,
                  "fixed_lengths": "false", "regime": ("light", "overload", "")[i % 3]}
        for i in range(CHUNK + 9)
    ]  # fmt: skip
    rows += [
        OFFLINE | {"run": "steady", "window": "steady", "fixed_lengths": "false"},
        CLOSED | {"run": "disagg", "mode": "disagg"},
        CLOSED | {"run": "rate", "load": "rate", "rate_rps": 3, "requests": 60, "fixed_lengths": "false"},
        CLOSED | {"run": "trace", "load": "trace", "trace": "t.csv"},
    ]
    return write_set(folder, *rows, traces__t=TRACE)


def without_clock(report: ValidationReport) -> str:
    data = report.to_dict()
    data["simulation"].pop("wall_s")
    return json.dumps(data)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path):
    folder = mixed_set(tmp_path / "s")
    reports = [ax.validate(folder, workers=workers) for workers in (1, 2)]
    assert without_clock(reports[0]) == without_clock(reports[1])
    runs = [run["run"] for run in reports[0].to_dict()["runs"]]
    assert runs == [f"r{i}" for i in range(CHUNK + 9)] + ["steady", "disagg", "rate", "trace"]


def test_the_json_is_the_one_of_the_design_and_strict(tmp_path):
    data = ax.validate(mixed_set(tmp_path / "s"), workers=1).to_dict()
    json.dumps(data, allow_nan=False)
    first, skipped = data["runs"][0], data["runs"][CHUNK + 10]
    assert first["run"] == "r0"
    assert first["set"] == "s"
    assert first["skipped"] is None
    for metric in first["metrics"].values():
        assert metric["error"] == pytest.approx(metric["simulated"] / metric["measured"] - 1)
    assert skipped["skipped"].startswith("column 'prefill_workers' is empty")
    assert skipped["metrics"] == {}
    figures = data["summary"]["tpot_mean_s"]
    assert set(figures) == {"n", "median_abs_error", "mean_abs_error", "p90_abs_error", "worst_abs_error", "bias"}
    assert figures["n"] == CHUNK + 9 + 2
    assert set(data["regimes"]) == {"light", "overload"}
    assert data["sets"]["s"]["skipped"] == {skipped["skipped"]: 1}
    assert any("requests = " in text for text in first["assumptions"])


def test_progress_ends_with_every_row(tmp_path):
    seen: list[tuple[int, int]] = []
    validate_folder(mixed_set(tmp_path / "s"), workers=1, on_progress=lambda done, total: seen.append((done, total)))
    total = CHUNK + 13
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_sets_and_rows_are_chosen(tmp_path):
    for name in ("one", "two"):
        write_set(tmp_path / name, CLOSED | {"run": "a"}, CLOSED | {"run": "b", "concurrency": 2})
    assert validate_folder(tmp_path, workers=1).sets == ("one", "two")
    found = validate_folder(tmp_path, only=["two"], where={"concurrency": "2"}, workers=1)
    assert [(o.set, o.run) for o in found.outcomes] == [("two", "b")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ["tow"]}, "unknown set 'tow'; did you mean 'two'?"),
        ({"where": {"concurency": "2"}}, "filter: unknown column 'concurency'; did you mean 'concurrency'?"),
        ({"where": {"concurrency": "two"}}, "filter concurrency=two: concurrency is 'two' (allowed: a whole number"),
        ({"where": {"concurrency": "7"}}, "filter concurrency=7: no run of"),
        ({"assume": {"kv_cache": "fp7"}}, "assume kv_cache=fp7: kv_cache is 'fp7'; did you mean 'fp8'?"),
        ({"workers": 0}, "workers: 0 is not allowed"),
    ],
)
def test_a_wrong_argument_is_usage(tmp_path, options, words):
    write_set(tmp_path / "two", CLOSED)
    with pytest.raises(UsageError) as caught:
        validate_folder(tmp_path, **({"workers": 1} | options))
    assert words in str(caught.value)


def test_mistakes_in_every_row_are_an_error_and_in_one_row_a_skip(tmp_path):
    wrong = CLOSED | {"run": "w", "device": "h100sxm"}
    with pytest.raises(InputError, match=r"row 1 \(w\): column 'device': unknown device 'h100sxm'"):
        validate_folder(write_set(tmp_path / "all", wrong), workers=1)
    result = validate_folder(write_set(tmp_path / "one", wrong, CLOSED), workers=1)
    assert [o.skipped is None for o in result.outcomes] == [False, True]


def test_an_assumption_fills_empty_cells_of_every_row(tmp_path):
    folder = write_set(tmp_path, CLOSED, CLOSED | {"run": "b", "gpu_memory_utilization": 0.5})
    result = validate_folder(folder, assume={"gpu_memory_utilization": "0.6"}, workers=1)
    given = [any("gpu_memory_utilization = 0.6 (given)" in text for text in o.assumptions) for o in result.outcomes]
    assert given == [True, False]


def test_a_report_has_tables_a_picture_and_a_frame(tmp_path):
    report = ax.validate(mixed_set(tmp_path / "s"), workers=1)
    frame = report.to_pandas()
    assert set(frame.columns) == {"set", "run", "regime", "metric", "measured", "simulated", "error"}
    assert frame["error"].notna().all()
    html = report._repr_html_()
    assert "tpot_mean_s" in html
    assert "a disaggregated run needs its workers" in html
    panels = [ax_.get_title() for ax_ in report.plot().axes if ax_.get_title()]
    assert "tpot_mean_s" in panels


def test_a_single_skipped_run_still_makes_a_report(tmp_path):
    report = ax.validate(write_set(tmp_path, CLOSED | {"mode": "disagg"}), workers=1)
    assert report.to_dict()["summary"] == {}
    assert report.median_abs_error("tpot_mean_s") is None
    assert "1 skipped" in report.heading
    report.plot()


# published sets: bounds that a wrong clock, window or load would break


@pytest.mark.parametrize(
    ("name", "column", "bound"),
    [
        ("apex-h100-llama70b", "itl_mean_s", 0.10), ("apex-h100-llama70b", "e2e_mean_s", 0.10),
        ("mlenergy-h100-dense", "output_tokens_per_s", 0.15), ("mlenergy-h100-dense", "mean_running_requests", 0.02),
        ("mlenergy-h100-dense", "power_w_per_device", 0.20), ("vllm-h100-open-loop", "tpot_mean_s", 0.10),
        ("vllm-h100-open-loop", "output_tokens_per_s", 0.01),
    ],
)  # fmt: skip
def test_measured_runs_are_met(published, name, column, bound):
    figures = by_metric(published(name).simulated)
    assert figures[column].median_abs_error < bound


@pytest.fixture(scope="module")
def published():
    done = {}

    def get(name: str):
        folder = shared_set(name)
        if name not in done:
            done[name] = validate_folder(folder, workers=1)
        return done[name]

    return get


def test_the_order_of_plans_on_one_trace_is_reproduced(published):
    orders = published("apex-h100-llama70b").orders
    assert len(orders) == 4
    for found in orders:
        assert found.equal_pairs == 3
        assert found.right == found.pairs


def test_measured_requests_of_an_overloaded_run_are_met(published):
    result = published("llmservingsim-rtxpro6000")
    assert by_request(result.simulated)["e2e_s"].n >= 600
    assert by_request(result.simulated)["e2e_s"].median_abs_error < 0.4


def test_host_terms_of_a_fit_change_the_answer(tmp_path):
    case = case_of(tmp_path)
    base = case.host()
    seconds = [
        simulate_case(case, replace(base, iteration_s=value)).metrics["tpot_mean_s"].simulated for value in (0.0, 0.1)
    ]
    assert seconds[1] > seconds[0] + 0.09
