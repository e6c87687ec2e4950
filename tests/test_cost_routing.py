"""How tokens fall on experts: closed forms against draws, and what the benchmarks deal."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.cost.routing import TILES, expert_load, popularity
from apexsim.errors import UsageError

WORDS = ("uniform", "zipf_1", "balanced", "power_law_1.01", "power_law_1.2", "power_law_1.2:fullest", "balanced:4/2")


def one(tokens: int, experts: int, per_token: int, local: int, routing: str) -> tuple[float, float, dict[int, float]]:
    load = expert_load(np.array([float(tokens)]), experts, per_token, local, routing)
    return float(load.rows[0]), float(load.touched[0]), {tile: float(rows[0]) for tile, rows in load.padded.items()}


@pytest.mark.parametrize(("tokens", "experts", "per_token"), [(5, 256, 8), (60, 128, 8), (3000, 8, 2), (900, 160, 1)])
def test_uniform_loads_are_the_means_of_draws(tokens: int, experts: int, per_token: int) -> None:
    """One expert's tokens are binomial: its rows, whether any, and its whole tiles, over 20,000 draws."""
    drawn = np.random.default_rng(5).binomial(tokens, per_token / experts, 20_000)
    rows, touched, padded = one(tokens, experts, per_token, 1, "uniform")
    assert rows == pytest.approx(tokens * per_token / experts)
    assert touched == pytest.approx((drawn > 0).mean(), abs=0.01)
    for tile in TILES:
        assert padded[tile] == pytest.approx((np.ceil(drawn / tile) * tile).mean(), rel=0.02)


@pytest.mark.parametrize(
    ("experts", "per_token", "exponent"), [(256, 8, 1.0), (8, 2, 1.0), (128, 4, 1.5), (16, 1, 0.0)]
)
def test_popular_experts_are_chosen_as_often_as_all_together_must_be(
    experts: int, per_token: int, exponent: float
) -> None:
    classes = popularity(experts, per_token, exponent)
    assert sum(share * count for share, count in classes) == pytest.approx(per_token)
    assert sum(count for _, count in classes) == experts
    shares = [share for share, _ in classes]
    assert shares == sorted(shares, reverse=True)
    assert max(shares) <= 1.0 + 1e-12


def test_the_more_skewed_the_fewer_experts_are_touched_by_as_many_rows() -> None:
    flat, skewed, steep = (one(32, 128, 4, 128, word) for word in ("uniform", "zipf_1", "zipf_1.5"))
    assert flat[0] == pytest.approx(skewed[0]) == pytest.approx(steep[0]) == 32 * 4
    assert flat[1] > 1.3 * skewed[1] > 1.3 * steep[1]
    assert one(100_000, 128, 4, 128, "zipf_1")[1] == pytest.approx(128)
    assert one(32, 128, 4, 128, "zipf_0")[1] == pytest.approx(flat[1])


def test_zipf_loads_are_the_means_of_draws() -> None:
    """Each expert for itself, without classes: 1 - (1 - p)^n summed over a law of rank^-1."""
    share = 4 / np.arange(1, 65) / (1 / np.arange(1, 65)).sum()
    assert one(20, 64, 4, 64, "zipf_1")[1] == pytest.approx((1 - (1 - share) ** 20).sum(), rel=0.02)


def test_a_rank_of_an_expert_parallel_group_has_its_share() -> None:
    whole, quarter = one(512, 64, 4, 64, "uniform"), one(512, 64, 4, 16, "uniform")
    assert whole[0] == 4 * quarter[0] == 512 * 4
    assert whole[1] == pytest.approx(4 * quarter[1])


def test_balanced_tokens_by_hand() -> None:
    """Eight experts, two a token: token t takes experts t and t + 4. Four tokens touch each expert once."""
    assert one(4, 8, 2, 8, "balanced")[:2] == (8.0, 8.0)
    assert one(1, 8, 2, 8, "balanced")[:2] == (2.0, 2.0)
    assert one(1, 8, 2, 4, "balanced")[:2] == (1.0, 1.0)  # experts 0 and 4 lie on different ranks
    assert one(40, 8, 2, 1, "balanced") == (10.0, 1.0, {16: 16.0, 64: 64.0, 128: 128.0})


def test_a_power_law_fills_one_rank_more_than_another() -> None:
    """The fullest of 32 ranks has more than its share, the more so the steeper the law; all ranks together have all."""
    share = 4096 * 8 / 32
    flat, mild, steep = (one(4096, 256, 8, 8, routing)[0] for routing in
                         ("balanced", "power_law_1.01", "power_law_1.2"))  # fmt: skip
    assert flat == share
    assert 1.2 * share < mild < steep
    assert one(4096, 256, 8, 256, "power_law_1.2")[0] == 4096 * 8


def test_the_older_benchmark_gives_what_rounding_lost_to_the_first_experts() -> None:
    """One token of eight experts: rounding leaves none, so the older release puts all eight on the first rank."""
    assert one(1, 256, 8, 16, "power_law_1.2:fullest")[0] == 8.0
    assert one(1, 256, 8, 16, "power_law_1.2")[0] == 1.0


def test_a_router_that_keeps_some_groups_of_experts_fills_the_first_rank() -> None:
    """DeepSeek-V3 keeps 4 of 8 groups. Dealt in turn, a token has one expert in each; four of them are replaced by the
    first ones of the groups that are kept. So 4 experts of 256 get every token, beside their share of the rest.
    """
    for tokens in (512, 8192):
        dealt, limited = (one(tokens, 256, 8, 4, routing)[0] for routing in ("balanced", "balanced:8/4"))
        assert dealt == tokens * 8 / 64
        assert limited == pytest.approx(4 * tokens + 4 * tokens / 32, rel=0.05)
    assert one(64, 256, 8, 256, "power_law_1.2:8/4")[0] == 64 * 8


def test_an_unknown_routing_is_one_line() -> None:
    for word in ("zipf", "zipf_", "power_law_steep", "power_law_", "balanced:", "balanced:8"):
        with pytest.raises(UsageError, match="uniform, zipf_1, balanced or power_law_"):
            expert_load(np.ones(1), 8, 2, 8, word)


@settings(max_examples=80, deadline=None)
@given(
    tokens=st.integers(1, 5000), experts=st.sampled_from([8, 60, 128, 384]), per_token=st.integers(1, 8),
    ranks=st.sampled_from([1, 2, 4]), routing=st.sampled_from(WORDS),
)  # fmt: skip
def test_no_load_is_impossible(tokens: int, experts: int, per_token: int, ranks: int, routing: str) -> None:
    """Touched experts exist, hold at least a row each, and padding to larger tiles never takes fewer rows."""
    rows, touched, padded = one(tokens, experts, per_token, experts // ranks, routing)
    assert 0 < touched <= min(experts // ranks, rows) * (1 + 1e-9) or touched == rows == 0
    assert rows <= tokens * per_token * (1 + 1e-9)
    assert rows == tokens * per_token or ranks > 1 or "/" not in routing
    sizes = [rows, *(padded[tile] for tile in TILES)]
    assert all(small <= large * (1 + 1e-6) for small, large in pairwise(sizes))


@settings(max_examples=40, deadline=None)
@given(experts=st.sampled_from([8, 128, 256]), per_token=st.integers(1, 8))
def test_more_tokens_never_load_less(experts: int, per_token: int) -> None:
    load = expert_load(np.arange(1.0, 600.0), experts, per_token, experts)
    for column in (load.rows, load.touched, *load.padded.values()):
        assert (np.diff(column) >= -1e-3 * column[1:]).all()
