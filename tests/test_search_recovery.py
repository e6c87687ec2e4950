"""What a search survives: lost workers, Ctrl-C, a full disk, plans that crash. Kills: test_search_backends.py."""

from __future__ import annotations

import errno
import json
import os

import pytest

from apexsim.errors import ApexsimError
from apexsim.report.search_results import SearchReport, search_for
from apexsim.search.executors import WorkersLost, executor
from apexsim.search.journal import Journal, read
from apexsim.search.miss import nearest_miss
from apexsim.search.outcome import outcome_of
from apexsim.search.run import search
from apexsim.spec.slo import parse_slo
from tests.test_search_run import same_but_for_the_wall_time, small_problem, small_trace


class Dying:
    """An executor that loses its workers after so many items."""

    def __init__(self, items: int) -> None:
        self.left = items

    def run(self, function, items, lost=None):
        for item in items:
            if not self.left:
                raise WorkersLost("worker processes were killed, twice")
            self.left -= 1
            yield function(item)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def test_lost_workers_end_a_search_that_ranks_what_is_done():
    result = search(small_problem(), Dying(2))  # one batch of screening, one of two plans
    assert result.interrupted
    assert "killed" in SearchReport(result).warnings[-1]
    assert len(result.ranked) == 2
    assert result.to_dict()["simulation"]["interrupted"] is True


def test_a_killed_search_is_taken_up_and_ends_as_if_nothing_had_been(tmp_path, monkeypatch):
    from apexsim.search import run as module

    whole = search_for(small_problem(), workers=1, out=tmp_path / "whole").to_dict()

    def stop(progress):
        if progress.stage == "replayed" and progress.done == 3:
            raise KeyboardInterrupt

    first = search_for(small_problem(), workers=1, out=tmp_path / "killed", on_progress=stop)
    assert first.result.interrupted
    journal = tmp_path / "killed" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"evaluated": {"id": "torn')
    asked = []
    real = module.evaluate_all

    def evaluate_all(context, candidates, **more):
        asked.extend(candidate.id for candidate in candidates)
        return real(context, candidates, **more)

    monkeypatch.setattr(module, "evaluate_all", evaluate_all)
    second = search_for(small_problem(), workers=1, out=tmp_path / "killed").to_dict()
    assert len(asked) == len(whole["plans"]) + len(whole["pruned"]) - 3
    assert same_but_for_the_wall_time(whole, second)
    one, other = ((tmp_path / name / "journal.jsonl").read_text() for name in ("whole", "killed"))
    assert sorted(one.splitlines()) == sorted(other.splitlines())


def test_a_finished_search_and_another_one_start_anew(tmp_path):
    path = tmp_path / "journal.jsonl"
    search_for(small_problem(), workers=1, out=tmp_path)
    finished = path.read_bytes()
    with Journal(path, read(path)[0]) as journal:
        assert journal.earlier == []
    assert (tmp_path / "journal-old.jsonl").read_bytes() == finished
    with Journal(path, {"search": "another"}) as journal:
        assert journal.earlier == []
    path.write_text("not ours\n")
    with Journal(path, {"search": "another"}) as journal:
        assert journal.earlier == []
    assert (tmp_path / "journal-old.jsonl").read_text() == "not ours\n"


def test_outcomes_come_back_from_the_journal_to_the_last_digit():
    hard = small_problem(slo=parse_slo("ttft=400ms,tpot=25ms@0.9"))
    result = search(hard, executor("process", 1))
    outcomes = (*result.ranked, *result.dropped)
    assert result.ranked
    assert result.dropped
    for outcome in outcomes:
        assert outcome_of(json.loads(json.dumps(outcome.to_entry(), allow_nan=False))) == outcome


def test_a_full_disk_ends_the_journal_and_not_the_search(tmp_path, monkeypatch):
    real, lines = os.write, []

    def full(file: int, data: bytes) -> int:
        if b'"evaluated"' in data:
            lines.append(data)
            if len(lines) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(os, "write", full)
    report = search_for(small_problem(), workers=1, out=tmp_path)
    assert len(report.result.ranked) > 2
    assert len(lines) == 2
    assert [w for w in report.warnings if "No space left" in w and "without its journal" in w]


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:3]))
    with Journal(tmp_path / "j.jsonl", {"search": "x"}) as journal:
        journal.write({"a": 1})
    assert read(tmp_path / "j.jsonl") == [{"search": "x"}, {"a": 1}]


def test_where_every_plan_crashes_nobody_says_that_none_is_feasible(monkeypatch):
    from apexsim.search import evaluate as module

    def run(*args, **kwargs):
        raise MemoryError("30 GB")

    monkeypatch.setattr(module, "run", run)
    report = SearchReport(search(small_problem(), executor("process", 1)))
    with pytest.raises(ApexsimError, match=r"8 of 8 plans crashed, for example .*MemoryError") as error:
        _ = report.best
    assert error.value.exit_code == 1


def test_crashes_are_counted_where_other_plans_rank(monkeypatch):
    from apexsim.search import evaluate as module

    real = module.run

    def run(prepared, *args, **kwargs):
        if prepared.pool.tp == 2:
            raise ZeroDivisionError("a bug")
        return real(prepared, *args, **kwargs)

    monkeypatch.setattr(module, "run", run)
    report = SearchReport(search(small_problem(), executor("process", 1)))
    assert report.best
    assert "4 of 8 plans crashed" in report.warnings[0]


def test_the_nearest_miss_was_replayed():
    result = search(small_problem(rate_rps=500.0), executor("process", 1))
    assert "bound" not in nearest_miss(result)
    assert "is the first limit to go" in nearest_miss(result)
    replayed = [dropped for dropped in result.dropped if dropped.requests_simulated]
    assert 1 <= len(replayed) <= 3
    assert len(result.dropped) == 8
    assert len({dropped.id for dropped in result.dropped}) == 8


def test_a_price_or_an_intensity_of_nothing_is_one():
    result = search(small_problem(price_usd_per_hour=0.0, carbon_g_per_kwh=0.0), executor("process", 1))
    assert result.ranked[0].at_goodput["usd_per_million_output_tokens"] == 0.0


def test_carbon_is_in_grams():
    question = small_problem(objective="carbon", trace=small_trace(1))
    frame = SearchReport(search(question, executor("process", 1))).to_pandas()
    joules, grams = frame["j_per_output_token_at_goodput"], frame["g_co2e_per_million_output_tokens_at_goodput"]
    assert grams.tolist() == pytest.approx((joules / 3.6 * question.carbon_g_per_kwh).tolist())
    assert question.objective.scale == pytest.approx(400 / 3.6)
