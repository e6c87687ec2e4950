"""``apexsim calibrate run``: what is drawn, how a case is timed, and what an interrupted run leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from apexsim.calibration.microbench import journal
from apexsim.calibration.microbench.cases import FAMILIES, Limits, draw
from apexsim.calibration.microbench.machine import Sample, find_machine, require
from apexsim.calibration.microbench.measure import measure
from apexsim.calibration.microbench.run import Request, calibrate
from apexsim.calibration.microbench.timing import Effort, time_case
from apexsim.errors import InputError, UsageError
from tests.fake_machine import FakeMachine, environment, seconds_of

QUICK = Effort(least_samples=3, most_samples=3)
LIMITS = Limits(1e11, 2**28, ("bfloat16",), ranks=4)


def test_the_same_seed_draws_the_same_cases_in_the_same_order():
    assert draw(tuple(FAMILIES), LIMITS, 3) == draw(tuple(FAMILIES), LIMITS, 3)
    assert draw(tuple(FAMILIES), LIMITS, 3) != draw(tuple(FAMILIES), LIMITS, 4)


def test_every_case_is_drawn_once_and_within_the_limits():
    cases = draw(tuple(FAMILIES), LIMITS, 0)
    assert len({case.key for case in cases}) == len(cases)
    assert {case.family for case in cases} == set(FAMILIES)
    assert all(case.flops <= LIMITS.flops and case.moved <= LIMITS.moved for case in cases)


def test_the_first_cases_are_a_sample_of_all_families():
    cases = draw(tuple(FAMILIES), LIMITS, 0)
    assert {case.family for case in cases[: len(cases) // 10]} == set(FAMILIES)


def test_one_rank_has_no_collectives():
    assert draw(["collectives"], replace(LIMITS, ranks=1), 0) == []
    assert {case["gpus"] for case in draw(["collectives"], LIMITS, 0)} == {2, 4}


def test_an_unknown_family_is_told_with_the_nearest_one():
    with pytest.raises(UsageError, match="--only: unknown family 'gem'; did you mean 'gemm'"):
        draw(["gem"], LIMITS, 0)


class Scripted(FakeMachine):
    """Samples as they are written down."""

    def __init__(self, samples: list[tuple[float, bool]]) -> None:
        super().__init__()
        self.script = iter([(1.0, False), (1.0, False), *samples])  # the first two are warm-up

    def sample(self, kernel: object, calls: int) -> Sample:
        return Sample(*next(self.script))


def test_the_median_of_undisturbed_samples_counts():
    machine = Scripted([(1.0, False), (9.0, True), (1.2, False), (8.0, True), (1.1, False)])
    timing = time_case(machine, None, Effort(least_samples=5, case_s=0.0))
    assert (timing.seconds, timing.samples, timing.disturbed) == (1.1, 3, 2)
    assert timing.spread == pytest.approx(0.1 / 1.1)
    assert not timing.noisy


def test_where_all_were_disturbed_all_count():
    machine = Scripted([(4.0, True), (6.0, True), (5.0, True)])
    timing = time_case(machine, None, Effort(least_samples=3, case_s=0.0))
    assert (timing.seconds, timing.samples, timing.disturbed) == (5.0, 3, 3)


def test_samples_that_disagree_are_marked():
    machine = Scripted([(1.0, False), (2.0, False), (3.0, False)])
    assert time_case(machine, None, Effort(least_samples=3, case_s=0.0)).noisy


def test_equal_samples_end_early_and_unequal_ones_go_on():
    steady = time_case(Scripted([(1.0, False)] * 50), None, Effort(case_s=1e9))
    restless = time_case(Scripted([(1.0, False), (1.5, False), (2.0, False)] * 50), None, Effort(case_s=1e9))
    assert (steady.samples, restless.samples) == (5, 100)


def test_short_kernels_are_called_often_enough_for_a_clock():
    case = draw(["memory"], LIMITS, 0)[0]
    timing = time_case(FakeMachine(), case, Effort(sample_s=1e-2))
    assert timing.calls >= 1e-2 / seconds_of(case)


def run(folder: Path, machine: FakeMachine | None = None, **changes: object) -> object:
    known = {"families": ("memory", "elementwise"), "seed": 0}
    return calibrate(machine or FakeMachine(), Request(folder, **(known | changes)), effort=QUICK)


def table(folder: Path, name: str = "elementwise") -> list[dict[str, object]]:
    return pq.read_table(folder / "tables" / f"{name}.parquet").to_pylist()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_tables(tmp_path):
    both = {"families": ("gemm", "memory")}
    whole = run(tmp_path / "whole", **both)
    first = run(tmp_path / "parts", FakeMachine(interrupt_after=40), **both)
    assert first.outcome.interrupted
    assert first.outcome.measured == 40
    assert first.device is None
    assert sum(len(table(tmp_path / "parts", name)) for name in ("gemm", "memory")) == 40
    second_machine = FakeMachine()
    second = run(tmp_path / "parts", second_machine, **both)
    assert second_machine.kernels == whole.outcome.total - 40
    assert second.outcome.ended == "all"
    for name in ("gemm", "memory"):
        assert table(tmp_path / "parts", name) == table(tmp_path / "whole", name)
    profile = (tmp_path / "parts" / second.device.name / "profile.yaml").read_text()
    assert profile == (tmp_path / "whole" / whole.device.name / "profile.yaml").read_text()


def test_a_torn_last_line_is_timed_again(tmp_path):
    run(tmp_path, FakeMachine(interrupt_after=10))
    path = tmp_path / journal.NAME
    path.write_bytes(path.read_bytes()[:-25])
    machine = FakeMachine()
    done = run(tmp_path, machine)
    assert machine.kernels == done.outcome.total - 9
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"device": "Another Device"}, 'device "Fake\\(R\\) Device 9", this run has "Another Device"'),
        ({"versions": {"torch": "2.14.0"}}, 'torch "2.13.0", this run has "2.14.0"'),
        ({"units": 2}, "threads 1, this run has 2"),
        ({"driver": "Fake 2.0"}, "driver"),
    ],
)
def test_another_machine_in_the_same_folder_is_refused(tmp_path, changes, word):
    run(tmp_path, FakeMachine(interrupt_after=5))
    before = (tmp_path / journal.NAME).read_bytes()
    with pytest.raises(UsageError, match=word) as told:
        run(tmp_path, FakeMachine(environment=environment(**changes)))
    assert "\n" not in str(told.value)
    assert "another --out" in str(told.value)
    assert (tmp_path / journal.NAME).read_bytes() == before


def test_other_dtypes_in_the_same_folder_are_refused(tmp_path):
    run(tmp_path, FakeMachine(interrupt_after=5))
    with pytest.raises(UsageError, match="dtypes"):
        run(tmp_path, FakeMachine(limits=Limits(1e11, 2**28, ("float16",))))


def test_other_clocks_are_the_same_machine(tmp_path):
    run(tmp_path, FakeMachine(interrupt_after=5))
    assert run(tmp_path, FakeMachine(environment=environment(settings={"clock": 2}))).outcome.ended == "all"


def test_a_file_that_is_no_journal_is_not_written_over(tmp_path):
    (tmp_path / journal.NAME).write_text("my shopping list\n")
    with pytest.raises(InputError, match="not a journal"):
        run(tmp_path)
    assert (tmp_path / journal.NAME).read_text() == "my shopping list\n"


def test_what_a_machine_cannot_run_is_skipped_with_its_reason(tmp_path):
    done = run(tmp_path, FakeMachine(lacks="memory"))
    assert done.outcome.skipped == sum("skipped" in entry for entry in journal.read(tmp_path)) > 0
    assert {entry["skipped"] for entry in journal.read(tmp_path) if "skipped" in entry} == {
        "no such kernel and a second line"
    }
    assert done.device is None


def test_operands_larger_than_half_of_the_free_memory_are_skipped(tmp_path):
    run(tmp_path, FakeMachine(free=2**20))
    entries = journal.read(tmp_path)
    assert any("are free" in entry.get("skipped", "") for entry in entries)
    assert any("seconds" in entry for entry in entries)


def test_a_budget_ends_a_run_between_two_cases(tmp_path):
    ticks = iter(range(1000))
    cases = draw(["gemm"], LIMITS, 0)
    outcome = measure(FakeMachine(), cases, tmp_path, budget_s=5, effort=QUICK, clock=lambda: float(next(ticks)))
    assert outcome.ended == "budget"
    assert 0 < outcome.measured < outcome.total
    assert measure(FakeMachine(), cases, tmp_path, effort=QUICK).measured == outcome.total


def test_a_few_shapes_make_a_device_without_fits(tmp_path):
    """A short budget must not end in a crash of the fit: the device is there, its prices are analytic."""
    machine = FakeMachine()
    wanted = draw(["gemm", "memory"], machine.limits, 0)
    first = [next(i for i, case in enumerate(wanted) if case.family == family) for family in ("gemm", "memory")]
    machine.interrupt_after = max(first) + 1
    run(tmp_path, machine, families=("gemm", "memory"))
    done = run(tmp_path, budget_s=0.0, families=("gemm", "memory"))
    assert done.outcome.ended == "budget"
    assert done.device is not None
    assert done.files == ()


def test_passes_add_rows_and_keep_the_earlier_ones(tmp_path):
    once = run(tmp_path)
    machine = FakeMachine()
    twice = run(tmp_path, machine, passes=2)
    assert machine.kernels == once.outcome.total
    assert len(table(tmp_path)) == 240
    assert twice.outcome.measured == 2 * once.outcome.measured


def test_an_unwritable_folder_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        run(tmp_path / "file" / "deeper")


def test_a_missing_library_is_one_line_with_its_remedy():
    with pytest.raises(UsageError, match=r"calibrate run needs no_such_lib.*pip install 'apexsim\[calibrate\]'"):
        require("no_such_lib", "calibrate run")


def test_an_unknown_machine_is_told_with_the_known_ones():
    with pytest.raises(UsageError, match="unknown machine 'cpux'; did you mean 'cpu'"):
        find_machine("cpux")
