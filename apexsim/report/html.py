"""``report.html`` of a search: the question, the answer, and what speaks for and against it, on one page.

It says what the report knows and computes nothing. ``page.py`` makes the elements; each part of the page is a function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from apexsim import __version__
from apexsim.report import search_words as words
from apexsim.report.page import Content, Element, code, document, element, facts, listed, picture, section, table
from apexsim.report.pictures import Picture
from apexsim.report.search_doubt import sensitivity_table
from apexsim.report.search_tables import defaults_line, dropped_table, ranking_table
from apexsim.report.tables import brief, show
from apexsim.report.trade_tables import front_table, trade_table
from apexsim.search.confidence import LEVEL
from apexsim.search.figures import grams_per_million_tokens
from apexsim.search.miss import crash, nearest_miss
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem
from apexsim.spec import catalog
from apexsim.spec.hardware import HardwareProfile

if TYPE_CHECKING:
    from apexsim.report.search_results import SearchReport

HOLDS = {
    "result.json": "everything, as JSON",
    "plans.parquet": "the ranking, a row for each plan",
    "requests.parquet": "the best plan's replay, a row for each request",
    "launch/plan.yaml": "the best plan itself",
    "launch/launch.sh": "the commands that start it",
}
"""What the files beside the page hold, where their names do not say it."""

Parts = Iterator[Element]


def search_page(report: SearchReport, pictures: Sequence[Picture], files: Sequence[str] = ()) -> str:
    """The text of the page.

    Args:
        pictures: of this report, as ``search_pictures`` draws them.
        files: names of what lies beside the page, from its folder on; no list of files where there are none.
    """
    problem = report.result.problem
    sections = [*_answer(report), *_ranking(report, pictures), *_doubts(report), *_origin(report, files)]
    title = f"{problem.model.name} on {problem.cluster}"
    header = element(
        "header",
        element("p", "apexsim search", class_="over"),
        element("h1", title),
        element("p", words.question(problem), class_="question"),
        facts(_asked(report)),
        *(element("p", warning, class_="warning", role="note") for warning in _warnings(report)),
    )
    footer = element("footer", f"apexsim {__version__}. This page is whole: it loads nothing and runs nothing.")
    return document(f"{title}: apexsim search", header, _contents(sections), element("main", *sections), footer)


def _contents(sections: Sequence[Element]) -> Element:
    links = (element("a", part[0].text or "", href=f"#{part.get('id')}") for part in sections)
    return element("nav", listed(links), aria_label="Contents")


def _warnings(report: SearchReport) -> Iterator[str]:
    for warning in report.warnings:
        early = warning == report.result.interruption
        yield f"This search ended early ({warning}): not all plans were looked at." if early else warning


def _asked(report: SearchReport) -> Iterator[tuple[str, Content]]:
    result, problem = report.result, report.result.problem
    yield "Model", code(problem.model_name)
    yield "Cluster", code(str(problem.cluster))
    yield "Trace", f"{problem.trace.name}, {len(problem.trace):,} requests"
    yield "Rate", f"{problem.rate_rps:.4g} req/s"
    yield "SLO", code(str(problem.slo))
    yield "Objective", problem.objective.label
    yield "Strategy", result.strategy
    yield "Tolerance", f"{result.tolerance:.0%}" if result.tolerance else "none: exact"


def _answer(report: SearchReport) -> Parts:
    """The best plan with its figures and how it is started, or why there is none."""
    result = report.result
    if not result.ranked:
        found = (crash(result), nearest_miss(result))
        said = (element("p", f"{text[0].upper()}{text[1:]}.") for text in found if text)
        head = element("p", "No plan was found that fits and meets the SLO.", class_="best")
        yield section("The answer", "answer", element("div", head, *said, class_="answer none"),
                      element("p", words.how_it_went(result)))  # fmt: skip
        return
    best = result.ranked[0]
    card = element(
        "div",
        element("p", code(best.id), class_="best"),
        element("p", words.plan_words(best.plan)),
        facts(_figures(report, best), "figures"),
        element("p", f"What binds it: {best.why}"),
        element("p", words.standing(result.ranked, report.doubt)),
        *(element("p", f"Note: {note}") for note in best.notes),
        class_="answer",
    )
    yield section("The answer", "answer", card, element("p", words.how_it_went(result)))
    yield section("The best by each figure", "trades", table(trade_table(result)))
    if result.problem.chosen_axes:
        yield section("The Pareto front", "front", table(front_table(result, report.top)))
    yield section("How it is started", "launch", *_launch(report))


SHOWN_ONCE = {"energy": "Energy", "cost": "Cost", "attainment": "SLO attainment"}
"""Objective -> the figure in the card that it stands in the place of."""


def _figures(report: SearchReport, best: Evaluation) -> Iterator[tuple[str, Content]]:
    """Names and values of the figures in the card, the objective first; what is not known is left out."""
    problem, verdict = report.result.problem, report.doubt.confidence.verdicts.get(best.id)
    objective = problem.objective
    value = objective.value(best)
    if objective.name != "goodput" and value is not None:
        interval = verdict.objective_ci if verdict is not None else None
        within = f"{LEVEL:.0%}: {brief(interval[0])} to {brief(interval[1])}" if interval else ""
        note = "; ".join(filter(None, (objective.unit, within, "the objective")))
        yield objective.label, _value(f"{objective.scale * value:.4g}", note)
    within = "" if verdict is None else f"{LEVEL:.0%}: {brief(verdict.goodput_ci[0])} to {brief(verdict.goodput_ci[1])}"
    yield "Goodput", _value(f"{'≥ ' if best.censored else ''}{best.goodput_rps:.2f} req/s", within)
    per_device = f"{brief(best.goodput_rps_per_device)} req/s per device"
    yield "Devices", _value(f"{best.plan.devices} of {problem.cluster.devices}", per_device)
    for name, shown in _other_figures(problem, best):
        if name != SHOWN_ONCE.get(objective.name):
            yield name, shown


def _other_figures(problem: Problem, best: Evaluation) -> Iterator[tuple[str, Content]]:
    joules, usd = best.at_goodput["j_per_output_token"], best.at_goodput["usd_per_million_output_tokens"]
    if joules is not None:
        carbon = problem.carbon_g_per_kwh
        grams = "" if carbon is None else f"; {brief(joules * grams_per_million_tokens(carbon))} g CO2e per million"
        yield "Energy", _value(f"{brief(joules)} J", f"per output token, at goodput{grams}")
    if usd is not None:
        hourly = problem.usd_per_hour(best.plan)
        rent = "" if hourly is None else f"; {hourly:.4g} USD an hour"
        yield "Cost", _value(f"{brief(usd)} USD", f"per million output tokens, at goodput{rent}")
    rate = f"at {problem.rate_rps:.4g} req/s"
    for name in ("ttft", "tpot", "e2e"):
        values = best.summary[f"{name}_s"]
        if values["p50"] is not None:
            yield name.upper(), _value(f"{show(values['p50'], 's')} / {show(values['p99'], 's')}", f"p50 / p99 {rate}")
    kept = best.summary["slo"]["attainment"]
    if kept is not None:
        yield "SLO attainment", _value(f"{kept:.1%}", rate)


def _value(value: str, note: str) -> Element:
    return element("div", value, *((element("small", note),) if note else ()))


def _launch(report: SearchReport) -> Parts:
    found = report.deployment
    if found is None:
        engine = report.best.plan.engine
        yield element("p", f"No launch commands are known for {engine}; the plan as a file says what has to be set.")
    else:
        yield element("pre", found.command)
        if found.said_in():
            yield listed(found.said_in())
    yield element("details", element("summary", "The plan as a file"), element("pre", report.plan_yaml))


def _ranking(report: SearchReport, pictures: Sequence[Picture]) -> Parts:
    result = report.result
    if result.ranked:
        drawn = [_drawn(p) for p in pictures if p.file != "sensitivity.png"]
        yield section("The ranking", "ranking", table(ranking_table(result, report.top, report.doubt), "first"))
        yield section("Pictures", "pictures", element("div", *drawn, class_="pictures"))
    found = report.doubt.sensitivity
    if found is not None:
        drawn = [_drawn(p) for p in pictures if p.file == "sensitivity.png"]
        yield section("What if it is otherwise", "sensitivity", *drawn, table(sensitivity_table(found)))


def _drawn(shown: Picture) -> Element:
    return picture(shown.svg(), shown.words, shown.title, "wide" if shown.wide else "")


def _doubts(report: SearchReport) -> Parts:
    """What was left out, and how far to trust what was not."""
    result, trace = report.result, report.result.problem.trace
    if result.dropped:
        yield section("What was left out, and why", "left-out", table(dropped_table(result)))
    said = [f"{rows:,} rows of the trace are not here: {reason}." for reason, rows in trace.dropped.items()]
    said += [f"Trace: {note}" for note in trace.notes]
    if result.ranked:
        notes = result.ranked[0].summary["confidence"]["notes"]
        said = [*words.trust(result.ranked[0], report.doubt), *said]
        yield section("How far to trust it", "trust", listed(said), *_notes(notes))
    elif said:
        yield section("How far to trust it", "trust", listed(said))


def _notes(notes: Sequence[str]) -> Parts:
    if notes:
        yield element("h3", "Assumptions behind the figures of the best plan")
        yield listed(notes)


def _origin(report: SearchReport, files: Sequence[str]) -> Parts:
    yield section("Where the figures come from", "provenance", facts(_provenance(report), "facts long"))
    if files:
        links = ((element("a", name, href=quote(name)), HOLDS.get(name, "")) for name in files)
        items = (element("span", link, f": {what}" if what else "") for link, what in links)
        yield section("Files", "files", listed(items))


def _provenance(report: SearchReport) -> Iterator[tuple[str, Content]]:
    problem = report.result.problem
    yield "Version", f"apexsim {__version__}"
    yield "Question", element(
        "span", code(problem.fingerprint),
        ": digest of every request, the model, the devices, the SLO, the space, prices and the seed",
    )  # fmt: skip
    yield "Seed", str(problem.seed)
    yield "Model", f"{problem.model.name}, {problem.model.parameters / 1e9:.4g} billion parameters"
    yield "Trace", _trace(problem)
    for group in problem.cluster.groups:
        profile = problem.profile if group.device == problem.profile.name else catalog.device(group.device)
        yield "Device", element("div", code(profile.name), f": {_profile(profile)}", *_kernels(profile))
    yield "Price", _price(problem)
    if problem.carbon_g_per_kwh is not None:
        yield "Carbon", f"{problem.carbon_g_per_kwh:g} g CO2e per kWh"
    yield "Space", defaults_line(problem)


def _trace(problem: Problem) -> str:
    trace = problem.trace
    return (
        f"{trace.source or trace.name}: {len(trace):,} requests in {trace.span_s:,.0f} s; mean "
        f"{trace.input_tokens.mean():,.0f} input and {trace.output_tokens.mean():,.0f} output tokens"
    )


def _profile(profile: HardwareProfile) -> str:
    known = profile.provenance
    count = len(profile.kernels)
    kernels = f"{count} tables of measured kernels" if count else "no kernel of it was measured"
    return f"{profile.device}; {known.basis} figures of {known.date} ({known.source}); {kernels}"


def _kernels(profile: HardwareProfile) -> Parts:
    if profile.kernels:
        yield element("details", element("summary", "Their names"), element("p", ", ".join(profile.kernels)))


def _price(problem: Problem) -> str:
    price, own = problem.price_usd_per_hour, problem.profile.price_usd_per_hour
    if price is None:
        return "unknown, or one for each device" if problem.cluster.other_groups else "unknown"
    source = problem.profile.price_source
    given = f" ({source})" if source and price == own else ""
    return f"{price:g} USD per device and hour{given}"
