"""A head of the waiting list that does not fit gives way in the middle of a series of decodes: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim.engine.result import COMPLETED, REJECTED_WAIT, RequestColumns
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.workload.trace import Trace
from tests.test_engine_theory import constant_step


def serve(**rules: object) -> RequestColumns:
    """One request decodes, a step a millisecond; at 5.5 ms one arrives that does not fit, at 7.5 ms a small one."""
    trace = Trace(
        "tiny", np.array([0.0, 5.5e-3, 7.5e-3]), np.array([10, 45, 4]), np.array([30, 5, 5]),
        client_code=np.array([0, 0, 1]), clients=("a", "b"),
    )  # fmt: skip
    limits = ReplicaLimits(kv_blocks=60, block_size=1, max_model_len=1000)
    return simulate_pool(trace, constant_step(6), limits, Policy("tiny", 64, 6, **rules)).requests  # type: ignore[arg-type]


def test_first_come_first_served_waits_for_the_blocks() -> None:
    assert serve().start_s[2] == pytest.approx(30e-3)


def test_a_client_that_is_served_is_overtaken() -> None:
    """Both counters are equal at 8 ms; one step later the first client has had a token more."""
    columns = serve(order="fair")
    assert columns.start_s[2] == pytest.approx(9e-3)
    assert (columns.status == COMPLETED).all()


def test_whose_time_is_up_makes_way() -> None:
    """It may wait until 8.5 ms; the next boundary is at 9 ms."""
    columns = serve(max_wait_s=3e-3)
    assert columns.reason[1] == REJECTED_WAIT
    assert columns.start_s[2] == pytest.approx(9e-3)


def test_who_comes_back_is_lifted_to_the_counter_of_that_moment() -> None:
    """One seat: while "a" decodes until 30 ms and waits with another request, "b" comes at 10.5 ms. It gets what "a"
    has by then, not what "a" will have had when the seat is free: it is before it in the line."""
    trace = Trace(
        "tiny", np.array([0.0, 5.5e-3, 10.5e-3]), np.array([2, 2, 2]), np.array([30, 3, 3]),
        client_code=np.array([0, 0, 1]), clients=("a", "b"),
    )  # fmt: skip
    limits = ReplicaLimits(kv_blocks=60, block_size=1, max_model_len=1000)
    columns = simulate_pool(trace, constant_step(1), limits, Policy("tiny", 64, 1, order="fair")).requests
    assert columns.start_s[2] == pytest.approx(30e-3)
    assert columns.start_s[1] == pytest.approx(33e-3)
