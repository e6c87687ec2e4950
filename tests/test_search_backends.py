"""A whole search on every backend that is installed: one answer, also after a kill; plans that kill or hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apexsim.errors import UsageError
from apexsim.report.search_results import search_for
from apexsim.search import evaluate as evaluation
from apexsim.search import part as compiling
from apexsim.search import run as running
from apexsim.search.executors import BACKENDS, executor
from apexsim.search.mishaps import KILLS
from apexsim.search.patience import Patience, TookTooLong, _by_thread
from apexsim.search.run import search
from tests.house import ROOT
from tests.killing import KILLER, one_kills, one_shape_kills
from tests.test_search_executors import made
from tests.test_search_run import same_but_for_the_wall_time, small_problem

SEARCH = """
import sys
from apexsim.report.search_results import search_for
from tests.test_search_run import small_problem

if __name__ == "__main__":
    search_for(small_problem(), workers=2, backend=sys.argv[1], out=sys.argv[2])
"""


@pytest.fixture(scope="module")
def whole():
    """The answer of one process."""
    return search(small_problem(), executor("process", 1)).to_dict()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same_answer_in_the_same_order(backend, whole):
    result = search(small_problem(), made((backend, 2))).to_dict()
    assert same_but_for_the_wall_time(whole, result)
    assert [plan["id"] for plan in result["plans"]] == [plan["id"] for plan in whole["plans"]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_search_killed_with_sigkill_goes_on_where_it_was(backend, whole, tmp_path):
    made((backend, 2))
    journal = tmp_path / "journal.jsonl"
    killed = subprocess.Popen(
        [sys.executable, "-c", SEARCH, backend, str(tmp_path)], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        while killed.poll() is None and lines(journal) < 3:  # its heading and two plans
            time.sleep(0.005)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    before = lines(journal)
    assert before >= 3, "it ended before anything was written"
    result = search_for(small_problem(), workers=2, backend=backend, out=tmp_path).result.to_dict()
    assert same_but_for_the_wall_time(whole, result)
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    done = [next(iter(entry.values()))["id"] for entry in entries[1:-1]]
    assert sorted(done) == sorted({*done})  # nothing was replayed twice
    assert entries[-1] == {"finished": True}
    assert len(done) == len(whole["plans"]) + len(whole["pruned"])


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


class InTurn:
    """An executor that says of a batch with the killer what one with worker processes says, without their deaths."""

    def run(self, function, items, lost=None):
        for item in items:
            killed = lost and any(getattr(each, "id", "") == KILLER for each in item)  # candidates, or shapes
            yield lost(item) if killed else function(item)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.mark.parametrize("backend", ["in turn", *(name for name in BACKENDS if name != "process")])
def test_a_plan_that_kills_its_worker_is_reported_and_the_others_are_looked_at(backend, whole, monkeypatch):
    monkeypatch.setattr(running, "evaluate_all", one_kills)
    result = search(small_problem(), InTurn() if backend == "in turn" else made((backend, 2)))
    assert not result.interrupted
    assert [plan.id for plan in result.crashed] == [KILLER]
    assert "kills its worker process each time" in result.crashed[0].reason
    assert {plan.id for plan in result.dropped} == {plan["id"] for plan in whole["plans"]}
    assert {plan.reason for plan in result.dropped if plan.id != KILLER} == {"looked at"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shape_that_kills_its_worker_is_dropped_and_the_others_are_ranked(backend, whole, monkeypatch):
    monkeypatch.setattr(running, "learn", one_shape_kills)
    result = search(small_problem(), made((backend, 2)))
    killed = [plan["id"] for plan in whole["plans"] + whole["pruned"] if "xtp2-" in plan["id"] and "-s16" in plan["id"]]
    assert len(killed) == 2
    assert not result.interrupted
    assert sorted(plan.id for plan in result.crashed) == sorted(killed)
    assert {plan.reason for plan in result.crashed} == {KILLS}
    assert [plan.id for plan in result.ranked] == [plan["id"] for plan in whole["plans"] if plan["id"] not in killed]


def test_a_shape_that_hangs_or_raises_when_it_is_compiled_is_dropped(whole, monkeypatch):
    real = compiling.compiled

    def compiled(plan):
        if plan.pools[0].tp == 2:
            time.sleep(60)
        if plan.pools[0].scheduler.max_num_seqs == 16:
            raise MemoryError("30 GB")
        return real(plan)

    monkeypatch.setattr(compiling, "compiled", compiled)
    result = search(small_problem(), executor("process", 1), plan_timeout_s=2.0)
    causes = {dropped.id: (dropped.cause, dropped.reason) for dropped in result.crashed}
    assert len(causes) == 6
    for name, found in causes.items():
        late = ("timeout", "timed out: not done after 2 s (--plan-timeout)")
        assert found == (late if "xtp2-" in name else ("failed", "crashed: MemoryError: 30 GB"))
    assert {plan.id for plan in result.ranked} <= {plan["id"] for plan in whole["plans"]}
    assert len(result.ranked) + len(causes) == 8


def test_plans_that_hang_are_reported_and_asked_again_by_the_next_search(whole, monkeypatch, tmp_path):
    real = evaluation.run

    def run(prepared, *args, **kwargs):
        if prepared.pool.tp == 2:
            time.sleep(60)
        return real(prepared, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "run", run)
        report = search_for(small_problem(), workers=1, plan_timeout_s=2.0, out=tmp_path)
    late = [plan for plan in report.result.dropped if plan.cause == "timeout"]
    assert len(late) == 4
    assert {plan.reason for plan in late} == {"timed out: not done after 2 s (--plan-timeout)"}
    assert "4 of 8 plans timed out, for example" in report.warnings[0]
    journal = tmp_path / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))  # as if killed at the end
    again = search_for(small_problem(), workers=1, plan_timeout_s=600.0, out=tmp_path).result.to_dict()
    assert same_but_for_the_wall_time(whole, again)


def test_a_limit_that_no_plan_reaches_changes_nothing(whole):
    limited = search(small_problem(), executor("process", 1), plan_timeout_s=600.0).to_dict()
    assert same_but_for_the_wall_time(whole, limited)


def test_a_limit_of_nothing_is_a_usage_error():
    with pytest.raises(UsageError, match="--plan-timeout 0s: must be more than 0"):
        search(small_problem(), executor("process", 1), plan_timeout_s=0.0)


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_a_limit_interrupts_python_on_the_main_thread_and_on_others():
    before = signal.getsignal(signal.SIGALRM)
    for limit in (Patience(0.05).limit, lambda: _by_thread(0.05)):
        with pytest.raises(TookTooLong), limit():
            spin(30)
    assert signal.getsignal(signal.SIGALRM) == before
    for limit in (Patience(30.0).limit, lambda: _by_thread(30.0), Patience().limit):
        with limit():
            spin(0.001)
    spin(0.1)  # nothing is left behind


def test_a_limit_that_is_passed_at_the_very_end_leaves_no_alarm_behind(monkeypatch):
    """The signal comes between the last line of what is limited and the call that stops the clock."""
    stop, calls = signal.setitimer, []

    def interrupted(which, seconds, *more):
        calls.append(seconds)
        if calls.count(0.0) == 1:
            raise TookTooLong
        return stop(which, seconds, *more)

    monkeypatch.setattr(signal, "setitimer", interrupted)
    with pytest.raises(TookTooLong), Patience(30.0).limit():
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
