"""What a plan says about the waiting list, and what a trace says about who waits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apexsim.engine.places import order_notes
from apexsim.engine.schedulers import resolve
from apexsim.errors import InputError, UsageError
from apexsim.spec.base import parse
from apexsim.spec.plan import Pool, Scheduler
from apexsim.workload.read import read_trace
from apexsim.workload.trace import Trace
from apexsim.workload.transform import repeat
from apexsim.workload.write import write_trace

HEADER = "arrival_s,input_tokens,output_tokens,priority,client,deadline_s\n"


def test_a_policy_is_resolved_in_seconds_and_told_apart():
    scheduler = parse(Scheduler, {"policy": "deadline", "deadline": "2s", "max_wait": "500ms"}, source="plan")
    policy = resolve(scheduler)
    assert (policy.order, policy.deadline_s, policy.max_wait_s, policy.max_waiting) == ("deadline", 2.0, 0.5, 0)
    assert scheduler.id == ["deadline", "dl2", "wait0.5"]
    assert Scheduler().id == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"policy": "fiar"}, "policy = 'fiar': unknown value; did you mean 'fair'?"),
        ({"deadline": "2s"}, "deadline has an effect under policy: deadline or with shed_late: true only"),
        ({"output_weight": 4}, "have an effect under policy: fair only"),
        ({"max_num_partial_prefills": 2}, "vLLM v1 has no concurrent partial prefills to limit"),
        ({"max_wait": 5}, "5 has no unit"),
        ({"max_waiting": 0}, "max_waiting = 0"),
    ],
)
def test_mistakes_end_in_one_line(keys, said):
    with pytest.raises(InputError) as caught:
        parse(Pool, {"scheduler": keys}, source="plan.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_threshold_needs_a_preset_that_cuts_prompts():
    with pytest.raises(UsageError, match="preset orca does not cut prompts"):
        resolve(Scheduler(preset="orca", long_prefill_token_threshold=512))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_columns_survive_a_file_and_copies_keep_their_clients(tmp_path: Path, name: str):
    source = tmp_path / "source.csv"
    source.write_text(HEADER + "0,5,1,1,a,\n1,5,1,0,b,0.5\n2,5,1,-3,a,2\n")
    write_trace(repeat(read_trace(str(source)), 2), tmp_path / name)
    trace = read_trace(str(tmp_path / name))
    assert trace.priority.tolist() == [1, 0, -3] * 2
    assert [trace.clients[code] for code in trace.client_code] == ["a", "b", "a"] * 2
    assert trace.deadline_s.tolist() == [np.inf, 0.5, 2.0] * 2


@pytest.mark.parametrize(("row", "said"), [("0,5,1,1.5,a,\n", "priority is 1.5"), ("0,5,1,1,a,0\n", "deadline_s is 0")])
def test_a_wrong_cell_is_an_error_of_one_line(tmp_path: Path, row: str, said: str):
    (tmp_path / "t.csv").write_text(HEADER + row)
    with pytest.raises(InputError, match=said):
        read_trace(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(("deadline", "notes"), [(None, 1), ("2s", 0)])
def test_shedding_the_late_without_any_deadline_is_noted(deadline: str | None, notes: int) -> None:
    policy = resolve(Scheduler.model_validate({"shed_late": True, "deadline": deadline}))
    found = order_notes(policy, Trace("t", np.zeros(1), np.ones(1), np.ones(1)))
    assert [note.startswith("shed_late is set, but") for note in found] == [True] * notes
