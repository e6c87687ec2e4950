"""One contract, for every executor that is installed: all results whatever the order, deaths, errors, early ends."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import joblib
import pytest

from apexsim.errors import UsageError
from apexsim.search import executors
from apexsim.search.executors import BACKENDS, Executor, WorkersLost, executor

KINDS = (("process", 1), ("process", 2), *((name, 2) for name in BACKENDS if name != "process"))
DYING = [kind for kind in KINDS if kind != ("process", 1)]


def made(kind: tuple[str, int]) -> Executor:
    """Skips where the library is not installed."""
    name, workers = kind
    if BACKENDS[name][1]:
        pytest.importorskip({"dask": "distributed"}.get(name, name), reason=f"the extra {name} is not installed")
    return executor(name, workers)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def any_executor(request):
    with made(request.param) as one:
        yield one


@pytest.fixture(scope="module", params=DYING, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def mortal(request):
    with made(request.param) as one:
        yield one


class Big:
    """Counts, in the process that made it, how often it was pickled."""

    pickled = 0

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __reduce__(self):
        Big.pickled += 1
        return (Big, (self.factor,))


def times(big: Big, number: int) -> int:
    return big.factor * number


def double(number: int) -> int:
    return 2 * number


def refuse(number: int) -> int:
    if number == 7:
        raise ZeroDivisionError("of seven")
    return number


def die(folder: Path, often: int, number: int) -> int:
    """Kills its own process the first ``often`` times that it is asked for 7."""
    marks = sorted(folder.glob("died-*"))
    if number == 7 and len(marks) < often:
        (folder / f"died-{len(marks)}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def die_always(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_every_item_has_its_result_once(any_executor):
    assert sorted(any_executor.run(double, range(50))) == list(range(0, 100, 2))
    assert sorted(any_executor.run(partial(times, Big(3)), [5, 5, 1])) == [3, 15, 15]
    assert list(any_executor.run(double, [])) == []


def test_what_the_function_raises_is_raised_and_ends_only_that_run(any_executor):
    with pytest.raises(ZeroDivisionError, match="of seven"):
        list(any_executor.run(refuse, range(20)))
    assert sorted(any_executor.run(double, range(5))) == [0, 2, 4, 6, 8]


def test_a_run_may_be_left_early(any_executor):
    begun = any_executor.run(double, range(30))
    assert next(begun) % 2 == 0
    if hasattr(begun, "close"):
        begun.close()
    assert sorted(any_executor.run(double, range(5))) == [0, 2, 4, 6, 8]


def test_what_is_bound_travels_to_a_cluster_once(any_executor):
    if not hasattr(any_executor, "_sent"):
        pytest.skip("workers on this machine: not a cluster")
    big, before = Big(2), Big.pickled
    for _ in range(2):
        assert sorted(any_executor.run(partial(times, big), range(20))) == list(range(0, 40, 2))
    assert Big.pickled == before + 1


def test_what_a_killed_worker_had_is_done_again(mortal, tmp_path):
    assert sorted(mortal.run(partial(die, tmp_path, 1), range(30))) == list(range(0, 60, 2))
    assert sorted(mortal.run(double, range(5))) == [0, 2, 4, 6, 8]
    assert len(list(tmp_path.glob("died-*"))) == 1


def test_only_the_item_that_always_kills_its_worker_is_lost(mortal, tmp_path):
    results = sorted(mortal.run(partial(die, tmp_path, 99), range(12), lost=lambda number: -number))
    assert results == sorted(-7 if number == 7 else 2 * number for number in range(12))
    with pytest.raises(WorkersLost, match="memory"):
        list(mortal.run(partial(die, tmp_path, 99), range(12)))


def test_a_worker_may_die_while_others_are_handed_their_first_items(monkeypatch):
    hand_over, calls = joblib.Parallel.dispatch_one_batch, []

    def fails_once(self, items):
        calls.append(items)
        if len(calls) == 2:
            raise executors.TerminatedWorkerError("while the second item is handed over")
        return hand_over(self, items)

    monkeypatch.setattr(joblib.Parallel, "dispatch_one_batch", fails_once)
    with executors.Processes(2) as workers:
        assert sorted(workers.run(double, range(4))) == [0, 2, 4, 6]
    assert len(calls) > 2


def test_workers_that_always_die_are_lost_whatever_is_asked_of_them(mortal, monkeypatch):
    monkeypatch.setattr(executors, "MOST_IN_A_ROW", 2)
    with pytest.raises(WorkersLost, match=r"memory|no worker"):
        list(mortal.run(die_always, range(3), lost=lambda number: number))


def test_without_its_library_a_backend_is_one_line(monkeypatch):
    import sys

    for name, library in (("ray", "ray"), ("dask", "distributed")):
        monkeypatch.delitem(sys.modules, f"apexsim.search.{name}_executor", raising=False)
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(UsageError, match=rf"backend {name}: .*pip install 'apexsim\[{name}\]'") as error:
            executor(name, 2)
        assert "\n" not in str(error.value)
