"""The contract of a search strategy, as tests. A plug-in inherits it:

    from apexsim.testing.strategy import StrategyContract

    class TestMine(StrategyContract):
        strategies = ("mine",)          # names in the registry; all registered ones where left out

Every strategy must: ask each plan at most once and only plans that it was given; come to an end; account for
every plan (asked or dropped with a reason); find the best plans of an exhaustive search for every objective,
and its Pareto front over any axes; give the same answer each time, in whatever order results come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import pytest

from apexsim import registry
from apexsim.search.figures import FIGURES, Figure
from apexsim.search.outcome import Bounds, Candidate, Evaluation
from apexsim.search.pareto import AXES, Axes, front, rank
from apexsim.search.strategies import Strategy, strategy
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Plan, Pool, Scheduler

INSTANCES = 20


@dataclass(frozen=True)
class Toy:
    """Plans whose results are known beforehand; the bounds are true but loose by a random factor."""

    candidates: tuple[Candidate, ...]
    truth: dict[str, Evaluation | None]

    @property
    def feasible(self) -> tuple[Evaluation, ...]:
        return tuple(evaluation for evaluation in self.truth.values() if evaluation is not None)


def toy(seed: int) -> Toy:
    """A random instance of up to 150 plans, with ties, and with plans that miss the SLO."""
    rng = np.random.default_rng(seed)
    cluster = Cluster(device="toy", devices_per_node=8)
    size = int(rng.integers(1, 150))
    candidates, truth = [], {}
    for plan in list(_plans(cluster))[:size]:
        goodput = round(float(plan.devices * rng.uniform(0.2, 1.0)), 1)  # rounded: ties must be broken
        joules = round(float(rng.uniform(0.2, 5.0)), 1)
        dollars = 3.0 * plan.devices / goodput
        latency, attainment = round(float(rng.uniform(1, 20)), 1), min(1.0, float(rng.uniform(0.9, 1.2)))
        loose = rng.uniform(1.0, 1.5, 5)
        bounds = Bounds(
            attainment=min(1.0, attainment * loose[0]),
            goodput_rps=goodput * loose[1],
            latency_s=latency / loose[2],
            j_per_output_token=joules / loose[3],
            usd_per_million_output_tokens=dollars / loose[4],
            binds="device",
        )
        at_goodput: dict[str, float | None] = {
            "attainment": 0.9, "j_per_output_token": joules, "usd_per_million_output_tokens": dollars
        }  # fmt: skip
        summary = {"slo": {"attainment": attainment}, "e2e_s": {"p50": latency}}
        reached = Evaluation(plan, goodput, False, at_goodput, summary, "compute", "toy")
        candidates.append(Candidate(plan, bounds))
        truth[plan.id] = reached if rng.random() < 0.8 else None
    return Toy(tuple(candidates), truth)


def _plans(cluster: Cluster) -> Iterator[Plan]:
    degrees, tokens_of_iteration, running = (1, 2, 4, 8), (512, 2048, 8192), (64, 128, 256, 512)
    for replicas, tp, tokens, seqs in product(degrees, degrees, tokens_of_iteration, running):
        scheduler = Scheduler(max_num_batched_tokens=tokens, max_num_seqs=seqs)
        yield Plan(model="toy", cluster=cluster, pools=(Pool(replicas=replicas, tp=tp, scheduler=scheduler),))


def play(asked: Strategy, toy: Toy, *, reverse: bool = False) -> list[str]:
    """Ask until nothing more is asked for, and tell the truth; the ids in the order they were asked."""
    order: list[str] = []
    for _ in range(len(toy.candidates) + 1):
        wave = [candidate.id for candidate in asked.ask()]
        if not wave:
            return order
        order += wave
        finished: Sequence[str] = wave[::-1] if reverse else wave
        asked.tell({name: toy.truth[name] for name in finished})
    raise AssertionError("the strategy asks for ever")


def _named(axes: Axes) -> str:
    return ",".join(axis.name for axis in axes)


class StrategyContract:
    """Inherit and collect with pytest."""

    strategies: tuple[str, ...] = registry.names("strategies")

    @pytest.fixture(params=range(INSTANCES))
    def toy(self, request: pytest.FixtureRequest) -> Toy:
        return toy(request.param)

    def each(self, toy: Toy, objective: Figure, keep: int = 3, axes: Axes = AXES) -> Iterator[Strategy]:
        """Every strategy under test, ready to be asked."""
        for name in self.strategies:
            yield strategy(name)(toy.candidates, objective, keep, axes)

    def test_asks_every_plan_at_most_once_or_says_why_not(self, toy: Toy) -> None:
        for asked in self.each(toy, FIGURES["goodput"]):
            order = play(asked, toy)
            assert len(set(order)) == len(order)
            assert set(order) | set(asked.dropped) == {candidate.id for candidate in toy.candidates}
            assert not set(order) & set(asked.dropped)
            assert all(asked.dropped.values())

    @pytest.mark.parametrize("objective", FIGURES.values(), ids=lambda objective: objective.name)
    def test_finds_the_best_plans_of_an_exhaustive_search(self, toy: Toy, objective: Figure) -> None:
        keep = 3
        for asked in self.each(toy, objective, keep):
            found = [e for e in (toy.truth[name] for name in play(asked, toy)) if e is not None]
            assert [e.id for e in rank(found, objective)[:keep]] == [
                e.id for e in rank(toy.feasible, objective)[:keep]
            ]

    @pytest.mark.parametrize("axes", [AXES, *combinations(FIGURES.values(), 2)][::4], ids=_named)
    def test_finds_the_whole_pareto_front(self, toy: Toy, axes: Axes) -> None:
        for asked in self.each(toy, FIGURES["goodput"], axes=axes):
            found = [e for e in (toy.truth[name] for name in play(asked, toy)) if e is not None]
            assert set(front(found, axes)) == set(front(toy.feasible, axes))

    def test_does_not_depend_on_the_order_of_results(self, toy: Toy) -> None:
        objective = FIGURES["goodput"]
        for one, other in zip(self.each(toy, objective), self.each(toy, objective), strict=True):
            assert play(one, toy) == play(other, toy, reverse=True)
            assert one.dropped == other.dropped
