"""The search itself: screen, ask, evaluate, tell, rank.

    phases of plans → reach (executor) → families of plans → screen → candidates | dropped: illegal, memory, slo
    strategy.ask      → evaluate (executor) → evaluations | dropped: slo, failed    → journal, strategy.tell
    rank              → best first; the Pareto front; the rest with their reasons

Results are keyed by plan, never by who finished first, so any executor gives the same answer. Ctrl-C, or workers
that keep dying, end the search early: what is done by then is ranked. Plans that the journal of a killed search holds
are not replayed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from apexsim.errors import UsageError
from apexsim.interrupts import held, is_interrupt
from apexsim.search.combinations import Family, families
from apexsim.search.evaluate import evaluate_all
from apexsim.search.executors import Executor, WorkersLost, batches
from apexsim.search.figures import order
from apexsim.search.journal import Journal
from apexsim.search.learn import Reached, Wanted, killers, learn
from apexsim.search.mishaps import KILLS
from apexsim.search.outcome import Bounds, Candidate, Dropped, Evaluation, outcome_of
from apexsim.search.pareto import front, rank
from apexsim.search.part import Refused
from apexsim.search.patience import Patience
from apexsim.search.problem import Problem
from apexsim.search.prune import Context, phases_of, screen
from apexsim.search.race import TOLERANCE, Race
from apexsim.search.reach import Phase, Reach
from apexsim.search.strategies import Strategy, strategy
from apexsim.search.trade import Trade, compared, trades
from apexsim.search.trials import Trials
from apexsim.spec.units import format_seconds
from apexsim.workload.visual import has_images

KEEP = 30
"""So many of the best plans are exact, whatever else is dropped by its bound."""

NEAREST = 3
"""So many plans that miss the SLO by their bounds are replayed where no plan is left, for what the reader is told."""

SHAPES_AT_ONCE, PLANS_AT_ONCE = 8, 2
"""Items of one task for a worker: enough to outweigh the message, few enough to share out evenly."""

Batch = Sequence[Candidate]
Outcomes = list[Evaluation | Dropped]

RACE_FROM = 1000
"""Candidates from which on ``auto`` races; fewer are all replayed in full, but for those that bounds exclude."""

FAMILIES_AT_ONCE = 4096
"""Families of plans that are looked at before their shapes are compiled: the workers' share is then even."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is: ``done`` of ``total`` in this stage, and the best plan so far."""

    stage: str
    done: int
    total: int | None  # None where nobody knows yet
    best: Evaluation | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer. ``ranked`` is best first; ``dropped`` in the order of the space."""

    problem: Problem
    ranked: tuple[Evaluation, ...]
    dropped: tuple[Dropped, ...]
    pareto: tuple[str, ...]
    wall_s: float
    interruption: str = ""  # why the search ended early; "" where it is complete
    strategy: str = "grid"
    tried: int = 0  # plans that were replayed in short
    trial_requests: int = 0  # of all these replays
    cut: int = 0  # plans that these replays did not exclude, but that had no place in the next round

    @property
    def tolerance(self) -> float:
        """What the best plan may fall short of that of an exhaustive search by, relative."""
        return TOLERANCE if self.strategy == "race" else 0.0

    @property
    def trades(self) -> tuple[Trade, ...]:
        """The best plan by each figure that is shown beside the ranking, and what it gives up in the others."""
        return trades(self.ranked, compared(self.problem.objective, self.problem.axes))

    @property
    def interrupted(self) -> bool:
        """Whether some plans were not looked at."""
        return bool(self.interruption)

    @property
    def crashed(self) -> tuple[Dropped, ...]:
        """Plans that ended in an error of the program, killed their worker, or took too long: nobody knows of them."""
        return tuple(dropped for dropped in self.dropped if dropped.cause in ("failed", "timeout"))

    @property
    def considered(self) -> int:
        return len(self.ranked) + len(self.dropped)

    @property
    def requests_simulated(self) -> int:
        ranked = sum(evaluation.requests_simulated for evaluation in self.ranked)
        return ranked + sum(dropped.requests_simulated for dropped in self.dropped) + self.trial_requests

    def to_dict(self) -> dict[str, Any]:
        """The search JSON (design §7)."""
        found = self.trades
        figures = [trade.figure for trade in found]
        return {
            "plans": [evaluation.to_dict(place) for place, evaluation in enumerate(self.ranked, start=1)],
            "pruned": [dropped.to_dict() for dropped in self.dropped],
            "pareto": list(self.pareto),
            "pareto_axes": [axis.name for axis in self.problem.axes],
            "best_by": {trade.figure.name: trade.best.id for trade in found if trade.best is not None},
            "trade": {trade.figure.name: trade.to_dict(figures) for trade in found},
            "simulation": {
                "wall_s": self.wall_s,
                "plans_considered": self.considered,
                "plans_evaluated": len(self.ranked) + sum(d.requests_simulated > 0 for d in self.dropped),
                "requests_simulated": self.requests_simulated,
                "interrupted": self.interrupted,
                "strategy": self.strategy,
                "tolerance": self.tolerance,
                "plans_tried": self.tried,
                "plans_cut": self.cut,
            },
        }


def search(
    problem: Problem,
    executor: Executor,
    *,
    strategy_name: str = "auto",
    keep: int = KEEP,
    journal: Journal | None = None,
    plan_timeout_s: float | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> SearchResult:
    """Rank the plans of the problem's space.

    Args:
        keep: so many of the best plans, and the Pareto front, are those of an exhaustive search.
        journal: gets a line for each plan that is done; gives back what a killed search has done.
        plan_timeout_s: a plan that takes longer on its processor is dropped; None = as long as it needs.
        on_progress: is called after each result.

    Raises:
        UsageError: ``plan_timeout_s`` is not positive.
    """
    if plan_timeout_s is not None and not plan_timeout_s > 0:
        raise UsageError(f"--plan-timeout {format_seconds(plan_timeout_s)}: must be more than 0s")
    began = time.perf_counter()
    state = _Search(problem, executor, journal, Patience(plan_timeout_s), on_progress)
    strategy(strategy_name)  # an unknown name ends here
    used, interruption = strategy_name, ""
    try:
        with executor:
            state.screen()
            if strategy_name == "auto":
                used = "race" if len(state.candidates) > RACE_FROM else "grid"
            asked = strategy(used)(state.candidates, problem.objective, keep, problem.axes)
            if isinstance(asked, Race):
                asked.at(
                    problem.rate_rps, problem.slo.target, apart=not has_images(problem.trace),
                    usd_per_hour=problem.usd_per_hour,
                )  # fmt: skip
            state.evaluate(asked)
            state.replay_nearest()
        if journal is not None:
            journal.finish()
    except WorkersLost as error:
        interruption = f"interrupted: {error}"
    except (KeyboardInterrupt, Exception) as error:
        if not is_interrupt(error):
            raise
        interruption = "interrupted"
    ranked = rank(state.evaluations, problem.objective)
    wall_s = time.perf_counter() - began
    return SearchResult(
        problem, ranked, state.in_order(state.dropped), front(ranked, problem.axes), wall_s, interruption, used,
        len(state.trials.tried), state.trials.requests, state.cut,
    )  # fmt: skip


class _Search:
    """What is known so far."""

    def __init__(
        self,
        problem: Problem,
        executor: Executor,
        journal: Journal | None,
        patience: Patience,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._context = Context.of(problem)
        self._executor = executor
        self._journal = journal
        self._replay = partial(evaluate_all, self._context, patience=patience)
        self._reach = partial(learn, self._context, patience=patience)
        self._report = on_progress
        self._earlier = {outcome.id: outcome for outcome in _replayed(journal.earlier if journal else ())}
        self._order: dict[str, int] = {}
        self._best: Evaluation | None = None
        self.candidates: list[Candidate] = []
        self.evaluations: list[Evaluation] = []
        self.dropped: list[Dropped] = []
        self.trials = Trials(self._context, executor, patience, self._report_trials)
        self.cut = 0

    def in_order(self, outcomes: Sequence[Dropped]) -> tuple[Dropped, ...]:
        """In the order of the space."""
        return tuple(sorted(outcomes, key=lambda outcome: self._order[outcome.id]))

    def screen(self) -> None:
        """Every plan of the space becomes a candidate or is dropped, as it is made."""
        known: dict[Phase, Reach | Refused] = {}
        made, done = families(self._context.problem.plans()), 0
        while some := list(islice(made, FAMILIES_AT_ONCE)):
            self._learn(some, known)
            for family in some:
                for outcome in screen(self._context, family, known):
                    self._order[outcome.id] = len(self._order)
                    if isinstance(outcome, Candidate):
                        self.candidates.append(outcome)
                    else:
                        self._drop(outcome)
                done += len(family)
                self._report(Progress("screened", done, None))

    def _learn(self, some: Sequence[Family], known: dict[Phase, Reach | Refused]) -> None:
        """What the phases of these plans can reach, where it is not ``known``: the executor's work."""
        new = [
            (phase, tuple(sorted(counts))) for phase, counts in phases_of(some).items()
            if not (isinstance(before := known.get(phase), Refused) or (before and counts <= before.best.keys()))
        ]  # fmt: skip
        for phase, reach in self._reached(new):
            before = known.get(phase)
            if isinstance(before, Reach) and isinstance(reach, Reach):
                reach = replace(reach, best=before.best | reach.best)
            known[phase] = reach

    def _reached(self, new: Sequence[Wanted]) -> Iterator[Reached]:
        """Of each phase, as it is known; one that kills its worker each time is refused."""
        suspects: list[Wanted] = []
        some = batches(new, SHAPES_AT_ONCE)
        for reached in self._executor.run(self._reach, some, lost=partial(_set_aside, suspects)):
            yield from reached
        for reached in self._executor.run(self._reach, batches(suspects, 1), lost=killers):
            yield from reached

    def evaluate(self, asked: Strategy) -> None:
        """Replay what the strategy asks for, until it asks for nothing more."""
        total, done = len(self.candidates), 0
        candidates = {candidate.id: candidate for candidate in self.candidates}
        while wave := self._next_wave(asked):
            # the longest replays first, so that no worker is left with one at the end
            by_length = sorted(wave, key=_longest_first)
            reached: dict[str, Evaluation | None] = {}
            for outcome in self._outcomes(by_length):
                reached[outcome.id] = outcome if isinstance(outcome, Evaluation) else None
                done += 1
                self._report(Progress("replayed", done, total - len(asked.dropped), self._best))
            asked.tell({candidate.id: reached[candidate.id] for candidate in wave})
        self.cut = asked.cut if isinstance(asked, Race) else 0
        for name, reason in asked.dropped.items():
            self._drop(Dropped(candidates[name].plan, "race" if name in self.trials.tried else "bound", reason))

    def _report_trials(self, stage: str, done: int) -> None:
        self._report(Progress(stage, done, len(self.candidates), self._best))

    def _next_wave(self, asked: Strategy) -> Sequence[Candidate]:
        """What to replay in full next, after the trials that a race makes first."""
        if isinstance(asked, Race):
            while wanted := asked.trials():
                asked.tried(self.trials.make(wanted))
        return asked.ask()

    def _outcomes(self, wave: Sequence[Candidate]) -> Iterator[Evaluation | Dropped]:
        """Of each plan, as it is done and written down."""
        for candidate in wave:
            if candidate.id in self._earlier:
                yield self._keep(self._earlier[candidate.id])
        new = [candidate for candidate in wave if candidate.id not in self._earlier]
        suspects: list[Candidate] = []
        for outcome in self._replays(batches(new, PLANS_AT_ONCE), partial(_set_aside, suspects)):
            yield self._keep(outcome)
        for outcome in self._replays(batches(suspects, 1), _killers):
            yield self._keep(outcome)

    def _replays(self, batches: Sequence[Batch], lost: Callable[[Batch], Outcomes]) -> Iterator[Evaluation | Dropped]:
        """Of all plans of the batches; ``lost`` says what becomes of a batch that kills its worker each time."""
        for outcomes in self._executor.run(self._replay, batches, lost=lost):
            yield from outcomes

    def replay_nearest(self) -> None:
        """Where bounds alone say that every plan misses the SLO: a few replays say what really binds the nearest."""
        misses = [dropped for dropped in self.dropped if dropped.cause == "slo"]
        if self.evaluations or any(dropped.requests_simulated for dropped in misses):
            return
        nearest = sorted(misses, key=lambda dropped: dropped.distance)[:NEAREST]
        for outcome in self._outcomes([Candidate(dropped.plan, Bounds()) for dropped in nearest]):
            self.dropped = [dropped for dropped in self.dropped if dropped.id != outcome.id or dropped is outcome]

    def _keep(self, outcome: Evaluation | Dropped) -> Evaluation | Dropped:
        with held():  # what is ranked is in the journal too
            if isinstance(outcome, Dropped):
                self._drop(outcome)
                return outcome
            objective = self._context.problem.objective
            self.evaluations.append(outcome)
            if self._best is None or order(outcome, objective) < order(self._best, objective):
                self._best = outcome
            self._note(outcome)
            return outcome

    def _drop(self, outcome: Dropped) -> None:
        self.dropped.append(outcome)
        self._note(outcome)

    def _note(self, outcome: Evaluation | Dropped) -> None:
        if self._journal is not None and outcome.id not in self._earlier:
            replayed = isinstance(outcome, Evaluation) or outcome.requests_simulated > 0
            self._journal.write(outcome.to_entry(), sync=replayed)  # what took no replay is soon done again


def _replayed(entries: Iterable[dict[str, Any]]) -> Iterator[Evaluation | Dropped]:
    """What a journal holds of plans that were replayed; the screening is quick, and a crash may not come again."""
    for entry in entries:
        outcome = outcome_of(entry)
        if isinstance(outcome, Evaluation) or (outcome.cause in ("slo", "goodput") and outcome.requests_simulated):
            yield outcome


def _set_aside(suspects: list[Any], batch: Sequence[Any]) -> list[Any]:
    """One of the batch kills its worker; which one is found by doing each alone."""
    suspects.extend(batch)
    return []


def _killers(batch: Batch) -> Outcomes:
    return [Dropped(candidate.plan, "failed", KILLS) for candidate in batch]


def _longest_first(candidate: Candidate) -> tuple[int, int, str]:
    """Several pools, and long pipelines, take longest to replay."""
    pools = candidate.plan.pools
    return (-len(pools), -max(pool.pp for pool in pools), candidate.id)


