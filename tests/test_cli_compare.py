"""``apexsim compare``: plans and results side by side, and one line for what cannot be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import apexsim as ax
from apexsim.cli.main import app
from apexsim.errors import InputError, UsageError
from tests.scenario_worlds import PLAN_YAML, TRACE_CSV, write_inputs


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Two plans, their trace, and the summaries of both under it."""
    folder = tmp_path_factory.mktemp("compare")
    plan, trace = write_inputs(folder, PLAN_YAML, TRACE_CSV)
    other = folder / "other.yaml"
    text = Path(plan).read_text()
    assert "max_num_seqs" in text
    other.write_text(text.replace("max_num_seqs", "max_num_batched_tokens: 64, max_num_seqs"))
    found = {"plan": plan, "other": str(other), "trace": trace}
    for name in ("plan", "other"):
        out, table = folder / f"{name}.json", folder / f"{name}.parquet"
        words = ("--trace", trace, "--slo", "ttft=1s", "--json", str(out), "--requests-out", str(table))
        assert run("simulate", found[name], *words).exit_code == 0
        found[f"{name}.json"] = str(out)
    return found


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_two_plans_show_the_keys_in_which_they_differ_and_what_that_changes(files):
    result = run("compare", files["plan"], files["other"], "--trace", files["trace"], "--json", "-")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["plan"] == {"pools[0].scheduler.max_num_batched_tokens": {"a": "default", "b": "64"}}
    assert data["metrics"]["ttft_p99"]["a"] > 0
    assert {row["verdict"] for row in data["metrics"].values()} <= {"better", "worse", "same", "changed", "unknown"}


def test_results_compare_as_their_plans_do(files):
    plans = ax.compare(files["plan"], files["other"], files["trace"], "ttft=1s")
    results = ax.compare(files["plan.json"], files["other.json"])
    assert [row.tag for row in plans.rows] == [row.tag for row in results.rows]
    assert [row.other for row in plans.rows] == [row.other for row in results.rows]
    assert results.plan_rows == plans.plan_rows  # the JSON says its plan


def test_results_name_their_requests_and_so_have_intervals_as_plans_do(files):
    plans = ax.compare(files["plan"], files["other"], files["trace"], "ttft=1s")
    results = json.loads(run("compare", files["plan.json"], files["other.json"], "--json", "-").stdout)
    assert results["intervals"] == {"level": 0.95, "draws": 2000, "windows": 20}
    for row in plans.rows:
        found = results["metrics"][row.tag]["difference_ci"]
        assert found == (None if row.interval is None else pytest.approx(row.interval))
        if found is not None and row.verdict in ("better", "worse"):
            assert found[0] > 0 or found[1] < 0
    assert next(row for row in plans.rows if row.tag == "ttft_mean").verdict == "worse", "smaller chunks"
    have = {row.tag for row in plans.rows if row.interval is not None}
    assert have >= {"ttft_mean", "ttft_p99", "e2e_p50", "queue_p90", "attainment", "preemptions"}
    assert not have & {"ttft_max", "itl_p99", "energy", "requests_per_s"}
    assert "95% of B − A" in run("compare", files["plan.json"], files["other.json"]).stdout


def test_where_there_are_no_intervals_it_is_said_why(files, tmp_path):
    def missing(one: str | Path, other: str | Path) -> str:
        result = run("compare", str(one), str(other), "--json", "-")
        assert result.exit_code == 0, result.output
        data = json.loads(result.stdout)
        assert not any(row["difference_ci"] for row in data["metrics"].values())
        said = data["intervals"]["missing"]
        assert "No intervals: " in run("compare", str(one), str(other)).stdout
        return said

    data = json.loads(Path(files["plan.json"]).read_text())
    assert data["requests_table"] == "plan.parquet"
    silent, gone, stale, few = (tmp_path / f"{name}.json" for name in ("silent", "gone", "stale", "few"))
    silent.write_text(json.dumps({key: value for key, value in data.items() if key != "requests_table"}))
    assert "B: the result names no table of its requests" in missing(files["plan.json"], silent)
    gone.write_text(json.dumps(data))
    assert "plan.parquet, its table of requests, is not there any more" in missing(gone, files["plan.json"])
    table = Path(files["plan.json"]).parent / "other.parquet"
    stale.write_text(json.dumps(data | {"requests_table": str(table)}))
    assert f"B: {table} is of another run" in missing(files["plan.json"], stale)
    words = ("--trace", files["trace"], "--requests", "30", "--json", str(few))
    assert run("simulate", files["plan"], *words, "--requests-out", str(tmp_path / "few.parquet")).exit_code == 0
    assert missing(files["plan.json"], few) == "the requests are not the same: A has 40 of them, B 30"


def test_a_warm_up_is_left_out_of_both(files, tmp_path):
    for name in ("plan", "other"):
        words = ("--trace", files["trace"], "--warmup", "--json", str(tmp_path / f"{name}.json"))
        assert run("simulate", files[name], *words, "--requests-out", str(tmp_path / f"{name}.parquet")).exit_code == 0
    rows = ax.compare(tmp_path / "plan.json", tmp_path / "other.json").rows
    assert next(row for row in rows if row.tag == "ttft_mean").interval is not None


@pytest.mark.parametrize("content", ["not a table", None])
def test_a_table_of_requests_that_is_none_is_one_line(files, tmp_path, content):
    path = tmp_path / "bad.parquet"
    if content is None:
        pd.DataFrame({"arrival_s": [1.0]}).to_parquet(path)
    else:
        path.write_text(content)
    result = tmp_path / "result.json"
    data = json.loads(Path(files["plan.json"]).read_text())
    result.write_text(json.dumps(data | {"requests_table": "bad.parquet"}))
    with pytest.raises(InputError, match=r"bad\.parquet: (not a Parquet table|column input_tokens: missing)"):
        ax.compare(result, files["plan.json"])


FLEETS = {
    "scaled": "autoscale: [{max_replicas: 2, target_requests: 2, period: 2s, load: 1s, cooldown: 5s}]",
    "failing": "failures: {scheduled: [{replica: 0, at: 1s, repair: 3s}]}",
}


def test_lives_of_fleets_compare_as_plans_and_as_results(files, tmp_path):
    for name, fleet in FLEETS.items():
        (tmp_path / f"{name}.yaml").write_text(Path(files["plan"]).read_text() + f"fleet: {{{fleet}}}\n")
        words = ("--trace", files["trace"], "--json", str(tmp_path / f"{name}.json"))
        result = run("simulate", str(tmp_path / f"{name}.yaml"), *words, "--requests-out",
                     str(tmp_path / f"{name}.parquet"))  # fmt: skip
        assert result.exit_code == 0, result.output
    plans = ax.compare(tmp_path / "scaled.yaml", tmp_path / "failing.yaml", files["trace"])
    results = ax.compare(tmp_path / "scaled.json", tmp_path / "failing.json")
    assert [replace(row, interval=None) for row in plans.rows] == [replace(row, interval=None) for row in results.rows]
    rows = {row.tag: row for row in results.rows}
    assert (rows["fleet_failures"].base, rows["fleet_failures"].other) == (0.0, 1.0)
    assert rows["fleet_failures"].verdict == "worse"
    assert rows["fleet_retries"].other > 0
    assert rows["ttft_mean"].interval is not None
    beside = {row.tag: row for row in ax.compare(files["plan.json"], tmp_path / "failing.json").rows}
    assert beside["fleet_failures"].verdict == "unknown", "nothing comes or goes in the other"


def test_a_side_held_against_itself_changes_nothing(files):
    rows = ax.compare(files["plan.json"], files["plan.json"]).rows
    assert {row.verdict for row in rows} <= {"same", "unknown"}


def test_a_plan_may_stand_beside_a_result(files):
    rows = ax.compare(files["plan"], files["plan.json"], files["trace"], "ttft=1s").rows
    assert {row.verdict for row in rows} <= {"same", "unknown"}


def entry(plan_id: str, goodput: float, summary: dict) -> dict:
    return {
        "rank": 1, "id": plan_id, "plan": {"pools": [{"tp": len(plan_id)}]}, "goodput_rps": goodput,
        "goodput_rps_per_device": goodput / 8, "summary": summary,
    }  # fmt: skip


def test_searches_compare_their_best_plans_and_their_ranks(files, tmp_path):
    summary = json.loads(Path(files["plan.json"]).read_text())
    summary["simulation"]["wall_s"] = None  # as a search writes it
    plans = {"a": [entry("x", 4.0, summary), entry("yy", 3.0, summary)], "b": [entry("yy", 5.0, summary)]}
    for name, ranked in plans.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({"plans": ranked}))
    report = ax.compare(tmp_path / "a", tmp_path / "b")
    assert report.plan_rows == (("pools[0].tp", "1", "2"),)
    goodput = next(row for row in report.rows if row.tag == "goodput_rps")
    assert (goodput.relative, goodput.verdict) == (0.25, "better")
    ranks = next(table for table in report.tables if "Ranks" in table.title)
    assert ranks.rows == (("x", "1", "–", "4", "–"), ("yy", "2", "1", "3", "5"))


def test_validations_compare_their_errors(tmp_path):
    for name, error in (("a", 0.10), ("b", 0.05)):
        figures = {"n": 3, "median_abs_error": error, "p90_abs_error": 0.2, "worst_abs_error": 0.3, "bias": -error}
        text = json.dumps({"runs": [], "summary": {"ttft_mean_s": figures}})
        (tmp_path / f"{name}.json").write_text(text)
    rows = {row.tag: row for row in ax.compare(tmp_path / "a.json", tmp_path / "b.json").rows}
    assert rows["ttft_mean_s_median_abs_error"].verdict == "better"
    assert rows["ttft_mean_s_bias"].verdict == "changed"
    assert rows["ttft_mean_s_n"].verdict == "same"


def test_pictures_and_tables_of_a_comparison(files):
    report = ax.compare(files["plan.json"], files["other.json"])
    assert report.to_pandas().loc["ttft_p50", "base"] > 0
    assert "What changes" in report._repr_html_()
    assert report.plot_changes().get_yticklabels()


def test_what_cannot_be_compared_is_said_in_one_line(files, tmp_path):
    errors = tmp_path / "errors.json"
    errors.write_text(json.dumps({"runs": [], "summary": {}}))
    with pytest.raises(UsageError, match="share no metric"):
        ax.compare(files["plan.json"], errors)
    with pytest.raises(UsageError, match="is a plan: name the trace"):
        ax.compare(files["plan"], files["plan.json"])
    with pytest.raises(UsageError, match="have run"):
        ax.compare(files["plan.json"], files["plan.json"], rate=4)
    other = tmp_path / "other.json"
    other.write_text('{"something": 1}')
    with pytest.raises(InputError, match=r"other\.json: neither a plan nor"):
        ax.compare(other, files["plan.json"])
    cut = json.loads(Path(files["plan.json"]).read_text())
    del cut["throughput"]
    other.write_text(json.dumps(cut))
    with pytest.raises(InputError, match=r"other\.json: throughput: missing"):
        ax.compare(other, files["plan.json"])


def test_equal_plans_are_said_to_be_equal(files):
    same = ax.compare(files["plan"], files["plan"], files["trace"])
    assert same.heading.endswith("The plans are the same.")
    assert {row.verdict for row in same.rows if row.base is not None} == {"same"}
