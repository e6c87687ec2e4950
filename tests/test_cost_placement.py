"""Copies and packing of experts: hand-made cases, laws, and exhaustive search on small ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.cost.placement import copies, heaviest, packed_evenly, placed, slot_shares

BOUND = 4 / 3
"""Heaviest-first packing over the best one, for any loads (Graham 1969, with equal numbers a pack)."""

loads_of = st.lists(st.integers(1, 1000), min_size=4, max_size=8)


def test_the_next_copy_goes_where_a_copy_carries_most() -> None:
    assert copies(np.array([90.0, 40.0, 30.0]), 5).tolist() == [3, 1, 1]  # 90 > 45 > 40
    assert copies(np.array([90.0, 50.0, 30.0]), 5).tolist() == [2, 2, 1]  # 90 > 50 > 45
    assert copies(np.array([1.0, 1.0]), 4).tolist() == [2, 2]


def test_the_heaviest_go_first_to_the_lightest_pack_with_room() -> None:
    assert packed_evenly(np.array([8.0, 7.0, 6.0, 5.0]), 2).tolist() == [0, 1, 1, 0]
    assert packed_evenly(np.array([9.0, 1.0, 1.0, 1.0]), 2).tolist() == [0, 1, 1, 0]  # equal numbers, not equal loads


def test_contiguous_experts_lie_in_their_order_and_the_first_again() -> None:
    held = placed(np.arange(6.0) + 1, 4, redundant=2)
    assert held.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1]]


def test_a_copy_takes_an_equal_part() -> None:
    loads = np.array([90.0, 40.0, 30.0, 20.0])
    held = placed(loads, 3, redundant=2, placement="balanced")
    shares = slot_shares(loads, held)
    assert shares.sum() == pytest.approx(loads.sum())
    assert sorted(shares[held == 0].tolist()) == [30.0, 30.0, 30.0]
    assert heaviest(loads, held) == pytest.approx(60.0)  # 40 + 20, 30 + 30, 30 + 30


def test_groups_of_experts_stay_on_one_node_where_they_divide() -> None:
    loads = np.array([90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], dtype=np.float64)
    held = placed(loads, 8, redundant=4, placement="balanced", nodes=2, groups=4)
    group = held // 3
    first, second = (set(group[rows].ravel().tolist()) for rows in (slice(0, 4), slice(4, 8)))
    assert not first & second
    assert len(first) == len(second) == 2
    assert heaviest(loads, held) < heaviest(loads, placed(loads, 8, redundant=4))
    free = placed(loads, 8, redundant=4, placement="balanced", nodes=2, groups=3)  # 3 groups do not divide
    assert heaviest(loads, free) <= heaviest(loads, held)


@settings(max_examples=150, deadline=None)
@given(
    loads=st.lists(st.integers(0, 10_000), min_size=8, max_size=64).filter(any), ranks=st.sampled_from([1, 2, 4, 8]),
    nodes=st.sampled_from([1, 2]), groups=st.sampled_from([1, 2, 4]), data=st.data(),
)
def test_balanced_is_never_worse_than_contiguous(
    loads: list[int], ranks: int, nodes: int, groups: int, data: st.DataObject
) -> None:
    experts = np.array(loads[: len(loads) // (ranks * groups) * ranks * groups] or loads[:8] * 8, dtype=np.float64)
    redundant = ranks * data.draw(st.integers(0, 3))
    arguments = (experts, ranks, redundant)
    held = placed(*arguments, "balanced", nodes, groups)
    assert held.shape == (ranks, (experts.size + redundant) // ranks)
    assert set(held.ravel().tolist()) == set(range(experts.size))  # every expert is somewhere
    assert heaviest(experts, held) <= heaviest(experts, placed(*arguments)) * (1 + 1e-12)
    assert heaviest(experts, held) >= experts.sum() / ranks * (1 - 1e-12)
    assert (held == placed(*arguments, "balanced", nodes, groups)).all()


@settings(max_examples=100, deadline=None)
@given(loads=loads_of)
def test_packing_is_near_the_best_of_all_packings(loads: list[int]) -> None:
    """Two ranks of equally many experts: all ways are tried."""
    experts = np.array(loads[: len(loads) // 2 * 2], dtype=np.float64)
    half, total = experts.size // 2, experts.sum()
    parts = [experts[list(chosen)].sum() for chosen in combinations(range(experts.size), half)]
    best = min(max(part, total - part) for part in parts)
    found = heaviest(experts, placed(experts, 2, placement="balanced"))
    assert best * (1 - 1e-12) <= found <= BOUND * best


@settings(max_examples=100, deadline=None)
@given(loads=loads_of, extra=st.integers(0, 4))
def test_copies_make_the_heaviest_slot_as_light_as_can_be(loads: list[int], extra: int) -> None:
    """Greedy is exact here: no other numbers of copies have a lighter heaviest slot."""
    experts = np.array(loads, dtype=np.float64)
    found = float((experts / copies(experts, experts.size + extra)).max())
    assert found == pytest.approx(min(_heaviest_slots(loads, extra)))


def _heaviest_slots(loads: list[int], extra: int) -> list[float]:
    if len(loads) == 1:
        return [loads[0] / (1 + extra)]
    return [
        max(loads[0] / (1 + own), rest)
        for own in range(extra + 1)
        for rest in (min(_heaviest_slots(loads[1:], extra - own)),)
    ]
