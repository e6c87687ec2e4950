"""Racing: short replays first, and full ones only for plans that may still win by more than the tolerance.

    1. *Seeds*: the most promising plans of unlike makes, by each goal, are replayed in full.
    2. *Proof*: a plan whose bounds are worse than the best so far for every goal is out (as in the grid).
    3. *Trials*: every other plan is replayed on a short trace at rates around that which it must serve to be better
       than the best plan of a goal; plans of two pools by their pools apart. A short run begins with empty queues, so
       it flatters: a plan that surely fails the SLO in it fails in a full one. (The other way round is not true: a
       plan that does better than another in a short run need not do so in a full one. So no plan is out for being
       worse than the best one there.) Latencies are compared at the search's rate on the same requests.
    4. Who stays has a longer trial, as a whole, and then a full replay, those that seem to sustain most first; a new
       best plan raises the bar for the others. Where very many stay, only so many go on (``Round.places``), first one
       of each make; the rest is *cut*, and the result says how many.

So the best by each goal (``goals.py``) is within ``TOLERANCE`` of that of an exhaustive search, as
sure as the confidence of the trials, unless plans were cut, which trials could not tell from the best. Places behind
the first, and the inside of the Pareto front, are those of the plans that were replayed in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from apexsim.search.apart import comes_apart
from apexsim.search.figures import Figure
from apexsim.search.goals import AT_OWN_RATE, Goal, goals_of, where_prices_differ
from apexsim.search.ladder import LADDER, NEAR, near, rungs, sustained, worst
from apexsim.search.outcome import Candidate, Evaluation
from apexsim.search.pareto import AXES, Axes
from apexsim.search.strategies import Grid
from apexsim.search.trial import STEP, Measured, Request, Trial, less_than, misses, surely_fails
from apexsim.spec.plan import Plan, Pool, Scheduler

TOLERANCE = 0.01
"""A plan that is better by less may be left out."""

NOISE = 0.005
"""Of the difference in energy between two plans that are replayed on the same requests."""


SMOOTH = 1.15
"""A pool that prefills hands requests on more evenly than they come; so much more the other may then sustain."""


class Round(NamedTuple):
    """Trials of so many requests; so many plans go on at most. Where more are left, the best by each goal do, in turn.

    ``apart``: pools are replayed each alone, once for all plans that they stand in.
    """

    requests: int
    places: int
    apart: bool = False


ROUNDS = (Round(1500, 96, apart=True), Round(4000, 16))

SEEDS, FULL = 2, 8
"""Seeds of each goal; full replays between two looks at who is still in."""


class Race(Grid):
    """A grid that asks for trials first; where nobody makes them it is the grid itself."""

    def __init__(self, candidates: Sequence[Candidate], objective: Figure, keep: int, axes: Axes = AXES) -> None:
        super().__init__(candidates, objective, keep, axes)
        self.tried_plans: set[str] = set()
        self.seeds = SEEDS
        self.target = 0.9
        self.cut = 0  # plans that trials did not exclude, for which there was no place
        self._rate_rps = 1.0
        self._goals = goals_of(objective, axes)
        self._all = {candidate.id: candidate for candidate in candidates}
        self._best: dict[str, Evaluation] = {}  # by goal
        self._trials: dict[tuple[int, bool, str], Trial] = {}  # by requests, and whether of the pools apart
        self._apart = False
        self._racing = False
        self._waiting: list[Candidate] = []  # those whose trials of a round are due
        self._stay: list[Candidate] = []
        self._round = 0

    def at(
        self, rate_rps: float, target: float, *, apart: bool = False,
        usd_per_hour: Callable[[Plan], float | None] = lambda plan: None,
    ) -> Race:  # fmt: skip
        """The rate of the search, at which latency is compared, and the attainment that the SLO asks for.

        ``apart``: trials of plans of two pools may be made of their pools'. ``usd_per_hour``: of a plan, where known.
        """
        self._rate_rps, self.target, self._apart = rate_rps, target, apart
        price = where_prices_differ((candidate.plan for candidate in self._all.values()), usd_per_hour)
        self._goals = goals_of(self._objective, self._axes, price)
        return self

    # --- what to do next --------------------------------------------------------------------------------------------

    def trials(self) -> Sequence[Request]:
        """The trials to make before the next ``ask``; empty where there are none."""
        if not self._racing:
            self._racing = True
            self._waiting = self._open
            self._open = self._seeds()
            seeds = {candidate.id for candidate in self._open}
            self._waiting = [candidate for candidate in self._waiting if candidate.id not in seeds]
            return ()
        if self._open or not self._best:
            return ()  # nobody to compare with: everything is replayed in full
        while True:
            if new := self._of_the_best():
                return new
            if asked := self._next_trials():
                return asked
            if not self._advance():
                return ()

    def tried(self, made: Sequence[Trial]) -> None:
        """What the trials showed, in the order in which they were asked for."""
        for trial in made:
            self._trials[(self._now.requests, trial.apart, trial.id)] = trial
            self.tried_plans.add(trial.id)

    def ask(self) -> Sequence[Candidate]:
        if not self._racing:
            return super().ask()
        wave, self._open = self._open[: self._wave], self._open[self._wave :]
        if not wave and not self._best:  # no seed is feasible: go on with all, in the order of their bounds
            wave, self._waiting = self._waiting[: self._wave], self._waiting[self._wave :]
        return wave

    def tell(self, reached: Mapping[str, Evaluation | None]) -> None:
        super().tell(reached)
        if not self._racing:
            return
        for evaluation in sorted((e for e in reached.values() if e is not None), key=lambda e: e.id):
            for goal in self._goals:
                before = self._best.get(goal.name)
                value = goal.value(evaluation)
                if np.isfinite(value) and (before is None or value < goal.value(before)):
                    self._best[goal.name] = evaluation

    # --- rounds -----------------------------------------------------------------------------------------------------

    def _seeds(self) -> list[Candidate]:
        """By each goal the best bounds, one of each make of pools: bounds tell variants of one make badly apart."""
        chosen: dict[str, Candidate] = {}
        for goal in self._goals:
            makes: set[object] = set()
            for candidate in sorted(self._waiting, key=lambda c: (goal.bound(c.bounds, c.plan), c.id)):
                make = tuple((pool.role, pool.device, pool.tp, pool.pp, pool.dp > 1) for pool in candidate.plan.pools)
                if make not in makes:
                    makes.add(make)
                    chosen[candidate.id] = candidate
                if len(makes) == self.seeds:
                    break
        return list(chosen.values())

    def _of_the_best(self) -> list[Request]:
        """The best plans of every goal have to show first what they do on the short trace."""
        missing = {e.id: e for e in self._best.values() if self._calibrated(e) is None}
        return [
            Request(self._all[name], self._now.requests, (self._rate_rps, STEP * e.goodput_rps))
            for name, e in sorted(missing.items())
        ]

    def _calibrated(self, evaluation: Evaluation) -> Trial | None:
        trial = self._trials.get((self._now.requests, False, evaluation.id))
        return trial if trial is not None and (self._rate_rps in trial.at or trial.failed) else None

    @property
    def _now(self) -> Round:
        return ROUNDS[self._round]

    def _parted(self, candidate: Candidate) -> bool:
        """Whether its trials in this round are made of its pools'."""
        return self._apart and self._now.apart and comes_apart(candidate.plan)

    def _trial_of(self, candidate: Candidate) -> Trial | None:
        """In this round, or in one before it with as many requests."""
        return self._trials.get((self._now.requests, self._parted(candidate), candidate.id))

    def _next_trials(self) -> list[Request]:
        asked: list[Request] = []
        waiting, self._waiting = self._waiting, []
        for candidate in waiting:
            request = self._request(candidate)
            if request is None:
                self._out(candidate, proven=True)
                continue
            self._stay.append(candidate)
            before = self._trial_of(candidate)
            if before is None or not set(request.rates_rps) <= before.at.keys():
                asked.append(request)
        return asked

    def _advance(self) -> bool:
        """All trials of a round are made: who stays is tried longer, or replayed in full; False where a wave is due."""
        stay, self._stay = self._stay, []
        left: dict[str, dict[str, float]] = {}
        for candidate in stay:
            trial = self._trial_of(candidate)
            assert trial is not None, f"{candidate.id} stays, but nobody tried it"
            scores = self._scores(candidate, trial)
            if scores:
                left[candidate.id] = scores
            else:
                self._out(candidate, proven=False)
        places = self._in_turn(left)
        for name in places[self._now.places :]:
            self.cut += 1
            self._dropped[name] = (
                f"by trials of {self._now.requests} requests not surely worse than the best plans, but there were "
                f"{self._now.places} more promising ones"
            )
        ranked = [self._all[name] for name in places[: self._now.places]]
        if self._round + 1 < len(ROUNDS):
            self._round += 1
            self._waiting = ranked
            return True
        self._open, self._waiting = ranked[:FULL], ranked[FULL:]
        return False

    def _in_turn(self, left: Mapping[str, Mapping[str, float]]) -> list[str]:
        """The plans, the most promising by each goal in turn: first one of every make, then the second ones, and so
        on. Plans of a make differ in the limits of their schedulers only, and often do the same."""
        lines = []
        for goal in self._goals:
            seen: Counter[tuple[Pool, ...]] = Counter()
            line = []
            in_it = ((scores[goal.name], name) for name, scores in left.items() if goal.name in scores)
            for score, name in sorted(in_it):
                make = make_of(self._all[name].plan)
                line.append((seen[make], score, name))
                seen[make] += 1
            lines.append([name for _, _, name in sorted(line)])
        places = max((len(line) for line in lines), default=0)
        return list(dict.fromkeys(line[k] for k in range(places) for line in lines if k < len(line)))

    def _out(self, candidate: Candidate, *, proven: bool) -> None:
        how = "by its bounds" if proven else f"by trials of {self._now.requests} requests"
        self._dropped[candidate.id] = (
            f"{how} not better by {TOLERANCE:.0%} than the best plan of any goal "
            f"({', '.join(f'{name}: {e.id}' for name, e in self._best.items())})"
        )

    # --- comparisons ------------------------------------------------------------------------------------------------

    def _request(self, candidate: Candidate) -> Request | None:
        """Where a candidate has to be replayed; None where bounds prove that it is out for every goal."""
        open_goals = [goal for goal in self._goals if not self._proven_out(goal, candidate)]
        if not open_goals:
            return None
        light = any(goal.kind in AT_OWN_RATE for goal in open_goals)
        bars = [rate for goal in open_goals if (rate := self._bar_rps(goal, candidate)) is not None]
        rates = (self._rate_rps,) if light or not bars else ()
        before = self._estimate(candidate)
        lowest = min(bars, default=0.0) / (SMOOTH if self._parted(candidate) else 1.0)
        climb = () if not bars else near(lowest, before) if before else rungs(lowest, LADDER * max(bars))
        return Request(candidate, self._now.requests, rates, climb, self._parted(candidate))

    def _estimate(self, candidate: Candidate) -> float | None:
        """Requests/s that a plan sustains by its trial in the round before; 0 or None where nobody can tell."""
        if self._round == 0:
            return None
        before = ROUNDS[self._round - 1]
        apart = self._apart and before.apart and comes_apart(candidate.plan)
        found = self._trials.get((before.requests, apart, candidate.id))
        return None if found is None else sustained(found, self.target)

    def _proven_out(self, goal: Goal, candidate: Candidate) -> bool:
        best = self._best.get(goal.name)
        if best is None:
            return True  # nobody can be measured by it: no figure of power, say
        bound, value = goal.bound(candidate.bounds, candidate.plan), goal.value(best)
        if goal.kind == "devices":
            return bound > value  # many plans have as few, and goodput says which of them comes first
        return bound >= value - TOLERANCE * abs(value)

    def _bar_rps(self, goal: Goal, candidate: Candidate) -> float | None:
        """The rate that a candidate must serve to be better than the best plan of a goal by the tolerance."""
        best = self._best.get(goal.name)
        if best is None:
            return None
        if goal.kind == "energy":
            return STEP * best.goodput_rps * candidate.plan.devices / best.plan.devices
        if goal.weight is None:
            return None
        return STEP * best.goodput_rps * goal.weight(candidate.plan) / goal.weight(best.plan)

    def _scores(self, candidate: Candidate, trial: Trial) -> dict[str, float]:
        """How promising a candidate is by each goal that it is not out for, smaller is more."""
        if trial.failed:  # its full replay says why
            return {goal.name: -np.inf for goal in self._goals}
        found = {
            goal.name: self._against(goal, candidate, trial)
            for goal in self._goals if not self._proven_out(goal, candidate)
        }  # fmt: skip
        return {name: score for name, score in found.items() if score is not None}

    def _against(self, goal: Goal, candidate: Candidate, trial: Trial) -> float | None:
        """A relative difference to the best plan of a goal, better is smaller; None where surely not better by the
        tolerance. Infinite figures and missing ones never exclude."""
        best = self._best[goal.name]
        found = self._calibrated(best)
        if found is None or found.failed:
            return 0.0
        if goal.kind in AT_OWN_RATE:
            own, other = trial.at.get(self._rate_rps), found.at.get(self._rate_rps)
            if own is None or other is None:
                return 0.0
            if goal.kind == "devices":
                return self._misses(own)
            if goal.kind == "attainment":
                return less_than(worst(other.attainment) - worst(own.attainment), 0.0)
            usual = float(other.e2e_s.mean())
            return less_than((own.e2e_s - other.e2e_s) / usual, -TOLERANCE)
        return self._under_load(goal, candidate, trial, found)

    def _under_load(self, goal: Goal, candidate: Candidate, trial: Trial, found: Trial) -> float | None:
        """Who surely fails below the bar of a goal fails at it. The rest by what it seems to sustain."""
        bar_rps = self._bar_rps(goal, candidate) or 0.0
        if goal.kind == "energy":
            best = found.at.get(STEP * self._best[goal.name].goodput_rps)
            return 0.0 if best is None else _less_energy(trial, best, bar_rps, self.target)
        reach_rps = bar_rps / SMOOTH if trial.apart else bar_rps
        below = max((rate for rate in trial.at if rate <= reach_rps * (1 + 1e-9)), default=None)
        if below is not None and surely_fails(trial.at[below], self.target):
            return None
        return bar_rps / max(sustained(trial, self.target), 1e-9)

    def _misses(self, own: Measured) -> float | None:
        """How far a plan is from the SLO at most, smaller is better; None where it surely misses it."""
        clauses = misses(own, self.target)
        return None if None in clauses else max(clause for clause in clauses if clause is not None)


def make_of(plan: Plan) -> tuple[Pool, ...]:
    """Its pools, whatever the limits of their schedulers are."""
    return tuple(pool.model_copy(update={"scheduler": Scheduler()}) for pool in plan.pools)


def _less_energy(trial: Trial, best: Measured, bar_rps: float, target: float) -> float | None:
    """None where it burns more on each token at the bar, though it sustains no more; else what it burns next to the
    rate that it seems to sustain. At a higher rate idle power is shared by more, so at most that much less is burnt.
    """
    own = {rate: at.j_per_output_token for rate, at in trial.at.items() if at.j_per_output_token is not None}
    if not own or best.j_per_output_token is None:
        return 0.0
    at_bar = [joules * min(1.0, rate / bar_rps) for rate, joules in own.items() if rate * NEAR >= bar_rps]
    sure = at_bar and surely_fails(trial.at[max(trial.at)], target)
    if sure and min(at_bar) >= (1.0 - NOISE) * best.j_per_output_token:
        return None
    about_rps = sustained(trial, target)
    return own[min(own, key=lambda rate: abs(rate - about_rps))] / best.j_per_output_token
