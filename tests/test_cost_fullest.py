"""The fullest expert-parallel rank: closed forms against draws, and what placement is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apexsim.cost.fullest import expected_maximum, mean_load, rank_load
from apexsim.cost.graph import cut_of, stage_operators
from apexsim.cost.memory import stage_weight_bytes
from apexsim.cost.operators import GroupedGemm
from apexsim.cost.routing import SERVING, TILES, expert_load
from apexsim.errors import ApexsimError, InputError
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Pool

DEEPSEEK = GroupedGemm("experts", 7168, 2048, 256, 32, 8, True, "fp8-block", 1, routing="uniform")
"""Eight ranks."""


def at(op: GroupedGemm, tokens: float) -> tuple[float, float]:
    load = rank_load(np.array([tokens]), op)
    return float(load.rows[0]), float(load.touched[0])


@pytest.mark.parametrize(("tokens", "ranks"), [(4, 8), (64, 8), (1024, 8), (64, 32), (500, 2)])
def test_the_fullest_rank_is_the_mean_of_the_maxima_of_draws(tokens: int, ranks: int) -> None:
    random = np.random.default_rng(1)
    pairs, touched = [], []
    for _ in range(400):
        chosen = random.random((tokens, 256)).argpartition(8, axis=1)[:, :8]
        count = np.bincount(chosen.ravel(), minlength=256).reshape(ranks, -1)
        pairs.append(count.sum(axis=1).max())
        touched.append((count > 0).sum(axis=1).max())
    found = at(replace(DEEPSEEK, local_experts=256 // ranks), tokens)
    assert found == pytest.approx((np.mean(pairs), np.mean(touched)), rel=0.03)


def test_the_maximum_of_one_is_its_mean_and_of_more_is_more() -> None:
    mean, variance = np.array([[5.0]]), np.array([[4.0]])
    assert expected_maximum(mean, variance)[0] == 5.0
    of_two, of_ten = (float(expected_maximum(np.full((1, n), 5.0), np.full((1, n), 4.0))[0]) for n in (2, 10))
    assert 5.0 < of_two < of_ten
    assert of_two == pytest.approx(5.0 + 2.0 / np.sqrt(np.pi), rel=0.02)  # two normals: σ / √π above the mean


def test_one_rank_is_priced_as_ever() -> None:
    tokens = np.arange(1.0, 600.0)
    for routing, same in ((SERVING, "zipf_1"), ("uniform", "uniform"), ("balanced", "balanced")):
        alone = replace(DEEPSEEK, local_experts=256, routing=routing)
        for found, before in zip(rank_load(tokens, alone)[:2], expert_load(tokens, 256, 8, 256, same)[:2], strict=True):
            assert (found == before).all()


def test_what_benchmarks_deal_is_the_load_of_the_rank_that_they_time() -> None:
    tokens = np.array([64.0, 512.0])
    dealt = replace(DEEPSEEK, routing="power_law_1.2")
    assert (rank_load(tokens, dealt).rows == expert_load(tokens, 256, 8, 32, "power_law_1.2").rows).all()


@pytest.mark.parametrize("routing", ["uniform", "zipf_0.7", SERVING])
def test_the_fullest_has_at_least_the_mean_and_at_most_all(routing: str) -> None:
    tokens = np.array([1.0, 7.0, 100.0, 5000.0, 3e6])
    op = replace(DEEPSEEK, routing=routing)
    most, mean = rank_load(tokens, op), mean_load(tokens, op)
    assert (most.rows >= mean.rows * (1 - 1e-9)).all()
    assert (most.touched >= mean.touched * (1 - 1e-9)).all()
    assert (most.touched <= 32).all()
    assert (most.rows <= 8 * tokens).all()
    assert (np.diff(most.rows) > 0).all()
    assert all((most.padded[tile] >= most.rows).all() for tile in TILES)


def test_many_tokens_even_out_unless_experts_are_unequally_popular() -> None:
    few, many = (at(DEEPSEEK, tokens)[0] / tokens for tokens in (16, 1e6))
    assert few > 1.2 * many
    assert many == pytest.approx(1.0, rel=0.01)
    assert at(replace(DEEPSEEK, routing="zipf_1"), 1e6)[0] / 1e6 > 1.6


def test_copies_and_packing_even_the_ranks_out() -> None:
    skewed = replace(DEEPSEEK, local_experts=8, routing=SERVING)
    packed = replace(skewed, placement="balanced")
    copied = replace(packed, redundant=32, local_experts=9)
    loads = [at(op, 1e5)[0] / (1e5 * 8 / 32) for op in (skewed, packed, copied)]
    assert loads[0] == pytest.approx(2.0, abs=0.2)
    assert loads[0] > loads[1] >= loads[2] - 1e-3
    assert loads[2] < 1.1


def test_measured_counts_replace_the_law(tmp_path: Path) -> None:
    even, heavy = tmp_path / "even.txt", tmp_path / "heavy.json"
    even.write_text("# tokens\n" + ",".join(["7"] * 256) + "\n")
    counts = [1000.0] * 32 + [100.0] * 224
    heavy.write_text(str([counts, counts]))
    assert at(replace(DEEPSEEK, routing=f"counts:{even}"), 512) == pytest.approx(at(DEEPSEEK, 512), rel=1e-6)
    rows, _ = at(replace(DEEPSEEK, routing=f"counts:{heavy}"), 1e6)
    assert rows == pytest.approx(8e6 * 32_000 / sum(counts), rel=0.01)  # the popular ones lie on the first rank
    spread, _ = at(replace(DEEPSEEK, routing=f"counts:{heavy}", placement="balanced"), 1e6)
    assert spread == pytest.approx(1e6, rel=0.01)
    alone, _ = at(replace(DEEPSEEK, routing=f"counts:{heavy}", local_experts=256), 64)
    assert alone == pytest.approx(64 * 8)


def test_counts_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    for text, reason in (("1,2,3\n", "3 counts a layer: the model has 256"), ("a b\n", "equally many for each layer"),
                         (",".join(["0"] * 256), "some of each layer more")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=reason):
            rank_load(np.array([1.0]), replace(DEEPSEEK, routing=f"counts:{path}", redundant=0, nodes=len(text)))


def test_a_plan_says_how_popular_experts_are_and_where_they_lie() -> None:
    spec = catalog.model("DeepSeek-V3")

    def experts(**keys: object) -> GroupedGemm:
        pool = parse(Pool, {"tp": 8, "ep": 8, "experts": keys}, source="test")
        return next(op for op in stage_operators(spec, cut_of(spec, pool), 0) if isinstance(op, GroupedGemm))

    assert experts().routing == SERVING
    assert experts(routing="balanced").routing == "uniform"
    assert experts(routing={"zipf": 0.7}).routing == "zipf_0.7"
    found = experts(redundant_experts=16, placement="balanced")
    assert (found.local_experts, found.ranks, found.redundant, found.placement) == (34, 8, 16, "balanced")
    with pytest.raises(ApexsimError, match="did you mean balanced"):
        experts(routing="balancd")


def test_memory_holds_the_redundant_copies() -> None:
    spec = catalog.model("DeepSeek-V3")
    plain, more = (cut_of(spec, parse(Pool, {"tp": 8, "ep": 8, "experts": keys}, source="test"))
                   for keys in ({}, {"redundant_experts": 8}))  # fmt: skip
    one = 3 * 7168 * 2048
    added = stage_weight_bytes(spec, more, 0) - stage_weight_bytes(spec, plain, 0)
    assert 58 * one <= added <= 58 * one * 1.01  # fp8 with a scale a block


def test_copies_that_cannot_be_are_refused() -> None:
    spec = catalog.model("DeepSeek-V3")

    def reason(**keys: object) -> str:
        return check_pool(spec, parse(Pool, keys, source="test")) or ""

    assert "with ep=1 every device has all 256 experts" in reason(tp=8, experts={"redundant_experts": 8})
    assert "256 experts and 3 redundant ones" in reason(tp=8, ep=8, experts={"redundant_experts": 3})
    assert not reason(tp=8, ep=8, experts={"redundant_experts": 8, "placement": "balanced"})
