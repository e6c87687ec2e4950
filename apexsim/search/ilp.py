"""Integer programs, solved the same way everywhere: optimum or gap, ties by a stated order, and why nothing fits.

A ``Program`` is filled with variables and rows and asked to minimise a list of objectives, the first one first: each of
the others chooses among the optima of those before it. Some rows keep a *limit* that a person set (a budget, a stock,
the demand). Where no solution is, ``shortfalls`` says by how much each limit would have to give way, alone if that is
enough, else together: what the literature calls an elastic program (Brown & Graves 1975; Chinneck, Feasibility and
Infeasibility in Optimization, ch. 6).

HiGHS solves, through PuLP, with one thread and a fixed seed: equal programs have equal solutions, unless the time ran
out. Rows are scaled by their largest coefficient, so that a tolerance means the same in watts and in requests.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite

import highspy
import pulp

Terms = Sequence[tuple[float, int]]
"""A linear sum: (coefficient, number of the variable)."""

TIME_LIMIT_S = 60.0
"""Longest that one question may take where nobody says otherwise; what was found until then is told, with its gap."""

RESERVE = 0.2
"""Share of the time that is kept for a smaller program, where the whole one is not done by then."""

RELATIVE_GAP = 1e-7
"""Nearer to its bound than this, a solution is the optimum."""

KEPT = 1e-9
"""The solver keeps scaled rows, and whole numbers, to this. Far below ``TIE``: with HiGHS' own 1e-6 a solution may gain
more by what it breaks than the next objective is given to choose from, and a tie goes to whoever breaks more."""

TIE = 1e-7
"""Solutions whose objectives differ by less than this, relatively, are ties."""

TOLERANCE = 1e-5
"""A solution that breaks a scaled row by more than this is a bug; rounding whole numbers moves rows a little."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a row may give way in where nothing else helps.

    Attributes:
        name: the key that the user wrote, for messages.
        unit: of a shortfall, for messages.
        size: what it allows, in that unit; shortfalls of several limits are compared relative to it.
    """

    name: str
    unit: str
    size: float


@dataclass(frozen=True, slots=True)
class Shortfall:
    """By how much a limit would have to give way.

    Attributes:
        alone: that would be enough.
        least: less would not do; False where the time ran out before that was proven.
    """

    limit: Limit
    by: float
    alone: bool
    least: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What solving a program came to.

    Attributes:
        values: of the variables, whole where they must be; empty where no solution was found.
        objective: the first objective at these values.
        bound: no solution has less than this; -inf where nothing is known.
        impossible: it is proven that there is no solution.
        timed_out: the time limit came before the proof.
        wall_s: seconds that it took.
    """

    values: tuple[float, ...]
    objective: float
    bound: float
    impossible: bool
    timed_out: bool
    wall_s: float = 0.0

    @property
    def found(self) -> bool:
        return bool(self.values)

    @property
    def gap(self) -> float:
        """How much better than the found one a solution might be, relative to it; 0 for a proven optimum."""
        if not self.found or not isfinite(self.bound):
            return inf
        return gap_of(self.objective, self.bound) if self.timed_out else 0.0


def gap_of(value: float, bound: float) -> float:
    """How much less than ``value`` something might be that is not below ``bound``, relative to the value."""
    return max(value - bound, 0.0) / max(abs(value), 1e-12)


@dataclass(frozen=True, slots=True)
class _Row:
    terms: tuple[tuple[float, int], ...]
    least: float
    most: float
    limit: Limit | None = None
    give: float = 0.0  # of the right side, for each unit of the limit's shortfall


class Program:
    """Variables and rows of a mixed-integer program."""

    def __init__(self) -> None:
        self._bounds: list[tuple[float, float, bool]] = []
        self._rows: list[_Row] = []

    def variable(self, low: float = 0.0, high: float = inf, *, whole: bool = False) -> int:
        """The number of a new variable in [low, high]."""
        self._bounds.append((low, high, whole))
        return len(self._bounds) - 1

    def at_most(self, terms: Iterable[tuple[float, int]], most: float, limit: Limit | None = None, give: float = 1.0
                ) -> None:
        """terms ≤ most (+ give · shortfall of the limit)."""
        self._rows.append(_Row(_nonzero(terms), -inf, most, limit, give))

    def at_least(self, terms: Iterable[tuple[float, int]], least: float, limit: Limit | None = None, give: float = 1.0
                 ) -> None:
        """terms ≥ least (− give · shortfall of the limit)."""
        self._rows.append(_Row(_nonzero(terms), least, inf, limit, give))

    def equal(self, terms: Iterable[tuple[float, int]], value: float) -> None:
        """terms = value."""
        self._rows.append(_Row(_nonzero(terms), value, value))

    def solve(self, objectives: Sequence[Terms], time_limit_s: float = TIME_LIMIT_S) -> Outcome:
        """The solution with the least first objective; of several that with the least second one, and so on."""
        began = time.monotonic()
        rows = list(self._rows)
        outcome = _solved(self._bounds, rows, objectives[0], (1 - RESERVE) * time_limit_s)
        if outcome.timed_out:
            outcome = _or_restricted(outcome, self._bounds, rows, objectives[0], RESERVE * time_limit_s)
        first, bound = outcome.objective, outcome.bound
        for before, terms in itertools.pairwise(objectives):
            left = time_limit_s - (time.monotonic() - began)
            if not outcome.found or outcome.timed_out or left <= 0:
                break
            reached = _sum(before, outcome.values)
            rows.append(_Row(tuple(before), -inf, reached + TIE * abs(reached)))
            again = _solved(self._bounds, rows, terms, left)
            if not again.found:
                break  # the time ran out, or rounding closed the door: what is known stays an optimum
            outcome = replace(again, timed_out=False)
        return replace(outcome, objective=first, bound=bound, wall_s=time.monotonic() - began)

    def shortfalls(self, time_limit_s: float = TIME_LIMIT_S) -> tuple[Shortfall, ...]:
        """What would have to give way so that there is a solution.

        Each limit that would do alone, with the least that it needs; where none would, one set of shortfalls that do
        together, the least sum relative to their limits. Empty where limits are not what stands in the way.
        """
        began = time.monotonic()
        limits = list(dict.fromkeys(row.limit for row in self._rows if row.limit is not None))
        alone = []
        for limit in limits:
            found = self._given_way((limit,), max(time_limit_s - (time.monotonic() - began), 1.0))
            alone += [Shortfall(limit, found[0][0], True, found[1])] if found else []
        if alone:
            return tuple(alone)
        together = self._given_way(limits, max(time_limit_s - (time.monotonic() - began), 1.0)) if limits else None
        return tuple(
            Shortfall(limit, by, False, together[1])
            for limit, by in zip(limits, together[0], strict=True)
            if by > TOLERANCE * max(abs(limit.size), 1e-9)
        ) if together else ()

    def _given_way(self, limits: Sequence[Limit], time_limit_s: float) -> tuple[tuple[float, ...], bool] | None:
        """(shortfall of each of ``limits`` where these may give way, whether that is the least); None: no help."""
        slack = {limit: len(self._bounds) + place for place, limit in enumerate(limits)}
        rows = [
            row if row.limit not in slack or row.limit is None else replace(
                row, terms=(*row.terms, (row.give if row.least > -inf else -row.give, slack[row.limit]))
            )
            for row in self._rows
        ]
        bounds = [*self._bounds, *((0.0, inf, False) for _ in limits)]
        wanted = [(1.0 / (abs(limit.size) or 1.0), slack[limit]) for limit in limits]
        outcome = _solved(bounds, rows, wanted, time_limit_s)
        if not outcome.found:
            return None
        return tuple(max(outcome.values[number], 0.0) for number in slack.values()), not outcome.timed_out


def _nonzero(terms: Iterable[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    return tuple((coefficient, variable) for coefficient, variable in terms if coefficient)


def _sum(terms: Terms, values: Sequence[float]) -> float:
    return float(sum(coefficient * values[variable] for coefficient, variable in terms))


def _solved(
    bounds: Sequence[tuple[float, float, bool]], rows: Sequence[_Row], objective: Terms, time_limit_s: float
) -> Outcome:
    if any(not row.terms and not row.least <= 0.0 <= row.most for row in rows):
        return Outcome((), inf, inf, True, False)  # a row without variables: no solver needs to look at it
    began = time.monotonic()
    problem = pulp.LpProblem("apexsim", pulp.LpMinimize)
    made = [
        problem.add_variable(
            f"v{number}", low, None if high == inf else high, pulp.LpInteger if whole else pulp.LpContinuous
        )
        for number, (low, high, whole) in enumerate(bounds)
    ]
    largest = max((abs(coefficient) for coefficient, _ in objective), default=0.0) or 1.0
    problem += _expression(objective or [(0.0, 0)], largest, made)
    for row in rows:
        if row.terms:
            _add(problem, row, made)
    # HiGHS refuses one thread where somebody in this process ran it with more, unless its scheduler begins anew
    getattr(highspy.Highs, "resetGlobalScheduler", lambda blocking: None)(True)
    left = max(time_limit_s - (time.monotonic() - began), 0.01)
    problem.solve(
        pulp.HiGHS(
            msg=False, timeLimit=left, gapRel=RELATIVE_GAP, gapAbs=1e-9, threads=1, random_seed=0,
            primal_feasibility_tolerance=KEPT, mip_feasibility_tolerance=KEPT,
        )
    )
    status = problem.solverModel.getModelStatus()
    timed_out = status == highspy.HighsModelStatus.kTimeLimit
    # of a program without whole variables, HiGHS keeps no bound until it is done
    is_mixed = any(whole for _, _, whole in bounds)
    bound = float(problem.solverModel.getInfo().mip_dual_bound) * largest if is_mixed else -inf
    wall_s = time.monotonic() - began
    # a variable that stands in no row and no objective never reaches the solver
    values = tuple(
        max(low, 0.0) if variable.varValue is None else variable.varValue
        for variable, (low, _, _) in zip(made, bounds, strict=True)
    )
    if problem.status == pulp.LpStatusInfeasible:
        return Outcome((), inf, inf, True, False, wall_s)
    if not timed_out and status not in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kModelEmpty):
        raise RuntimeError(f"HiGHS ended with {status}: the program is not one that it can solve")
    whole = tuple(
        float(round(value)) if is_whole else _clean(min(max(value, low), high))
        for value, (low, high, is_whole) in zip(values, bounds, strict=True)
    )
    if timed_out and not _kept(rows, whole):
        return Outcome((), inf, bound, False, True, wall_s)
    assert _kept(rows, whole), "the solver's solution breaks a row"
    reached = _sum(objective, whole)
    return Outcome(whole, reached, bound if timed_out else reached, False, timed_out, wall_s)


def _or_restricted(
    outcome: Outcome, bounds: Sequence[tuple[float, float, bool]], rows: Sequence[_Row], objective: Terms,
    time_limit_s: float,
) -> Outcome:
    """What was found in time, or the optimum among the whole variables that the relaxation uses, where that is better.

    A relaxation uses few of many candidates, and those are the good ones: a small program, quickly solved. Where
    there is no answer yet, these variables rounded up are one, as long as no limit is reached.
    """
    relaxed = _solved([(low, high, False) for low, high, _ in bounds], rows, objective, time_limit_s / 2)
    if not relaxed.found:
        return outcome
    few = [
        (low, low if whole and value <= low + TOLERANCE else high, whole)
        for value, (low, high, whole) in zip(relaxed.values, bounds, strict=True)
    ]
    restricted = _solved(few, rows, objective, time_limit_s / 2)
    if not restricted.found and not outcome.found:
        up = [float(ceil(value - TOLERANCE)) if whole else None for value, (_, _, whole) in zip(
            relaxed.values, bounds, strict=True
        )]
        rounded = [bound if value is None else (value, value, True) for value, bound in zip(up, bounds, strict=True)]
        restricted = _solved(rounded, rows, objective, time_limit_s / 2)
    if not restricted.found or (outcome.found and outcome.objective <= restricted.objective):
        return outcome
    return replace(restricted, bound=max(outcome.bound, relaxed.bound), impossible=False, timed_out=True)


def _clean(value: float) -> float:
    """What the solver's arithmetic leaves of a zero is one."""
    return 0.0 if abs(value) < 1e-9 else value


def _add(problem: pulp.LpProblem, row: _Row, made: Sequence[pulp.LpVariable]) -> None:
    largest = _largest(row)
    left = _expression(row.terms, largest, made)
    if row.least == row.most:
        problem += left == row.most / largest
    elif row.most < inf:
        problem += left <= row.most / largest
    else:
        problem += left >= row.least / largest


def _expression(terms: Terms, over: float, made: Sequence[pulp.LpVariable]) -> pulp.LpAffineExpression:
    """The sum of the terms over a number; made at once, because adding terms one by one takes longer than solving."""
    sums: dict[int, float] = {}
    for coefficient, variable in terms:
        sums[variable] = sums.get(variable, 0.0) + coefficient / over
    return pulp.LpAffineExpression([(made[variable], coefficient) for variable, coefficient in sums.items()])


def _largest(row: _Row) -> float:
    return max(abs(coefficient) for coefficient, _ in row.terms) or 1.0


def _kept(rows: Sequence[_Row], values: Sequence[float]) -> bool:
    """Whether all rows hold, each to the tolerance times its largest coefficient and the sizes that stand in it."""
    for row in rows:
        if row.terms:
            reached = _sum(row.terms, values)
            size = max(1.0, *(abs(values[variable]) for _, variable in row.terms)) * _largest(row)
            if not row.least - TOLERANCE * size <= reached <= row.most + TOLERANCE * size:
                return False
    return True
