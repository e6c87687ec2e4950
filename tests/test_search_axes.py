"""Figures as objectives and as axes: any choice of them gives an exhaustive search's front, and shows its trade."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import pytest

from apexsim.errors import UsageError
from apexsim.report.pareto_plot import pareto
from apexsim.report.trade_tables import front_table, quick_or_frugal, trade_table
from apexsim.search.confidence import draw
from apexsim.search.executors import Serial
from apexsim.search.figures import FIGURES, figure_named
from apexsim.search.goals import goals_of, where_prices_differ
from apexsim.search.intervals import window_draws
from apexsim.search.outcome import Evaluation
from apexsim.search.pareto import AXES, axes_named, front, rank
from apexsim.search.problem import make_problem
from apexsim.search.run import SearchResult, search
from apexsim.search.strategies import Grid
from apexsim.search.trade import compared, trades
from apexsim.search.windows import sample
from apexsim.spec import catalog
from apexsim.testing.strategy import play, toy
from apexsim.workload.synthetic import poisson
from tests.search_instances import drawn_axes

PAIRS = list(combinations(FIGURES.values(), 2))


def question(**changes: object):
    given = {
        "model": "Llama-3.1-8B", "cluster": catalog.cluster("4xh100-sxm"), "slo": catalog.slo("ttft=1s,tpot=50ms@0.9"),
        "trace": poisson(2.0, 300, 400, 60, seed=0),
    }  # fmt: skip
    return make_problem(**(given | changes))


def result_of(evaluations: list[Evaluation], **changes: object) -> SearchResult:
    problem = question(**changes)
    ranked = rank(evaluations, problem.objective)
    return SearchResult(problem, ranked, (), front(ranked, problem.axes), 1.0)


@pytest.mark.parametrize("seed", range(40))
def test_the_grids_front_over_any_axes_is_that_of_an_exhaustive_search(seed):
    world = toy(seed)
    objective = list(FIGURES.values())[seed % len(FIGURES)]
    for axes in (drawn_axes(seed), PAIRS[seed % len(PAIRS)]):
        grid = Grid(world.candidates, objective, keep=1, axes=axes, wave=4)
        found = [world.truth[name] for name in play(grid, world)]
        assert set(front([e for e in found if e], axes)) == set(front(world.feasible, axes))


@pytest.mark.parametrize("seed", range(40))
def test_the_grids_best_plan_by_every_figure_that_is_shown_is_that_of_an_exhaustive_search(seed):
    """The quickest plan stands above the trade table, also where latency is neither the objective nor an axis."""
    world = toy(seed)
    objective, axes = list(FIGURES.values())[seed % len(FIGURES)], AXES if seed % 2 else PAIRS[seed % len(PAIRS)]
    grid = Grid(world.candidates, objective, keep=1, axes=axes, wave=4)
    found = [e for e in (world.truth[name] for name in play(grid, world)) if e]
    shown = [figure for figure in compared(objective, axes) if figure not in axes]
    assert [trade.best for trade in trades(found, shown)] == [trade.best for trade in trades(world.feasible, shown)]


def test_fewer_axes_leave_more_plans_out():
    """The bound knows which axes count: a plan that only its attainment could save is dropped where that is no axis."""
    world = toy(3)
    dropped = []
    for names in ("energy,latency", "energy,latency,attainment,devices"):
        grid = Grid(world.candidates, FIGURES["goodput"], keep=1, axes=axes_named(names), wave=4)
        play(grid, world)
        dropped.append(len(grid.dropped))
    assert 0 < dropped[1] < 0.9 * dropped[0]


def test_an_axis_that_nobody_knows_decides_nothing():
    world = toy(5)
    unknown = [replace(e, at_goodput=e.at_goodput | {"usd_per_million_output_tokens": None}) for e in world.feasible]
    with_cost, without = axes_named("energy,latency,cost"), axes_named("energy,latency")
    assert front(unknown, with_cost) == front(unknown, without)
    assert front(world.feasible, with_cost) != front(world.feasible, without)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("energy,latncy", "unknown axis of --pareto 'latncy'; did you mean 'latency'"),
        ("energy", "--pareto energy: one axis has no front"),
        (["energy", "latency", "energy"], "energy is named twice"),
        ("", "unknown axis of --pareto ''"),
        ("carbon,latency", "--pareto carbon: give --carbon"),
    ],
)
def test_axes_that_cannot_be_are_one_line(names, words):
    with pytest.raises(UsageError, match=re.escape(words)) as error:
        question(pareto=names)
    assert "\n" not in str(error.value)


def test_an_axis_needs_a_figure_that_is_known():
    nobody = catalog.device("h100-sxm").model_copy(update={"price_usd_per_hour": None})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "device", lambda name: nobody)
        with pytest.raises(UsageError, match="--pareto cost: h100-sxm has no price"):
            question(pareto=["cost", "latency"])
        assert question(pareto=["cost", "latency"], price_usd_per_hour=2.0).axes[0].name == "cost"


def test_other_axes_are_another_search_and_none_the_one_it_was():
    assert question().axes == AXES
    assert question(pareto=["latency", "energy"]).fingerprint != question().fingerprint
    assert question(pareto="latency,energy").fingerprint == question(pareto=["latency", "energy"]).fingerprint


def test_carbon_is_energy_in_grams():
    axis = axes_named("carbon,latency", 400.0)[0]
    assert axis.scale == figure_named("carbon", 400.0).scale
    assert axis.scale != 1.0


def test_goals_of_a_race_are_the_ends_of_the_front():
    usual = [goal.name for goal in goals_of(FIGURES["goodput"])]
    assert usual == ["goodput-per-device", "energy", "latency", "goodput"]
    more = [goal.name for goal in goals_of(FIGURES["cost"], axes_named("attainment,devices,energy"))]
    assert more == ["goodput-per-device", "energy", "latency", "attainment", "devices"]


def test_a_race_looks_for_every_plan_that_its_table_shows():
    """But for cost and carbon, which go with goodput per device and energy."""
    for objective in FIGURES.values():
        goals = {goal.name for goal in goals_of(objective, AXES)}
        assert {figure.name for figure in compared(objective, AXES)} - {"cost", "carbon"} <= goals


def test_cost_is_a_goal_where_devices_differ_in_price():
    plans = [e.plan for e in toy(7).feasible]
    assert where_prices_differ(plans, lambda plan: 2.5 * plan.devices) is None
    assert where_prices_differ(plans, lambda plan: None) is None
    unlike = where_prices_differ(plans, lambda plan: (2.0 if plan is plans[0] else 3.0) * plan.devices)
    assert unlike is not None
    assert unlike(plans[0]) == 2.0 * plans[0].devices
    goals = {goal.name: goal for goal in goals_of(FIGURES["goodput"], usd_per_hour=unlike)}
    assert goals["cost"].kind == "goodput"
    assert goals["cost"].weight is unlike
    assert "cost" not in {goal.name for goal in goals_of(FIGURES["cost"])}


# --- what is given up for what ---------------------------------------------------------------------------------------


def test_a_trade_is_against_the_best_plan_by_each_figure():
    world = toy(7)
    found = {trade.figure.name: trade for trade in trades(world.feasible, compared(FIGURES["goodput"], AXES))}
    quick, frugal = found["latency"], found["energy"]
    assert quick.best == min(world.feasible, key=lambda e: (e.summary["e2e_s"]["p50"], -e.goodput_rps, e.id))
    joules = [e.at_goodput["j_per_output_token"] for e in (quick.best, frugal.best)]
    assert quick.change["energy"] == pytest.approx(joules[0] / joules[1] - 1)
    assert quick.change["latency"] == frugal.change["energy"] == 0.0
    for trade in found.values():
        for name, change in trade.change.items():
            assert change <= 0 if FIGURES[name].highest_wins else change >= 0


@pytest.mark.parametrize("objective", FIGURES)
def test_the_quickest_and_the_most_frugal_plan_are_always_there(objective):
    result = result_of(list(toy(7).feasible), objective=objective, carbon_g_per_kwh=400.0)
    table = trade_table(result)
    rows = {row[0]: row for row in table.rows}
    by = {trade.figure.name: trade for trade in result.trades}
    for name in ("latency", "energy"):
        assert rows[name][1] == by[name].best.id
    joules = table.header.index("J/tok")
    assert f"\n+{100 * by['latency'].change['energy']:.0f} %" in rows["latency"][joules]
    assert "%" not in rows["energy"][joules]
    assert f"burns {100 * by['latency'].change['energy']:.0f} % more J/tok than" in table.title
    assert f"E2E is {100 * by['energy'].change['latency']:.0f} % longer." in table.title


def test_one_plan_may_be_both():
    best = toy(7).feasible[0]
    assert quick_or_frugal(result_of([best])) == f"The quickest plan is also the most frugal one: {best.id}."


def test_a_figure_that_is_not_known_is_said():
    nothing = {"j_per_output_token": None, "usd_per_million_output_tokens": None}
    blind = [replace(e, at_goodput=e.at_goodput | nothing) for e in toy(7).feasible]
    result = result_of(blind)
    table = trade_table(result)
    assert "energy: not known" in table.title
    assert "cost: not known" in table.title
    assert {row[0] for row in table.rows} == {"goodput", "goodput-per-device", "latency"}
    some = result_of([*blind[1:], toy(7).feasible[0]])
    assert f"energy: known of 1 of {len(blind)} plans" in trade_table(some).title
    assert [trade.best is None for trade in result.trades if trade.figure.name == "energy"] == [True]


def test_the_front_is_printed_where_its_axes_were_chosen():
    result = result_of(list(toy(7).feasible), pareto="devices,attainment,latency")
    table = front_table(result, top=2)
    assert table.header == ("#", "plan", "dev", "attainment", "E2E ms")
    assert "over number of devices, SLO attainment and median E2E" in table.title
    assert len(table.rows) == 2
    assert table.rows[0][1] in result.pareto
    assert int(table.rows[0][0]) == 1 + [e.id for e in result.ranked].index(table.rows[0][1])


# --- the picture -----------------------------------------------------------------------------------------------------


def drawn(names: str | None, ax=None):
    axes = () if names is None else axes_named(names, 400.0)
    feasible = toy(7).feasible
    return pareto(feasible, front(feasible, axes or AXES), axes, ax)


def bars(ax) -> list[str]:
    return [other.get_ylabel() for other in ax.figure.axes if other.get_label() == "<colorbar>"]


@pytest.mark.parametrize(
    ("names", "labels", "colour"),
    [
        (None, ("goodput per device, requests/s", "energy at goodput, J per output token"), ["devices of the plan"]),
        ("latency,energy", ("median E2E, s", "energy at goodput, J per output token"), ["devices of the plan"]),
        ("devices,attainment", ("number of devices", "SLO attainment, share"), []),
        ("cost,carbon,latency",
         ("cost at goodput, USD per million output tokens", "carbon at goodput, g CO2e per million output tokens"),
         ["median E2E, s"]),
    ],
)  # fmt: skip
def test_axes_are_labelled(names, labels, colour):
    ax = drawn(names)
    assert (ax.get_xlabel(), ax.get_ylabel()) == labels
    assert bars(ax) == colour
    plt.close(ax.figure)


@pytest.mark.parametrize("names", [None, "goodput,energy,latency,cost"])
def test_the_best_plan_is_named_below_the_picture_however_long_its_name_is(names):
    long = "prefill-1xtp1-fp8-kvfp8-t8192-s128 + decode-1xtp1-fp8-kvfp8-t8192-s256 via early"
    feasible = [Named(e, long) if k == 0 else e for k, e in enumerate(toy(7).feasible)]
    axes = axes_named(names, 400.0) if names else ()
    figure = pareto(feasible, [long], axes).figure
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0 <= legend.x1 <= figure.bbox.x1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "Pareto front (1)", long.replace(" + ", "\n+ ")
    ]  # fmt: skip
    plt.close(figure)


def test_a_colour_that_all_plans_share_is_left_out():
    alike = [e for e in toy(7).feasible if e.plan.devices == toy(7).feasible[0].plan.devices]
    assert not bars(pareto(alike, [alike[0].id]))
    plt.close("all")


class Named:
    """An evaluation under another name."""

    def __init__(self, evaluation, name):
        self._evaluation, self.id = evaluation, name

    def __getattr__(self, key):
        return getattr(self._evaluation, key)


def test_more_axes_have_a_panel_each():
    ax = drawn("goodput,energy,latency,devices,attainment")
    panels = [panel for panel in ax.figure.axes if panel.axison]
    assert [panel.get_xlabel() for panel in panels] == ["goodput, requests/s"] * 4
    assert [panel.get_ylabel().split(",")[0] for panel in panels] == [
        "energy at goodput", "median E2E", "number of devices", "SLO attainment"
    ]  # fmt: skip
    plt.close(ax.figure)


def test_one_panel_names_the_axes_that_it_has_no_room_for():
    _, own = plt.subplots()
    ax = drawn("goodput,energy,latency,devices", own)
    assert ax is own
    assert "also over number of devices" in ax.get_title()
    plt.close("all")


# --- goodput per device, and devices, as objectives ------------------------------------------------------------------

SPACE = {
    "tp": [2, 4], "pp": [1], "replicas": [1, 2], "weights": ["fp8"], "kv_cache": ["bf16", "fp8"],
    "max_num_batched_tokens": [8192], "max_num_seqs": [16],
}  # fmt: skip


@pytest.fixture(scope="module")
def by_device():
    """Four plans of a model that is slow enough for the goodput runs to be short."""
    asked = {"model": "Llama-3.1-70B", "slo": catalog.slo("ttft=2s,tpot=100ms@0.9"), "space": SPACE}
    axes = ["devices", "latency"]
    return search(question(objective="goodput-per-device", pareto=axes, **asked), Serial())


def test_goodput_per_device_ranks_and_is_drawn(by_device):
    values = [e.goodput_rps_per_device for e in by_device.ranked]
    assert values == sorted(values, reverse=True)
    assert len(values) >= 4
    problem, plan = by_device.problem, by_device.ranked[-1]
    counts, weights = sample(problem, plan), window_draws(20, 0)
    per_device = draw(problem, plan, counts, weights).objective
    whole = draw(replace(problem, objective=FIGURES["goodput"]), plan, counts, weights).objective
    assert per_device == pytest.approx(whole / plan.plan.devices)
    few = draw(replace(problem, objective=FIGURES["devices"]), plan, counts, weights).objective
    assert set(few) == {plan.plan.devices}


def test_the_json_says_which_axes_and_which_trade(by_device):
    data = by_device.to_dict()
    assert data["pareto_axes"] == ["devices", "latency"]
    assert set(data["pareto"]) == set(front(by_device.ranked, by_device.problem.axes))
    trade = data["trade"]["latency"]
    assert trade["id"] == data["best_by"]["latency"]
    own = next(plan for plan in data["plans"] if plan["id"] == trade["id"])
    assert trade["figures"]["latency"] == {"value": own["summary"]["e2e_s"]["p50"], "change": 0.0}
    assert set(data["trade"]) == set(trade["figures"]) >= {"energy", "cost", "devices", "goodput-per-device"}
