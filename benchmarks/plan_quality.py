"""How good is the plan that apexsim would choose? Measured plans of one load, ranked by their simulation.

    python benchmarks/plan_quality.py ../shared/validation            print benchmarks/plan_quality.md
    python benchmarks/plan_quality.py ../shared/validation --write    write it

Nothing in that file is typed by hand. Only aggregates of the measurements are in it, no row of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby
from pathlib import Path
from statistics import fmean, median

from apexsim import __version__
from apexsim.validation.case import Case, read_set
from apexsim.validation.order import RankedLoad, ranked_loads
from apexsim.validation.run import simulate_all
from apexsim.validation.sets import find_sets
from apexsim.validation.simulate import Outcome

PAGE = Path(__file__).with_suffix(".md")

SETS = (
    "closed-loop-grid", "closed-loop-disaggregated", "trtllm-llama70b", "mlenergy-h100-dense", "apex-h100-llama70b",
    "vllm-h100-open-loop",
)  # fmt: skip

LIMITS_S = (0.015, 0.03, 0.06)
"""Limits on the time per token, under which throughput is compared: a chat that feels instant, quick, and readable."""

NEAR = 0.05
"""A choice within this of the measured best is right: runs of one plan repeat within 2 to 5 %."""

SPARE = 0.1
"""The share of a limit that a careful choice leaves free, for errors of the simulation."""

BASELINES = ("highest TP", "fewest devices", "random")

Member = tuple[Case, Outcome]


@dataclass(frozen=True, slots=True)
class Option:
    """A plan that was measured. Scores: the higher, the better; 0 where it keeps the limit at no load.

    ``careful`` is the simulated score under a limit that is ``SPARE`` stricter.
    """

    name: str
    devices: int
    tp: int
    measured: float
    simulated: float
    careful: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Plans to choose from by one question. ``group`` is the model and the device."""

    set: str
    group: str
    question: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the simulation did. ``regrets``: who chooses -> share of the measured best that the choice does not reach."""

    problem: Problem
    spearman: float | None
    tau: float | None
    regrets: dict[str, float]


def judge(problem: Problem) -> Verdict:
    """Rank correlations (None below three plans, or where all are alike) and regrets; ties share theirs."""
    from scipy.stats import kendalltau, spearmanr

    measured, simulated = ([getattr(o, side) for o in problem.options] for side in ("measured", "simulated"))
    varied = len(measured) > 2 and len({*measured}) > 1 and len({*simulated}) > 1
    best = max(measured)
    regret = {o.name: 1.0 - o.measured / best for o in problem.options}

    def mean_regret(keeps: Callable[[Option], bool]) -> float:
        return fmean(regret[o.name] for o in problem.options if keeps(o))

    def chosen(scores: dict[str, float]) -> float:
        first = max(scores.values())
        return mean_regret(lambda o: scores[o.name] == first) if first > 0 else 1.0  # it would choose none

    careful = any(o.careful > 0 for o in problem.options)
    highest, fewest = max(o.tp for o in problem.options), min(o.devices for o in problem.options)
    others = (
        mean_regret(lambda o: o.tp == highest), mean_regret(lambda o: o.devices == fewest), mean_regret(lambda o: True)
    )  # fmt: skip
    return Verdict(
        problem,
        float(spearmanr(measured, simulated).statistic) if varied else None,
        float(kendalltau(measured, simulated).statistic) if varied else None,
        {
            "apexsim": chosen({o.name: o.simulated for o in problem.options}),
            "careful": chosen({o.name: o.careful if careful else o.simulated for o in problem.options}),
            **dict(zip(BASELINES, others, strict=True)),
        },
    )


def same_load(loads: Iterable[RankedLoad]) -> Iterator[Problem]:
    """Of each load: speed, speed per device where that is throughput, and speed among plans of equal size."""
    for load in loads:
        more_is_better = load.ranked_by == "output_tokens_per_s"
        rate = (lambda value: value) if more_is_better else (lambda value: 1.0 / value)
        options = tuple(
            Option(p.name, p.devices, p.tp, rate(p.measured), rate(p.simulated), rate(p.simulated)) for p in load.plans
        )
        group = f"{load.model} on {load.device}"
        whole = "throughput, all requests at once" if more_is_better else "latency, same load"
        yield Problem(load.set, group, whole, options)
        if load.load.startswith("concurrency") or more_is_better:
            sides = ("measured", "simulated", "careful")
            each = tuple(replace(o, **{side: getattr(o, side) / o.devices for side in sides}) for o in options)
            load_words = "all at once" if more_is_better else "same load"
            yield Problem(load.set, group, f"throughput per device, {load_words}", each)
        by_size = sorted(options, key=lambda o: o.devices)
        for _, alike in groupby(by_size, key=lambda o: o.devices):
            yield Problem(load.set, group, f"{whole}, equal devices", tuple(alike))


def within_limits(members: Sequence[Member]) -> Iterator[Problem]:
    """Of plans that were run at several loads or limits: the best figure of each that keeps a time per token."""
    figures = {
        "tpot_mean_s": {"throughput per device": _closed_loop_rate},
        "itl_p50_s": {"throughput per device": _token_rate, "energy per token": _tokens_per_joule},
    }
    for column, questions in figures.items():
        mine = [member for member in members if column in member[1].metrics]
        for key, group in _grouped(mine).items():
            for limit_s in LIMITS_S:
                for question, figure in questions.items():
                    words = f"{question}, {column.split('_')[0].upper()} ≤ {limit_s * 1e3:.0f} ms"
                    yield Problem(key[0], f"{key[1]} on {key[2]}", words, _best_within(group, column, limit_s, figure))


def _grouped(members: Sequence[Member]) -> dict[tuple[str, ...], list[Member]]:
    """Rows of one model, device and traffic; of closed loops only plans that were run at the usual loads."""
    found: dict[tuple[str, ...], list[Member]] = {}
    for case, outcome in members:
        row = case.row
        if case.load.kind == "concurrency":
            traffic = f"{row.get('input_tokens')} {row.get('output_tokens')}"
        elif case.load.kind == "offline":
            traffic = case.run.split("-h100")[0].split("/")[-1]  # task and model
        else:
            continue
        found.setdefault((case.set, case.model.name, str(row.get("device")), traffic), []).append((case, outcome))
    return {key: _usual(group) for key, group in found.items()}


def _usual(group: list[Member]) -> list[Member]:
    """A plan that was run at fewer loads than the others would look worse for it, measured and simulated alike."""
    loads: dict[str, set[object]] = {}
    for case, _ in group:
        loads.setdefault(_name(case), set()).add(case.row.get("concurrency"))
    most = max(len(found) for found in loads.values())
    alike = [found for found in loads.values() if len(found) == most]
    if most == 1:  # its load is part of a plan
        return group
    usual = max(alike, key=alike.count)
    kept = [(case, outcome) for case, outcome in group if loads[_name(case)] >= usual]
    return [(case, outcome) for case, outcome in kept if case.row.get("concurrency") in usual]


def _name(case: Case) -> str:
    """Of a plan; a recipe with pools was made for its load."""
    load = f" at {case.row.get('concurrency')}" if len(case.plan.pools) > 1 else ""
    return f"{case.plan.engine} {case.plan.id}{load}"


def _best_within(
    group: Sequence[Member], column: str, limit_s: float, figure: Callable[[Case, Outcome, str], float]
) -> tuple[Option, ...]:
    best: dict[str, Option] = {}
    for case, outcome in group:
        scores = {}
        for name, side, most_s in (
            ("measured", "measured", limit_s), ("simulated", "simulated", limit_s),
            ("careful", "simulated", limit_s * (1 - SPARE)),
        ):  # fmt: skip
            value = getattr(outcome.metrics[column], side)
            scores[name] = figure(case, outcome, side) if value is not None and value <= most_s else 0.0
        own, plan = _name(case), case.plan
        before = best.get(own, Option(own, plan.devices, plan.pools[-1].tp, 0.0, 0.0, 0.0))
        best[own] = replace(before, **{side: max(getattr(before, side), scores[side]) for side in scores})
    return tuple(best.values())


def _closed_loop_rate(case: Case, outcome: Outcome, side: str) -> float:
    """Requests/s and device: by Little's law, those in flight over the time of one."""
    ttft, tpot = (getattr(outcome.metrics[c], side) for c in ("ttft_mean_s", "tpot_mean_s"))
    return float(case.row.get("concurrency")) / (ttft + (case.row.get("output_tokens") - 1) * tpot) / case.plan.devices


def _token_rate(case: Case, outcome: Outcome, side: str) -> float:
    return float(getattr(outcome.metrics["output_tokens_per_s"], side)) / case.plan.devices


def _tokens_per_joule(case: Case, outcome: Outcome, side: str) -> float:
    return 1.0 / float(getattr(outcome.metrics["energy_j_per_output_token"], side))


def problems(members: Sequence[Member]) -> list[Problem]:
    """All problems of some simulated rows that offer a choice: two plans or more, one of which can be had."""
    loads = ranked_loads([case for case, _ in members], [outcome for _, outcome in members])
    every = (*same_load(loads), *within_limits(members))
    return [p for p in every if len(p.options) > 1 and max(o.measured for o in p.options) > 0]


def simulated(folder: Path, names: Sequence[str] = SETS) -> list[Member]:
    """Rows of sets that do not rest on a guess, each with its simulation; one process."""
    tables = [table for table in find_sets(folder).sets if table.name in names]
    cases = [case for table in tables for case in read_set(table) if isinstance(case, Case)]
    cases = [case for case in cases if not case.guessed]
    pairs = zip(cases, simulate_all(cases, workers=1), strict=True)
    return [(case, outcome) for case, outcome in pairs if outcome.skipped is None]


HEADER = (
    "problems", "plans", "Spearman", "tau", "within 5 %", "regret", "worst", "regret: careful",
    *(f"regret: {name}" for name in BASELINES),
)  # fmt: skip


def cells(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Of some verdicts: how many, plans of each (mean), median Spearman, mean tau, share of right choices, regrets."""
    mine = sorted(verdict.regrets["apexsim"] for verdict in verdicts)
    correlations = [v.spearman for v in verdicts if v.spearman is not None]
    taus = [v.tau for v in verdicts if v.tau is not None]
    return (
        str(len(verdicts)), f"{fmean(len(v.problem.options) for v in verdicts):.1f}",
        f"{median(correlations):.2f}" if correlations else "–", f"{fmean(taus):.2f}" if taus else "–",
        f"{fmean(regret <= NEAR for regret in mine):.0%}", f"**{fmean(mine):.1%}**",
        f"{mine[-1]:.0%}",
        *(f"{fmean(v.regrets[name] for v in verdicts):.1%}" for name in ("careful", *BASELINES)),
    )  # fmt: skip


def table(verdicts: Sequence[Verdict], label: Callable[[Verdict], str], title: str) -> str:
    """Markdown, one line for each label, in the order in which they first appear."""
    lines = [f"| {title} | " + " | ".join(HEADER) + " |", "|" + "---|" * (len(HEADER) + 1)]
    for name in dict.fromkeys(label(v) for v in verdicts):
        lines.append(f"| {name} | " + " | ".join(cells([v for v in verdicts if label(v) == name])) + " |")
    return "\n".join(lines) + "\n"


def page(verdicts: Sequence[Verdict], absent: Sequence[str], cpu_s: float) -> str:
    """The whole file."""
    today = date.today().isoformat()
    parts = [INTRODUCTION.format(version=__version__, date=today, minutes=cpu_s / 60, spare=SPARE)]
    parts.append("## All\n\n" + table(verdicts, lambda v: v.problem.question, "question"))
    for name in dict.fromkeys(v.problem.set for v in verdicts):
        mine = [v for v in verdicts if v.problem.set == name]
        parts.append(f"## {name}\n\n" + table(mine, lambda v: v.problem.question, "question"))
        parts.append(table(mine, lambda v: v.problem.group, "model and device, all questions"))
    if absent:
        parts.append(f"No problem in {', '.join(absent)}: no load there was served by two plans.\n")
    return "\n".join(parts)


INTRODUCTION = """# The chosen plan against the measured best

Made by `make plan-quality`: apexsim {version}, {date}, {minutes:.1f} minutes of one core.

A *problem* is a load, or a model with its traffic under a limit, that several plans were really measured on. apexsim
simulates each plan and would choose the first of its ranking. *Regret* is the share of the best measured figure that
the chosen plan does not reach (of 1/latency where latency is asked for): 0 % is the best plan itself. *Within 5 %*:
so often the choice was that near, which is how well runs repeat. Spearman (median) and Kendall's tau (mean) compare
the two rankings, in problems of three plans and more.

Beside it, what a user without a simulator may do: take the highest tensor parallelism, the fewest devices, or any
plan. Where several plans fit such a rule, their mean counts.

* *latency, same load*: mean time of a request (time per token for the replicas of `apex-h100-llama70b`) at one
  concurrency or trace; in a closed loop this is also throughput.
* *throughput per device*: what money buys. *Equal devices*: only plans of the same size.
* *TPOT ≤ x*, *ITL ≤ x*: the best figure of each plan at any measured load that keeps a limit on the mean time per
  token (median gap of `mlenergy-h100-dense`). Only plans that were run at the same loads. A plan that keeps the limit
  at none counts as 0, and so does a choice where none is predicted to keep it: such a choice has a regret of 100 %,
  be it by one per cent of the limit. `max_num_seqs` is part of a plan of `mlenergy-h100-dense`; in
  `closed-loop-disaggregated` so is the load that a recipe was made for.
* *careful*: chosen under a limit that is {spare:.0%} stricter, where any plan is predicted to keep that.

Plans may differ in precision and engine, too: a ranking across engines also ranks how well each is calibrated. Host
terms and memory constants were fitted on some of these sets ([docs/validation.md](../docs/validation.md)), a few for
all rows of an engine; nothing is tuned for one run. Rows that rest on a guess take no part.
"""


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("--")]
    if len(folders) != 1 or not folders[0].is_dir():
        sys.exit(f"usage: {Path(sys.argv[0]).name} FOLDER [--write]: a folder of validation sets (none there: skipped)")
    began = time.process_time()
    verdicts = [judge(problem) for problem in problems(simulated(folders[0]))]
    absent = [name for name in SETS if name not in {v.problem.set for v in verdicts}]
    text = page(verdicts, absent, time.process_time() - began)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text, "utf-8")
        print(f"written: {PAGE}")
    else:
        print(text)


if __name__ == "__main__":
    main()
