"""The wrapper around the solver: optima, ties, gaps, and what stands in the way where there is no solution."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import inf

import highspy
import numpy as np
import pulp
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from apexsim.search import ilp
from apexsim.search.ilp import Limit, Outcome, Program
from apexsim.search.shortfall import told


def test_textbook_instances():
    """Reddy Mikks in whole units (Taha, Operations Research, §9.2), and Winston's 5x + 8y (§9.3)."""
    program = Program()
    x, y = program.variable(whole=True), program.variable(whole=True)
    program.at_most([(6, x), (4, y)], 24)
    program.at_most([(1, x), (2, y)], 6)
    outcome = program.solve([[(-5, x), (-4, y)]])
    assert (outcome.values, outcome.objective) == ((4.0, 0.0), -20.0)
    program = Program()
    x, y = program.variable(whole=True), program.variable(whole=True)
    program.at_most([(1, x), (1, y)], 6)
    program.at_most([(5, x), (9, y)], 45)
    outcome = program.solve([[(-5, x), (-8, y)]])
    assert (outcome.values, outcome.objective, outcome.gap) == ((0.0, 5.0), -40.0, 0.0)


coefficients = st.lists(st.integers(-5, 9), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(coefficients, st.lists(st.tuples(coefficients, st.integers(-3, 25)), min_size=1, max_size=3), st.booleans())
def test_small_programs_have_the_optimum_of_brute_force(cost, rows, cover):
    program = Program()
    numbers = [program.variable(0, 4, whole=True) for _ in cost]
    for terms, right in rows:
        add = program.at_least if cover else program.at_most
        add(list(zip(map(float, terms), numbers, strict=True)), right)
    outcome = program.solve([list(zip(map(float, cost), numbers, strict=True))])

    def kept(point) -> bool:
        sums = [np.dot(terms, point) for terms, _ in rows]
        return all((s >= r) if cover else (s <= r) for s, (_, r) in zip(sums, rows, strict=True))

    allowed = [point for point in itertools.product(range(5), repeat=3) if kept(point)]
    assert outcome.impossible == (not allowed)
    if allowed:
        assert outcome.objective == min(np.dot(cost, point) for point in allowed)
        assert kept(outcome.values)


def test_ties_go_to_the_next_objective():
    program = Program()
    x, y, z = (program.variable(0, 9, whole=True) for _ in range(3))
    program.at_least([(1, x), (1, y), (1, z)], 5)
    together = [(1.0, x), (1.0, y), (1.0, z)]
    assert program.solve([together, [(1.0, x), (1.0, y)]]).values == (0.0, 0.0, 5.0)
    assert program.solve([together, [(1.0, z)], [(1.0, x)]]).values == (0.0, 5.0, 0.0)
    assert program.solve([together, [(1.0, z)], [(1.0, y)]]).objective == 5.0


def impossible() -> Program:
    """At least 10 of x, of which a budget buys 6 and a stock holds 8."""
    program = Program()
    x = program.variable(whole=True)
    program.at_least([(1.0, x)], 10, Limit("demand", "share", 1.0), give=10)
    program.at_most([(2.0, x)], 12, Limit("budget", "USD", 12))
    program.at_most([(1.0, x)], 8, Limit("stock", "devices", 8))
    return program


def test_a_limit_that_would_do_alone_is_told_with_the_least_that_it_needs():
    assert impossible().solve([[(1.0, 0)]]).impossible
    (only,) = impossible().shortfalls()
    assert (only.limit.name, only.alone) == ("demand", True)
    assert only.by == pytest.approx(0.4)
    assert told((only,)) == "it takes 40 % less demand"


def test_limits_that_only_help_together_are_told_together():
    program = Program()
    x = program.variable(whole=True)
    program.at_least([(1.0, x)], 10)
    program.at_most([(2.0, x)], 12, Limit("budget", "USD", 12))
    program.at_most([(1.0, x)], 8, Limit("stock", "devices", 8))
    found = program.shortfalls()
    assert {(s.limit.name, round(s.by, 6), s.alone) for s in found} == {("budget", 8, False), ("stock", 2, False)}
    assert told(found).startswith("it takes all of: budget 20 USD instead of 12 (short by 8); stock 10 devices")


def test_limits_that_need_not_give_way_are_not_told_beside_those_that_must():
    program = Program()
    x = program.variable(whole=True)
    program.at_least([(1.0, x)], 10)
    program.at_most([(2.0, x)], 12, Limit("budget", "USD", 12))
    program.at_most([(1.0, x)], 8, Limit("stock", "devices", 8))
    program.at_most([(1.0, x)], 50, Limit("room", "devices", 50))
    assert [short.limit.name for short in program.shortfalls()] == ["budget", "stock"]


def test_a_row_without_variables_stands_in_the_way_like_any_other():
    program = Program()
    x = program.variable(0, 1)
    program.at_least([(0.0, x)], 2, Limit("demand", "share", 1.0), give=2)
    assert program.solve([[(1.0, x)]]).impossible
    (short,) = program.shortfalls()
    assert (short.limit.name, short.by) == ("demand", pytest.approx(1.0))


def test_where_the_time_ran_out_ties_are_left_as_they_are(monkeypatch):
    """Only an optimum is worth asking a second question of; and the answer still says that the time ran out."""
    made, real = [], ilp._solved

    def solved(*question):
        made.append(question)
        return replace(real(*question), timed_out=True)

    monkeypatch.setattr(ilp, "_solved", solved)
    program = Program()
    x, y = program.variable(0, 3, whole=True), program.variable(0, 3, whole=True)
    program.at_least([(1.0, x), (1.0, y)], 3)
    outcome = program.solve([[(1.0, x), (1.0, y)], [(1.0, x)]])
    assert outcome.timed_out
    assert all(question[2] == [(1.0, x), (1.0, y)] for question in made)


def test_rows_that_may_not_give_way_leave_nothing_to_tell():
    program = Program()
    x = program.variable(0, 3, whole=True)
    program.at_least([(1.0, x)], 4)
    assert program.solve([[(1.0, x)]]).impossible
    assert program.shortfalls() == ()
    assert told(()) == "no limit that could give way would help"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 4))
def test_a_shortfall_is_the_least_that_lets_a_solution_in(need, stock, each):
    """At least ``need`` of x, each of which takes ``each`` of the stock."""
    assume(need * each > stock)

    def program(more: float) -> Program:
        made = Program()
        x = made.variable(whole=True)
        made.at_least([(1.0, x)], need)
        made.at_most([(float(each), x)], stock + more, Limit("stock", "devices", stock))
        return made

    (short,) = program(0).shortfalls()
    assert short.by == pytest.approx(need * each - stock)
    assert program(short.by).solve([[(1.0, 0)]]).found
    assert program(short.by - 0.5).solve([[(1.0, 0)]]).impossible


def market_split(rows: int, columns: int) -> Program:
    """Small and notoriously hard (Cornuéjols & Dawande, IPCO 1998)."""
    random = np.random.default_rng(4)
    sizes = random.integers(0, 100, (rows, columns))
    program = Program()
    taken = [program.variable(0, 1, whole=True) for _ in range(columns)]
    for row in sizes:
        over, under = program.variable(), program.variable()
        terms = list(zip(row.astype(float).tolist(), taken, strict=True))
        program.equal([*terms, (1.0, over), (-1.0, under)], float(row.sum() // 2))
    return program


def test_where_the_time_runs_out_the_gap_is_told():
    program = market_split(5, 40)
    outcome = program.solve([[(1.0, number) for number in range(40, 50)]], time_limit_s=0.3)
    assert outcome.timed_out
    assert not outcome.impossible
    if outcome.found:
        assert outcome.bound <= outcome.objective
        assert outcome.gap == (outcome.objective - outcome.bound) / outcome.objective > 0


def test_equal_programs_have_equal_solutions():
    assert len({market_split(3, 12).solve([[(1.0, number) for number in range(12, 18)]]).values for _ in range(3)}) == 1


def test_a_solver_that_ran_with_more_threads_before_does_no_harm():
    """HiGHS keeps the threads of its first run, and refuses another number."""
    problem = pulp.LpProblem("before", pulp.LpMinimize)
    x = problem.add_variable("x", 0, 4, pulp.LpInteger)
    problem += pulp.lpSum([x])
    getattr(highspy.Highs, "resetGlobalScheduler", lambda blocking: None)(True)
    problem.solve(pulp.HiGHS(msg=False, threads=2))
    program = Program()
    y = program.variable(whole=True)
    program.at_least([(2.0, y)], 3)
    assert program.solve([[(1.0, y)]]).values == (2.0,)


@pytest.mark.parametrize("restricted", [True, False])
def test_where_the_time_runs_out_a_smaller_program_helps_out(monkeypatch, restricted):
    """Many candidates that are nearly alike: what the relaxation uses is enough for a solution near the bound, also
    where that is only rounded up."""
    random = np.random.default_rng(2)
    program = Program()
    kinds = [program.variable(whole=True) for _ in range(400)]
    for _ in range(30):
        served = random.uniform(0.5, 1.5, 400).tolist()
        program.at_least(list(zip(served, kinds, strict=True)), float(random.uniform(20, 60)))
    costs = random.uniform(0.9, 1.1, 400).tolist()
    real, calls = ilp._solved, []

    def out_of_time(bounds, *rest):
        """The whole program finds nothing in time; where ``restricted`` is False the smaller one does not, too."""
        calls.append(sum(whole and low < high for low, high, whole in bounds))
        nothing = calls[-1] == 400 or (calls[-1] > 0 and not restricted)
        return Outcome((), inf, -inf, False, True) if nothing else real(bounds, *rest)

    monkeypatch.setattr(ilp, "_solved", out_of_time)
    outcome = program.solve([list(zip(costs, kinds, strict=True))], time_limit_s=600)
    assert calls[:2] == [400, 0], "the program, then its relaxation"
    assert outcome.timed_out
    assert outcome.found
    assert outcome.gap < (0.1 if restricted else 0.6)
