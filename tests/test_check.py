"""``apexsim check``: what fails, what passes, what is written, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml
from typer.testing import CliRunner

from apexsim.cli.main import app
from apexsim.errors import ApexsimError
from apexsim.report.junit import Case, junit_text
from apexsim.search import check as check_module
from apexsim.search.baseline import FIGURES, Chosen, Scenario, load_baseline, plan_of, problem_of
from apexsim.search.check import Checked, _beaten, check, searched
from apexsim.search.confidence import Chances, judge
from apexsim.search.duel import Duel, duel
from apexsim.search.executors import Serial, WorkersLost
from apexsim.search.figures import FIGURES as OF_PLANS
from apexsim.search.problem import Problem
from apexsim.search.run import SearchResult
from apexsim.workload.synthetic import poisson
from apexsim.workload.write import write_trace
from tests.house import ROOT

SPACE = {
    "tp": [1, 2], "pp": [1], "replicas": [1, 2], "weights": ["fp8"], "kv_cache": ["bf16"],
    "max_num_batched_tokens": [8192], "max_num_seqs": [128],
}  # fmt: skip
SCENARIO: dict[str, Any] = {
    "name": "small", "model": "Llama-3.1-8B", "cluster": "2xh100-sxm", "trace": "trace.csv",
    "slo": "ttft=1s,tpot=50ms@0.9", "space": SPACE,
}  # fmt: skip


def write(folder: Path, *scenarios: dict[str, Any], **more: Any) -> Path:
    path = folder / "baseline.yaml"
    path.write_text(yaml.safe_dump({"tolerance": 0.01, "scenarios": list(scenarios), **more}, sort_keys=False))
    return path


def read(path: Path) -> dict[str, Any]:
    (scenario,) = yaml.safe_load(path.read_text())["scenarios"]
    return scenario


def run(path: Path, *words: str):
    return CliRunner().invoke(app, ["check", str(path), "--workers", "1", *words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trace(poisson(2.0, 200, 600, 150, seed=4), tmp_path / "trace.csv")
    return tmp_path


@pytest.fixture
def chosen(folder: Path) -> Path:
    """A baseline that was written a moment ago."""
    path = write(folder, SCENARIO)
    assert run(path, "--update").exit_code == 0
    return path


def edited(path: Path, **keys: Any) -> Path:
    """The same baseline, with other keys of its scenario; those of ``chosen`` by a mapping."""
    scenario = read(path)
    scenario["chosen"] |= keys.pop("chosen", {})
    return write(path.parent, scenario | keys)


def findings(path: Path) -> list[tuple[str, str]]:
    result = run(path, "--json", "-")
    (scenario,) = json.loads(result.stdout)["scenarios"]
    assert result.exit_code == (4 if scenario["failures"] else 0), result.stderr
    assert scenario["passed"] is not bool(scenario["failures"])
    return [(failure["kind"], failure["message"]) for failure in scenario["failures"]]


def test_what_was_just_written_holds_and_is_written_again_to_the_byte(chosen):
    before = chosen.read_bytes()
    result = run(chosen)
    assert result.exit_code == 0, result.stderr
    assert "1 of 1 scenarios hold" in result.stdout
    (row,) = re.findall(r"^\| small \| `(.+?)` \| .* \| holds \|$", result.stdout, re.MULTILINE)
    assert row == read(chosen)["chosen"]["id"] == "2xtp1-fp8-kvbf16-t8192-s128"
    again = run(chosen, "--update")
    assert "small: 2xtp1-fp8-kvbf16-t8192-s128" in again.stdout
    assert chosen.read_bytes() == before
    assert list(read(chosen)) == [*SCENARIO, "chosen"], "questions first, in the order of the class"


@pytest.fixture(scope="module")
def today(tmp_path_factory) -> tuple[Problem, SearchResult]:
    """One search, held against many baselines."""
    folder = tmp_path_factory.mktemp("today")
    write_trace(poisson(2.0, 200, 600, 150, seed=4), folder / "trace.csv")
    problem = problem_of(Scenario.model_validate(SCENARIO), folder / "baseline.yaml")
    return problem, searched(problem, Serial())


def checked(
    today: tuple[Problem, SearchResult], rank: int, tolerance: float, sure: float = 0.9, **figures: float
) -> Checked:
    """The plan of that rank as if it had been chosen, with other figures than it has."""
    problem, result = today
    chosen = Chosen.of(result.ranked[rank], SCENARIO["model"]).model_copy(update=figures)
    scenario = Scenario.model_validate(SCENARIO | {"chosen": chosen.model_dump()})
    return check(scenario, chosen, plan_of(chosen, problem, "test"), problem, result, tolerance, sure)


@pytest.mark.parametrize(
    ("figure", "factor", "label"),
    [("goodput_rps", 1.05, "req/s"), ("j_per_output_token", 0.95, "J/tok"), ("e2e_p50_s", 0.95, "E2E p50 s"),
     ("usd_per_million_output_tokens", 0.95, "USD/Mtok"), ("attainment", 1.05, "attainment")],
)  # fmt: skip
def test_a_figure_that_got_worse_fails_and_one_that_got_better_does_not(today, figure, factor, label):
    value = FIGURES[figure].value(today[1].ranked[0])
    (finding,) = checked(today, 0, 0.01, **{figure: value * factor}).findings
    assert (finding.kind, finding.figure) == ("worse", figure)
    assert finding.message.startswith(f"{label} of 2xtp1")
    assert checked(today, 0, 0.1, **{figure: value * factor}).passed
    better = checked(today, 0, 0.01, **{figure: value / factor})
    assert better.passed
    assert f"better than the baseline: {label}" in better.notes[0]


def test_six_digits_are_enough_without_any_tolerance(today):
    assert checked(today, 0, 0.0) == replace(checked(today, 0, 0.5), tolerance=0.0)


def test_a_plan_that_is_not_the_best_any_more_fails_and_a_tie_does_not(today):
    (finding,) = checked(today, 1, 0.01).findings
    assert finding.kind == "best"
    assert finding.message.startswith(f"goodput: {today[1].ranked[0].id} has")
    tie = checked(today, 1, 0.99)
    assert tie.passed
    assert tie.notes[0].startswith(f"as good within the tolerance: {today[1].ranked[0].id} has")


def test_of_an_objective_that_is_least_at_best_more_is_worse(today):
    problem, result = today
    by_latency = sorted(result.ranked, key=lambda e: e.summary["e2e_s"]["p50"])
    quick, slow = by_latency[0], by_latency[-1]
    question = replace(problem, objective=OF_PLANS["latency"])
    for now, best, beaten in ((slow, quick, True), (quick, slow, False)):
        findings, _ = _beaten(question, now, best, None, 0.01, 0.9)
        assert bool(findings) == beaten


def test_a_search_that_ended_early_is_no_answer(today, monkeypatch):
    problem, result = today
    for why, error in (("interrupted", KeyboardInterrupt), ("workers were killed", ApexsimError)):
        monkeypatch.setattr(check_module, "search", lambda *_, why=why: replace(result, interruption=why))
        with pytest.raises(error):
            searched(problem, Serial())


def test_a_scenario_has_a_tolerance_and_a_length_of_its_own(folder):
    first, second = ({**SCENARIO, "name": name} for name in ("a", "b"))
    path = write(folder, first, {**second, "tolerance": 0.2, "requests": 50})
    baseline = load_baseline(path)
    assert [baseline.tolerance_of(scenario) for scenario in baseline.scenarios] == [0.01, 0.2]
    assert [len(problem_of(scenario, path).trace) for scenario in baseline.scenarios] == [200, 50]
def fought(today: tuple[Problem, SearchResult], beats: float) -> Duel:
    """The second plan against the first one, as if it had beaten it in this share of the draws."""
    problem, result = today
    found = duel(problem, result.ranked[1], result.ranked[0], Serial())
    assert isinstance(found, Duel)
    return replace(found, chances=Chances(beats, 1 - beats, 0.0))


def test_a_difference_within_the_confidence_is_a_tie_and_is_said(today, monkeypatch):
    for beats, tied in ((0.11, True), (0.1, False)):
        drawn = fought(today, beats)
        monkeypatch.setattr(sys.modules[check.__module__], "duel", lambda *given, drawn=drawn: drawn)
        found = checked(today, 1, 0.01)
        assert (found.tied, found.passed) == (tied, tied)
        (line,) = found.notes if tied else [finding.message for finding in found.findings]
        assert ("better, but not surely" in line) is tied
        assert f"in {beats:.0%} of the draws: goodput" in line
        assert line.count("(95 %: ") == 2
        assert not checked(today, 1, 0.01, sure=0.0).passed, "the tolerance alone decides"


def test_the_two_that_are_held_against_each_other_are_judged_as_a_ranking_judges_them(today):
    problem, result = today
    one, other = result.ranked[1], result.ranked[0]
    first, second = duel(problem, one, other, Serial()), duel(problem, other, one, Serial())
    assert (first.chances.beats, first.chances.ties) == (second.chances.loses, second.chances.ties)
    assert (first.own, first.rival) == (second.rival, second.own)
    verdicts = judge(problem, result.ranked, result.pareto, Serial()).verdicts
    assert first.own.verdict.goodput_ci == verdicts[one.id].goodput_ci
    assert verdicts[other.id].next_one == second.chances
    assert first.chances.loses == 1.0


def test_who_cannot_be_judged_is_held_to_the_tolerance_alone(today):
    class Dying(Serial):
        def run(self, function, items, lost=None):
            raise WorkersLost("killed")

    problem, result = today
    chosen = Chosen.of(result.ranked[1], SCENARIO["model"])
    scenario = Scenario.model_validate(SCENARIO | {"chosen": chosen.model_dump()})
    plan = plan_of(chosen, problem, "test")
    found = check(scenario, chosen, plan, problem, result, 0.01, 0.9, Dying())
    assert [finding.kind for finding in found.findings] == ["best"]
    assert found.notes == ("no intervals: killed",)
    assert not found.tied


def test_the_chance_and_both_intervals_stand_in_every_report(chosen, tmp_path):
    xml, data = tmp_path / "plans.xml", tmp_path / "plans.json"
    result = run(chosen, "--junit", str(xml), "--json", str(data))
    assert re.search(r"\| attainment \| P \| verdict \|", result.stdout)
    assert re.search(r"\| 100% \| holds \|$", result.stdout, re.MULTILINE)
    (entry,) = json.loads(data.read_text())["scenarios"]
    found = entry["confidence"]
    assert found["own"]["id"] == entry["best"] == "2xtp1-fp8-kvbf16-t8192-s128"
    assert found["p_beats"] + found["p_loses"] + found["p_ties"] == pytest.approx(1.0)
    for side in (found["own"], found["rival"]):
        assert side["objective_ci"][0] < side["objective"] < side["objective_ci"][1]
        assert side["objective_ci"] == side["goodput_ci"]
    (said,) = (element.text for element in ElementTree.parse(xml).iter("system-out"))
    assert f"beats {found['rival']['id']} in 100% of the draws: goodput" in said


def test_one_plan_alone_is_held_against_nobody(chosen):
    alone = edited(chosen, space=SPACE | {"tp": [1], "replicas": [2]})
    result = run(alone, "--json", "-")
    assert result.exit_code == 0
    (entry,) = json.loads(result.stdout)["scenarios"]
    assert (entry["confidence"], entry["tied"]) == (None, False)


def test_how_sure_another_plan_must_be_is_a_scenarios_or_the_files(folder):
    baseline = load_baseline(write(folder, SCENARIO, SCENARIO | {"name": "strict", "sure": 0.0}, sure=0.5))
    assert [baseline.sure_of(scenario) for scenario in baseline.scenarios] == [0.5, 0.0]
    assert load_baseline(write(folder, SCENARIO)).sure == 0.9
    assert run(write(folder, SCENARIO, sure=0.5), "--update").exit_code == 0
    assert list(yaml.safe_load((folder / "baseline.yaml").read_text())) == ["tolerance", "sure", "scenarios"]


def test_a_figure_that_nobody_knows_any_more_fails(today):
    problem, result = today
    first = result.ranked[0]
    blind = replace(first, at_goodput=first.at_goodput | {"usd_per_million_output_tokens": None})
    (finding,) = checked((problem, replace(result, ranked=(blind, *result.ranked[1:]))), 0, 0.01,
                         usd_per_million_output_tokens=1.0).findings  # fmt: skip
    assert "USD/Mtok is not known any more" in finding.message


def test_a_plan_outside_the_space_is_evaluated_all_the_same(chosen):
    narrower = edited(chosen, space=SPACE | {"tp": [2]})
    assert findings(narrower) == []
    assert "1 of 1 scenarios hold" in run(narrower).stdout


def test_a_missed_slo_fails_and_says_what_binds(chosen):
    ((kind, message),) = findings(edited(chosen, slo="ttft=1ms@0.9"))
    assert kind == "slo"
    assert "2xtp1-fp8-kvbf16-t8192-s128 is not feasible any more: attainment" in message
    ((kind, message),) = findings(edited(chosen, cluster="1xh100-sxm"))
    assert kind == "slo"
    assert "needs 2 devices" in message


def test_a_traffic_that_changed_is_seen(chosen):
    write_trace(poisson(2.0, 200, 1800, 150, seed=4), chosen.parent / "trace.csv")
    assert {kind for kind, _ in findings(chosen)} >= {"worse"}


def test_reports_say_the_same(chosen, tmp_path):
    worse = edited(chosen, chosen={"goodput_rps": 1000.0})
    xml, data = tmp_path / "plans.xml", tmp_path / "plans.json"
    result = run(worse, "--junit", str(xml), "--json", str(data))
    assert result.exit_code == 4
    assert result.stderr.strip().splitlines()[-1] == f"error: {worse}: 1 of 1 scenarios got worse: small"
    (failure,) = json.loads(data.read_text())["scenarios"][0]["failures"]
    root = ElementTree.parse(xml).getroot()
    suite = root.find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert suite.find("testcase").get("name") == "small"
    assert suite.find("testcase/failure").get("message") == failure["message"]
    assert f"- **small**: {failure['message']}" in result.stdout
    assert re.search(r"\*\*[\d.]+ \(-[\d.]+%\)\*\* .*\| \*\*worse\*\* \|", result.stdout)


def test_an_update_without_a_plan_writes_nothing(chosen):
    impossible = edited(chosen, slo="ttft=1ms@0.9")
    before = impossible.read_bytes()
    result = run(impossible, "--update")
    assert result.exit_code == 3
    assert "nothing was written" in result.stderr
    assert impossible.read_bytes() == before


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({"model": "Llama-3.1-9B"}, 2, "scenario 'small': unknown model 'Llama-3.1-9B'; did you mean"),
        ({"cluster": "2xh1000"}, 2, "scenario 'small'"),
        ({"slo": "ttft=1"}, 2, "scenario 'small'"),
        ({"objective": "speed"}, 2, "unknown objective 'speed'"),
        ({"trace": "nowhere.csv"}, 5, "nowhere.csv"),
        ({"space": {"tq": [1]}}, 2, "tq: unknown key"),
        ({"colour": "red"}, 5, "scenarios[0].colour: unknown key"),
        ({"tolerance": 2.0}, 5, "scenarios[0].tolerance = 2.0"),
        ({"sure": 1.5}, 5, "scenarios[0].sure = 1.5"),
        ({"rate": 0.0}, 5, "scenarios[0].rate"),
        ({"chosen": None}, 5, "chosen: missing"),
        ({"chosen": {"id": "x", "plan": {"pools": []}, "goodput_rps": 1.0}}, 5, "chosen.plan"),
        ({"chosen": {"id": "x"}}, 5, "chosen.plan: missing"),
    ],
)
def test_bad_input_is_one_line(folder, keys, code, words):
    filled = {"id": "x", "goodput_rps": 1.0,
              "plan": {"model": "Llama-3.1-8B", "cluster": "2xh100-sxm", "pools": [{}]}}  # fmt: skip
    result = run(write(folder, SCENARIO | {"chosen": filled} | keys))
    assert result.exit_code == code, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(folder) in last
    assert words in last


def test_files_and_flags_that_cannot_be(folder, chosen):
    assert run(folder / "nowhere.yaml").exit_code == 5
    twice = write(folder / ".", SCENARIO, SCENARIO)
    result = run(twice)
    assert result.exit_code == 5
    assert "two scenarios are called 'small'" in result.stderr
    (folder / "cut.yaml").write_text("scenarios: [")
    assert run(folder / "cut.yaml").exit_code == 5
    (folder / "empty.yaml").write_text("tolerance: 0.1\nscenarios: []")
    assert run(folder / "empty.yaml").exit_code == 5
    assert run(twice, "--update", "--json", "-").exit_code == 2
    assert run(twice, "--junit", str(folder / "no" / "such.xml")).exit_code == 2


def test_junit_leaves_out_what_xml_cannot_hold():
    text = junit_text("a & b", [Case("x\x00<y>", ("first \x1b[1m", "second")), Case("z", output="said")])
    root = ElementTree.fromstring(text.split("\n", 1)[1])
    assert root.get("failures") == "1"
    assert root.find("testsuite/testcase").get("name") == "x<y>"
    assert root.find("testsuite/testcase/failure").text == "first [1m\nsecond"
    assert root.findall("testsuite/testcase")[1].find("system-out").text == "said"


def test_the_projects_own_baseline_is_complete_and_part_of_ci():
    baseline = load_baseline(ROOT / "baselines" / "plan_quality.yaml")
    assert len(baseline.scenarios) >= 6
    assert all(scenario.chosen is not None for scenario in baseline.scenarios)
    assert len({scenario.objective for scenario in baseline.scenarios}) >= 4
    assert "step make plans" in (ROOT / ".ci" / "run").read_text()
    assert "apexsim check baselines/plan_quality.yaml" in (ROOT / "Makefile").read_text()


def test_the_workflow_calls_what_there_is():
    text = (ROOT / "docs" / "examples" / "plan-quality.github.yml").read_text()
    (job,) = yaml.safe_load(text)["jobs"].values()
    (line,) = (line for step in job["steps"] for line in step.get("run", "").splitlines() if "apexsim check" in line)
    command = typer.main.get_command(app).commands["check"]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert set(re.findall(r"--\w+", line)) <= flags
    assert any(step.get("if", "").startswith("always()") for step in job["steps"]), "the table is commented on failure"
