"""Transfers over links: textbook cases, and max-min fairness of whatever is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.engine.disaggregated import Handover, Links, PoolSetup, simulate_pools
from apexsim.engine.jit import entry_kernel
from apexsim.engine.links import Traffic, new_traffic, release_bytes, share_out
from apexsim.engine.result import SimulationResult
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits
from apexsim.workload.trace import Trace
from tests.test_engine_tiny import SEQS, tables
from tests.worlds import drawn


@entry_kernel
def begin_all(traffic: Traffic, paths: int) -> None:
    """A byte along each path, at the rates that are fair."""
    for i in range(paths):
        release_bytes(traffic, i, i, 1.0, True)
    share_out(traffic)


def shared_out(capacity: list[float], paths: list[list[int]], shares: Sequence[Sequence[float]] = ()) -> Traffic:
    """One flow a path, all under way."""
    traffic = new_traffic(np.array(capacity), paths, np.zeros(len(paths)), len(paths), shares)
    begin_all(traffic, len(paths))
    return traffic


def rates(capacity: list[float], paths: list[list[int]], shares: Sequence[Sequence[float]] = ()) -> list[float]:
    return shared_out(capacity, paths, shares).flows.rate[: len(paths)].tolist()


@pytest.mark.parametrize("flows", [1, 2, 3, 10])
def test_n_flows_on_a_link_each_get_an_nth(flows: int) -> None:
    assert rates([12.0], [[0]] * flows) == [12.0 / flows] * flows


def test_what_one_flow_cannot_use_the_others_get() -> None:
    """Bertsekas and Gallager, figure 6.12 in kind: the narrow link settles its two flows, the wide one has 6 left."""
    assert rates([2.0, 8.0], [[0], [0, 1], [1]]) == [1.0, 1.0, 7.0]


def test_a_parking_lot() -> None:
    """One flow over three equal links, one more on each: all get a half."""
    assert rates([1.0, 1.0, 1.0], [[0, 1, 2], [0], [1], [2]]) == [0.5] * 4


def test_bytes_that_go_over_two_links_need_a_half_of_each() -> None:
    """A flow over two links of 4 B/s side by side gets 8 B/s; one beside it on the first of them meets half of it."""
    assert rates([4.0, 4.0], [[0, 1]], [[0.5, 0.5]]) == [8.0]
    halved = rates([4.0, 4.0], [[0, 1], [0]], [[0.5, 0.5], [1.0]])
    assert halved == [pytest.approx(8 / 3)] * 2


def test_shares_of_one_are_no_shares() -> None:
    capacity, paths = [3.0, 7.0, 11.0], [[0], [0, 1], [1, 2], [2]]
    assert rates(capacity, paths, [[1.0] * len(path) for path in paths]) == rates(capacity, paths)


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[float], list[list[int]], list[list[float]]]:
    links = draw(st.integers(1, 6))
    capacity = [draw(st.floats(0.5, 100.0)) for _ in range(links)]
    paths = [
        draw(st.lists(st.integers(0, links - 1), min_size=1, max_size=links, unique=True))
        for _ in range(draw(st.integers(1, 12)))
    ]
    whole = draw(st.booleans())
    share = st.just(1.0) if whole else st.floats(0.05, 1.0)
    return capacity, paths, [[draw(share) for _ in path] for path in paths]


@given(networks())
@drawn
def test_no_flow_can_be_given_more(
    network: tuple[list[float], list[list[int]], list[list[float]]],
) -> None:
    """Max-min fairness by its definition: each flow has a full link on which nobody has more than it."""
    capacity, paths, shares = network
    found = rates(capacity, paths, shares)
    load = [0.0] * len(capacity)
    for rate, path, share in zip(found, paths, shares, strict=True):
        for link, part in zip(path, share, strict=True):
            load[link] += part * rate
    assert all(used <= room * (1 + 1e-9) for used, room in zip(load, capacity, strict=True))
    for rate, path in zip(found, paths, strict=True):
        full = [link for link in path if load[link] >= capacity[link] * (1 - 1e-9)]
        others = [[r for r, p in zip(found, paths, strict=True) if link in p] for link in full]
        assert any(max(there) <= rate * (1 + 1e-9) for there in others)


def hand_over(requests: int, *, size: float = 100.0, capacity: float = 10.0, latency_s: float = 0.0,
              push: bool = False, early: float = 0.0, outputs: int = 3) -> SimulationResult:  # fmt: skip
    """Prompts of 4 tokens that arrive together at one replica, whose KV goes to another over one link of 10 B/s."""
    trace = Trace("tiny", np.zeros(requests), np.full(requests, 4), np.full(requests, outputs))
    limits = ReplicaLimits(kv_blocks=100, block_size=1, max_model_len=60)
    pools = [PoolSetup(tables(), limits, Policy("t", 16, SEQS, role=role), 1) for role in ("prefill", "decode")]
    links = Links(np.array([capacity]), ((0,),), np.array([latency_s]), np.zeros((2, 2, 1), np.int64))
    return simulate_pools(trace, pools, links, Handover(np.full(requests, size), push=push, early=early))


def test_one_request_from_pool_to_pool() -> None:
    """Prefill of 4 tokens: 14 s. 100 B at 10 B/s: 10 s. Then two decode iterations of 11 s."""
    result = hand_over(1)
    columns, transfers = result.requests, result.transfers
    assert transfers is not None
    assert columns.first_token_s.tolist() == [14.0]
    assert transfers.landed_s.tolist() == [24.0]
    assert columns.finish_s.tolist() == [46.0]
    assert columns.itl_max_s.tolist() == [21.0]  # the transfer and an iteration
    assert result.pools[1].prefill_tokens == 0


def test_two_equal_transfers_on_one_link_take_twice_as_long() -> None:
    alone, both = hand_over(1).transfers, hand_over(2).transfers
    assert alone is not None
    assert both is not None
    assert (both.landed_s - both.left_s).tolist() == [20.0, 20.0]
    assert (alone.landed_s - alone.left_s).tolist() == [10.0]


def test_the_last_byte_lands_one_latency_later() -> None:
    transfers = hand_over(1, latency_s=3.0).transfers
    assert transfers is not None
    assert transfers.landed_s.tolist() == [27.0]


def test_what_streams_while_it_is_computed_is_there_earlier() -> None:
    """Nine tenths go during the 14 s of the prefill, which takes them 9 s; the last layer's takes 1 s after it."""
    transfers = hand_over(1, push=True, early=0.9).transfers
    assert transfers is not None
    assert transfers.reserved_s.tolist() == [0.0]
    assert transfers.landed_s.tolist() == [15.0]


def test_a_request_of_one_token_needs_no_other_pool() -> None:
    result = hand_over(1, outputs=1)
    assert result.requests.finish_s.tolist() == [14.0]
    assert result.transfers is not None
    assert result.transfers.started == 0
