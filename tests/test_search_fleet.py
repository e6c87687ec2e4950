"""Fleets: the optimum of brute force, laws of what is returned, and one line where no fleet will do."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import apexsim as ax
from apexsim.errors import InputError, NoFeasiblePlan
from apexsim.search.fleet import FleetCandidate, FleetLimits, FleetProblem, _idle, read_fleet
from apexsim.search.fleet_ilp import Fleet, _better, best_fleet, undominated
from apexsim.search.ilp import Program
from apexsim.spec.base import parse
from apexsim.spec.plan import Plan
from tests.test_docs_keys import rows

MOST = 4
DEVICES = ("h100-sxm", "l40s")


def kind(name="a", devices=2, goodput=None, usd=10.0, idle=100.0, busy=400.0, device="any") -> dict:
    return {"name": name, "device": device, "devices": devices, "goodput": goodput or {"chat": 2.0},
            "usd_per_hour": usd, "idle_w": idle, "busy_w": busy}  # fmt: skip


def fleet(**question) -> Fleet:
    return best_fleet(read_fleet(question))


def test_a_fleet_by_hand():
    """7 requests/s of 2 each take four replicas of 10 USD, of 5 each two of 24: the four are cheaper; or 3 + 1."""
    found = fleet(demand={"chat": 7.0}, candidates=[kind(), kind("b", goodput={"chat": 5.0}, usd=24.0)])
    assert (found.value, found.gap) == (34.0, 0.0)
    assert dict(zip((k.name for k in found.kinds), found.replicas, strict=True)) == {"a": (1,), "b": (1,)}


def test_headroom_keeps_a_share_of_each_replica_free():
    """4 requests/s of 2 each: two replicas; of 1.6 each three."""
    question = {"demand": {"chat": 4.0}, "candidates": [kind()]}
    assert [fleet(**question, headroom=share).replicas for share in (0.0, 0.2)] == [((2,),), ((3,),)]


goodputs = st.dictionaries(st.sampled_from(("chat", "code")), st.sampled_from((0.5, 1.0, 1.7, 3.0)), min_size=1)
kinds = st.builds(
    kind, devices=st.integers(1, 4), goodput=goodputs, usd=st.sampled_from((1.0, 2.5, 4.0)),
    idle=st.sampled_from((50.0, 100.0)), busy=st.sampled_from((200.0, 350.0)), device=st.sampled_from(DEVICES),
)  # fmt: skip
questions = st.fixed_dictionaries({
    "objective": st.sampled_from(("cost", "energy", "devices", "carbon")),
    "scaling": st.sampled_from(("constant", "hourly")),
    "sharing": st.booleans(),
    "headroom": st.sampled_from((0.0, 0.2)),
    "start": st.sampled_from(("0s", "30min")),
    "carbon": st.just([100.0, 400.0]),
    "demand": st.fixed_dictionaries({
        "chat": st.lists(st.sampled_from((0.0, 0.4, 1.6)), min_size=2, max_size=2),
        "code": st.sampled_from((0.0, 0.7)),
    }),
    "candidates": st.lists(kinds, min_size=1, max_size=2).map(
        lambda found: [{**each, "name": f"k{place}"} for place, each in enumerate(found)]
    ),
    "limits": st.fixed_dictionaries({}, optional={
        "devices": st.integers(2, 6).map(float), "usd_per_hour": st.sampled_from((4.0, 7.0)),
        "usd_per_day": st.sampled_from((6.0, 11.0)), "power_w": st.sampled_from((300.0, 700.0)),
        "stock": st.just({DEVICES[0]: 4.0}),
    }),
})  # fmt: skip


def columns(problem: FleetProblem) -> list[tuple[int, tuple[str, ...]]]:
    whole = [(c, tuple(k.goodput)) for c, k in enumerate(problem.candidates)]
    return whole if problem.sharing else [(c, (name,)) for c, names in whole for name in names]


def by_brute_force(problem: FleetProblem) -> float | None:
    """Every number of replicas of every column in both hours; what each serves is a linear program."""
    cols = columns(problem)
    counts = list(itertools.product(range(MOST), repeat=len(cols)))
    days = [(n, n) for n in counts] if problem.scaling == "constant" else list(itertools.product(counts, repeat=2))
    hourly: dict = {}
    found = [value for day in days if (value := of_day(problem, cols, day, hourly)) is not None]
    return min(found, default=None)


def of_day(problem, cols, day, hourly) -> float | None:
    paid, each = problem.start / 3600, []
    kept = problem.limits
    started = [[max(n - m, 0) for n, m in zip(day[h], day[h - 1], strict=True)] for h in (0, 1)]
    for h in (0, 1):
        if (h, day[h]) not in hourly:
            hourly[h, day[h]] = least_power(problem, cols, day[h], h)
        watts = hourly[h, day[h]]
        if watts is None:
            return None
        kind_of = [problem.candidates[c] for c, _ in cols]
        devices = sum(k.devices * n for k, n in zip(kind_of, day[h], strict=True))
        held = sum(k.devices * n for k, n in zip(kind_of, day[h], strict=True) if k.device == DEVICES[0])
        usd = sum(k.usd_per_hour * (n + paid * s) for k, n, s in zip(kind_of, day[h], started[h], strict=True))
        joules = 3600 * watts + problem.start * sum(k.idle_w * s for k, s in zip(kind_of, started[h], strict=True))
        stock = kept.stock.get(DEVICES[0])
        limits = ((kept.devices, devices), (kept.usd_per_hour, usd), (kept.power_w, watts), (stock, held))
        if any(allowed is not None and used > allowed + 1e-9 for allowed, used in limits):
            return None
        grams = problem.intensity(h) * joules / 3.6e6
        each.append({"cost": usd, "energy": joules, "devices": devices, "carbon": grams})
    if kept.usd_per_day is not None and sum(hour["cost"] for hour in each) > kept.usd_per_day + 1e-9:
        return None
    return sum(hour[problem.objective] for hour in each)


def least_power(problem, cols, count, hour) -> float | None:
    pairs = [(c, name) for c, (_, names) in enumerate(cols) for name in names]
    kind_of = [problem.candidates[c] for c, _ in cols]
    above = [(kind_of[c].busy(name) - kind_of[c].idle_w) / kind_of[c].goodput[name] for c, name in pairs]
    demand = [[-1.0 if name == wanted else 0.0 for _, name in pairs] for wanted in problem.classes]
    work = [[1 / kind_of[c].goodput[name] if c == place else 0.0 for c, name in pairs] for place in range(len(cols))]
    right = [-problem.rate(name, hour) for name in problem.classes] + [(1 - problem.headroom) * n for n in count]
    solved = linprog(above, A_ub=demand + work, b_ub=right)
    idle = sum(k.idle_w * n for k, n in zip(kind_of, count, strict=True))
    return idle + solved.fun if solved.success else None


@settings(max_examples=25, deadline=None)
@given(questions)
def test_small_fleets_have_the_optimum_of_brute_force(question):
    problem = read_fleet(question)
    wanted = by_brute_force(problem)
    try:
        found = best_fleet(problem)
    except NoFeasiblePlan:
        assert wanted is None
        return
    more_than_tried = max(max(count) for count in found.replicas) >= MOST
    assert more_than_tried or wanted is not None
    if wanted is not None:
        assert found.value <= wanted * (1 + 1e-6) + 1e-9
        assert more_than_tried or found.value == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    holds_what_it_must(found)


def holds_what_it_must(found: Fleet) -> None:
    """The demand is covered, replicas are not loaded beyond their goodput, limits hold, the value is the hours' sum."""
    problem, hours = found.problem, range(found.problem.hours)
    limits, near = problem.limits, 1 + 1e-6
    for h in hours:
        for name in problem.classes:
            assert sum(served.get(name, [0.0] * 24)[h] for served in found.rates) * near >= problem.rate(name, h)
        for c, count in enumerate(found.replicas):
            assert found.load(c, h) <= (1 - problem.headroom) * count[h] * near
        for allowed, used in ((limits.devices, found.devices(h)), (limits.usd_per_hour, found.usd(h)),
                              (limits.power_w, found.power_w(h))):
            assert allowed is None or used <= allowed * near
    assert found.value == pytest.approx(found.worth(), rel=1e-6, abs=1e-9)
    of_hour = {"cost": found.usd, "energy": found.energy_j, "devices": found.devices,
               "carbon": lambda h: problem.intensity(h) * found.energy_j(h) / 3.6e6}[problem.objective]  # fmt: skip
    assert found.value == pytest.approx(sum(of_hour(h) for h in hours), rel=1e-6, abs=1e-9)
    assert problem.scaling == "hourly" or all(len(set(count)) == 1 for count in found.replicas)


def test_hours_that_are_solved_apart_cost_what_they_cost_together():
    """A budget of the day that binds nothing joins them."""
    demand = {"chat": [1.0, 5.0, 9.0, 3.0]}
    candidates = [kind(), kind("b", goodput={"chat": 5.0}, usd=24.0)]
    apart = fleet(demand=demand, candidates=candidates, scaling="hourly")
    joined = fleet(demand=demand, candidates=candidates, scaling="hourly", limits={"usd_per_day": 1e6})
    assert (apart.value, apart.replicas) == (joined.value, joined.replicas)


def test_starting_costs_keep_replicas_on():
    demand = {"chat": [2.0, 0.5, 4.0, 2.0]}
    candidates = [kind("one", goodput={"chat": 1.0}, usd=1.0)]
    free = fleet(demand=demand, candidates=candidates, scaling="hourly")
    dear = fleet(demand=demand, candidates=candidates, scaling="hourly", start="2h")
    assert free.replicas[0] == (2, 1, 4, 2)
    assert sum(dear.replicas[0]) == 10  # one kept on in the quiet hour: 1 USD instead of the 2 of another start
    assert sum(dear.starts(0, h) for h in range(4)) == 2
    assert dear.value == 10 + 2 * 2 < sum(free.replicas[0]) + 2 * sum(free.starts(0, h) for h in range(4))


def many_kinds(**limits) -> dict:
    """A day and many kinds that are nearly alike: not done in a moment."""
    random = np.random.default_rng(5)
    kinds = [
        kind(f"k{n}", devices=int(random.integers(1, 9)), device=f"d{n}", usd=float(random.uniform(5, 40)),
             goodput={name: float(random.uniform(1, 9)) for name in ("chat", "code")})
        for n in range(20)
    ]  # fmt: skip
    demand = {name: random.uniform(20, 90, 24).tolist() for name in ("chat", "code")}
    return {"demand": demand, "candidates": kinds, "scaling": "hourly", "start": "20min", "limits": limits}


def test_where_the_time_runs_out_the_answer_keeps_every_law_and_its_gap():
    problem = read_fleet(many_kinds(usd_per_hour=5000.0))
    found = best_fleet(problem, time_limit_s=4.0)
    assert found.timed_out
    assert found.bound <= found.value
    assert 0 < found.gap <= 1
    holds_what_it_must(found)


def test_candidates_that_another_one_replaces_are_left_out():
    problem = read_fleet({"demand": {"chat": 1.0}, "candidates": [
        kind("dear", usd=11.0), kind("good"), kind("twin"), kind("other device", usd=11.0, device="else"),
    ]})  # fmt: skip
    kept, dropped = undominated(problem)
    assert [k.name for k in kept] == ["good", "other device"]
    assert dropped == {"dear": "good", "twin": "good"}
    kinds = [kind("warm", idle=300.0, busy=500.0), kind("cool", usd=11.0, busy=300.0)]
    for objective, left in (("cost", {"cool": "warm"}), ("energy", {})):  # who idles at more does not replace
        question = {"demand": {"chat": 1.0}, "candidates": kinds, "objective": objective}
        assert undominated(read_fleet(question))[1] == left


def test_hours_planned_one_by_one_count_only_where_they_keep_the_budgets():
    apart = fleet(demand={"chat": [2.0, 7.0]}, candidates=[kind()], scaling="hourly")
    budgets = (({"usd_per_hour": 39.0}, False), ({"usd_per_day": 49.0}, False), ({"usd_per_day": 50.0}, True))
    for limits, taken in budgets:
        limited = replace(apart, problem=apart.problem.model_copy(update={"limits": FleetLimits(**limits)}))
        better = _better(None, limited, bound=40.0)
        assert (better is not None) == taken
    assert better.gap == pytest.approx(0.2)
    assert _better(replace(apart, value=49.0), apart, bound=40.0).value == 49.0, "what is dearer than the found one"


def test_hours_share_the_time(monkeypatch):
    """In a first pass each of four hours has an eighth of it; what is open then, all that is left."""
    asked, solve = [], Program.solve

    def spied(self, objectives, time_limit_s):
        asked.append(time_limit_s)
        return replace(solve(self, objectives, 60.0), timed_out=len(asked) == 2)

    monkeypatch.setattr(Program, "solve", spied)
    fleet_of = read_fleet({"demand": {"chat": [1.0, 5.0, 9.0, 3.0]}, "candidates": [kind()], "scaling": "hourly"})
    best_fleet(fleet_of, time_limit_s=80.0)
    assert asked[:4] == [10.0] * 4
    assert len(asked) == 5
    assert 20.0 < asked[4] <= 80.0


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"devices": 6.0}, "limits.devices 8 devices instead of 6 (short by 2)"),
        ({"stock": {"any": 5.0}}, "limits.stock.any 8 devices instead of 5 (short by 3)"),
        ({"usd_per_hour": 35.0}, "limits.usd_per_hour 40 USD instead of 35 (short by 5)"),
        ({"power_w": 1000.0}, "limits.power_w 1450 W instead of 1000 (short by 450)"),
        ({"usd_per_day": 12.0}, "limits.usd_per_day 40 USD instead of 12 (short by 28)"),
    ],
)
def test_what_stands_in_the_way_is_said_with_how_much_is_missing(limits, said):
    """7 requests/s take four replicas of two devices, 10 USD and 100 W each, and 3.5 times 300 W more."""
    with pytest.raises(NoFeasiblePlan, match=re.escape(said)) as caught:
        fleet(demand={"chat": 7.0}, candidates=[kind()], limits=limits)
    assert "% less demand" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_hours_apart_the_worst_one_is_told():
    with pytest.raises(NoFeasiblePlan, match=r"in hours 1, 2: .* limits\.devices 10 devices instead of 6"):
        fleet(demand={"chat": [2.0, 7.0, 9.0]}, candidates=[kind()], limits={"devices": 6.0}, scaling="hourly")


def test_limits_that_do_not_help_every_hour_alone_are_not_told():
    """Ten devices would do for the second hour, but the third wants more dollars, too; less demand helps both."""
    with pytest.raises(NoFeasiblePlan) as caught:
        fleet(demand={"chat": [2.0, 7.0, 9.0]}, candidates=[kind()], scaling="hourly",
              limits={"devices": 6.0, "usd_per_hour": 40.0})  # fmt: skip
    assert "less demand" in str(caught.value)
    assert "limits.devices" not in str(caught.value)


def test_a_class_that_nobody_serves_is_named():
    with pytest.raises(NoFeasiblePlan, match="no candidate serves the class code"):
        fleet(demand={"chat": 1.0, "code": 1.0}, candidates=[kind()])


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"demand": {"chat": 1}, "candidates": [kind(goodput={"chta": 1.0})]}, "did you mean 'chat'"),
        ({"demand": {"chat": [1, 2], "code": [1]}, "candidates": [kind()]}, "chat has 2, code has 1"),
        ({"demand": {"chat": 1}}, "candidates: missing"),
        ({"demand": {"chat": -1}, "candidates": [kind()]}, "demand.chat"),
        ({"demand": {"chat": 1}, "candidates": [kind(), kind()]}, "stands twice"),
        ({"demand": {"chat": 1}, "candidates": [kind()], "objective": "carbon"}, "carbon needs carbon"),
        ({"demand": {"chat": 1}, "candidates": [kind(usd=None)]}, "usd_per_hour: missing, and unknown device 'any'"),
        ({"demand": {"chat": 1}, "candidates": [kind(device="h100-sxm")], "limits": {"stock": {"h100": 4}}},
         "limits.stock: unknown device 'h100'; did you mean 'h100-sxm'?"),
        ({"demand": {"chat": 1}, "candidates": [kind(idle=None)], "objective": "energy"}, "idle_w: missing"),
        ({"demand": {"chat": 1}, "candidates": [kind()], "start": 5}, "has no unit"),
        ({"demand": {"chat": 1}, "candidates": [kind()], "limit": {}}, "did you mean 'limits'"),
    ],
)
def test_a_question_that_cannot_be_is_one_line(question, said):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read_fleet(question)
    assert "\n" not in str(caught.value)


def test_price_and_power_come_from_the_profile():
    problem = read_fleet({"demand": {"chat": 1}, "objective": "energy", "candidates": [
        {"name": "a", "device": "h100-sxm", "devices": 4, "goodput": {"chat": 2.0}},
    ]})  # fmt: skip
    profile, found = ax.device("h100-sxm"), problem.candidates[0]
    assert (found.usd_per_hour, found.idle_w) == (4 * profile.price_usd_per_hour, 4 * profile.idle_w)
    assert found.busy("chat") == 4 * profile.tdp_w


def test_a_replica_never_draws_less_than_idle_and_a_plan_that_of_its_nodes_too():
    (lazy,) = read_fleet({"demand": {"chat": 1}, "candidates": [kind(idle=500.0, busy=400.0)]}).candidates
    assert lazy.busy("chat") == 500.0
    site = {"device": "h100-sxm", "nodes": 2, "node_overhead_w": 2000.0, "pue": 1.5}
    plan = parse(Plan, {"model": "Llama-3.1-8B", "cluster": site, "pools": [{"replicas": 9}]}, source="plan")
    assert _idle(plan) == pytest.approx((9 * ax.device("h100-sxm").idle_w + 2 * 2000.0) * 1.5)


def test_the_report_says_the_same_everywhere():
    report = ax.plan_fleet({"demand": {"chat": [2.0, 7.0]}, "candidates": [kind()], "scaling": "hourly",
                            "limits": {"power_w": 5000.0, "usd_per_day": 100.0}})  # fmt: skip
    data, rows = report.to_dict(), report.to_pandas()
    assert data["status"] == "optimum"
    assert data["fleet"][0]["replicas"] == rows.replicas.tolist() == [1, 4]
    assert [limit["name"] for limit in data["limits"]] == ["limits.power_w", "limits.usd_per_day"]
    assert "the optimum" in report.heading
    assert "Hours" in report._repr_html_()
    json.dumps(data, allow_nan=False)


# --- the pages ------------------------------------------------------------------------------------------------

KEYS = {FleetProblem: "A fleet", FleetCandidate: "A fleet", FleetLimits: "A fleet"}


@pytest.mark.parametrize("cls", KEYS, ids=lambda cls: cls.__name__)
def test_every_key_has_a_row_with_its_default(cls):
    table = rows("ilp.md", KEYS[cls])
    for name, about in cls.model_fields.items():
        assert name in table, name
        assert ("–" in table[name]) >= about.is_required(), name
