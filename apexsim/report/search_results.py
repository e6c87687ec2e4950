"""``ax.search``: the best plans for a model, a cluster, a load and an SLO, and what a notebook wants of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from apexsim import __version__
from apexsim.errors import ApexsimError, NoFeasiblePlan, UsageError
from apexsim.report import pareto_plot, search_plots
from apexsim.report.console import render
from apexsim.report.files import write_json, write_parquet
from apexsim.report.html import search_page
from apexsim.report.launch.deploy import Deployment, deployed_or_none
from apexsim.report.markup import tables_html
from apexsim.report.pictures import Picture, close
from apexsim.report.plan_columns import plan_row, plan_table, prefixes_of
from apexsim.report.search_doubt import Doubt, asked_for, doubt_about, verdict_columns, with_doubt
from apexsim.report.search_pictures import search_pictures
from apexsim.report.search_tables import search_tables
from apexsim.report.sensitivity_plots import tornado
from apexsim.report.simulation import Conditions, SimulationReport, as_trace, simulate_under
from apexsim.report.tables import Table
from apexsim.search.evaluate import prepare_candidate
from apexsim.search.executors import executor
from apexsim.search.figures import grams_per_million_tokens
from apexsim.search.journal import Journal
from apexsim.search.limits import Limits
from apexsim.search.miss import crash, nearest_miss
from apexsim.search.outcome import Evaluation
from apexsim.search.problem import Problem, make_problem
from apexsim.search.run import KEEP, Progress, SearchResult
from apexsim.search.run import search as run_search
from apexsim.search.space import Space
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.files import write_atomically
from apexsim.spec.slo import SLO
from apexsim.spec.units import parse_seconds
from apexsim.workload.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Group

TOP = 10
"""Plans that a table shows where nobody asks for more."""

JOURNAL = "journal.jsonl"

PAGE = "report.html"

LAUNCH = "launch"
"""Folder of what starts the best plan."""

OF_ITS_ANSWER = (
    "plans.parquet", "requests.parquet", "pareto.png", "goodput.png", "sensitivity.png",
    *(f"{LAUNCH}/{name}" for name in (
        "plan.yaml", "launch.sh", "router.conf", "disaggregated.yaml", "kubernetes.yaml", "dynamo.yaml", "llm-d.yaml",
        "*-options.yaml", "*-hosts",
    )),
)  # fmt: skip
"""Files that a search may write beside ``result.json``: not all of them for each answer."""


@dataclass(frozen=True)
class SearchReport:
    """Ranked plans. ``result`` holds everything, ``to_dict()`` is the JSON of ``apexsim search``."""

    result: SearchResult
    top: int = TOP
    journal_failure: str = ""  # why the journal is not complete, say because the disk was full
    doubt: Doubt = field(default_factory=Doubt)

    @property
    def best(self) -> Evaluation:
        """The plan of rank 1.

        Raises:
            NoFeasiblePlan: there is none; the message holds the nearest miss and what binds it.
            ApexsimError: plans crashed, so that nobody knows whether there is one.
        """
        if self.result.ranked:
            return self.result.ranked[0]
        if self.result.crashed:
            raise ApexsimError(f"no feasible plan was found, but {crash(self.result)}")
        raise NoFeasiblePlan(nearest_miss(self.result))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went wrong on the way to a result that is nevertheless one: crashed plans, a lost journal."""
        found = (crash(self.result) if self.result.ranked else "", self.journal_failure, self.result.interruption,
                 self.doubt.warning)  # fmt: skip
        return tuple(warning for warning in found if warning)

    @property
    def heading(self) -> str:
        problem, result = self.result.problem, self.result
        return (
            f"{problem.model.name} on {problem.cluster} under {len(problem.trace):,} requests of "
            f"{problem.trace.name} at {problem.rate_rps:.4g} req/s: {result.considered} plans, "
            f"{len(result.ranked)} feasible, {result.requests_simulated:,} requests simulated"
            f"{' (interrupted: not all plans were looked at)' if result.interrupted else ''}"
        )

    @cached_property
    def best_run(self) -> SimulationReport:
        """The best plan replayed once more on the full trace at the search's rate, ITL percentiles included."""
        problem = self.result.problem
        conditions = Conditions(
            problem.slo, price=problem.price_usd_per_hour, carbon=problem.carbon_g_per_kwh, seed=problem.seed
        )
        return simulate_under(prepare_candidate(self.best.plan), problem.trace, conditions)

    @cached_property
    def deployment(self) -> Deployment | None:
        """How the best plan is started; None where its engine has no launch commands here."""
        return deployed_or_none(self.best.plan)

    def to_dict(self) -> dict[str, Any]:
        """The search JSON (design §7), with how sure the first places are."""
        return with_doubt(self.result.to_dict(), self.doubt)

    def to_pandas(self) -> pd.DataFrame:
        """One row a ranked plan, best first: knobs, goodput, what it costs there, latencies (s) at the rate."""
        front, ranked = set(self.result.pareto), self.result.ranked
        prefixes = prefixes_of(e.plan for e in ranked)
        rows = [plan_row(place, e, e.id in front, prefixes) for place, e in enumerate(ranked, start=1)]
        for row in rows:
            row |= verdict_columns(self.doubt.confidence.verdicts.get(row["id"]))
        intensity = self.result.problem.carbon_g_per_kwh
        if intensity is not None:
            for row in rows:
                joules = row["j_per_output_token_at_goodput"]
                grams = None if joules is None else joules * grams_per_million_tokens(intensity)
                row["g_co2e_per_million_output_tokens_at_goodput"] = grams
        return plan_table(rows)

    def plot_pareto(self, ax: Axes | None = None) -> Axes:
        """The first two axes of the Pareto front against each other; the front is ringed.

        A third axis is the colour. Of four and more that were chosen each but the first has a panel of its own, over
        the first one; into an ``ax`` that is given only the first of them is drawn.
        """
        return pareto_plot.pareto(self.result.ranked, self.result.pareto, self.result.problem.chosen_axes, ax)

    def plot_goodput(self, ax: Axes | None = None) -> Axes:
        """SLO attainment over the offered rate, as it was tested, of the best plan of each shape."""
        return search_plots.attainment(self.result.ranked, self.result.problem.slo.target, ax)

    def plot_sensitivity(self, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
        """A tornado for the best plan: headroom over the load, and lead over the next plan, under each change.

        Raises:
            UsageError: the search was not asked for it (``sensitivity=3``).
        """
        return tornado(asked_for(self.doubt.sensitivity), axes)

    @cached_property
    def plan_yaml(self) -> str:
        """The best plan as a file, wherever that will lie."""
        plan = self.best.plan.model_dump(mode="json", exclude_defaults=True)
        if catalog.published(self.best.plan.model) is None:
            plan["model"] = str(Path(self.best.plan.model).resolve())  # a relative path counts from the plan's folder
        return str(yaml.safe_dump(plan, sort_keys=False))

    def to_html(self) -> str:
        """One page that needs nothing beside it: the question, the answer, the pictures, and how far to trust it."""
        with _drawn(self) as pictures:
            return search_page(self, pictures)

    def save(self, folder: Path | str) -> tuple[Path, ...]:
        """Write result.json, plans.parquet, the pictures, requests.parquet and launch/ of the best plan, report.html.

        What an earlier search left in its folder and this one has no use for goes: commands beside another answer would
        start the wrong plan.

        Raises:
            UsageError: the folder cannot be written.
        """
        folder = Path(folder)
        written = [folder / "result.json"]
        old = [path for name in OF_ITS_ANSWER for path in folder.glob(name)] if written[0].exists() else []
        write_json(written[0], self.to_dict())
        if self.result.ranked:
            written += [folder / "plans.parquet", folder / "requests.parquet"]
            write_parquet(written[1], self.to_pandas())
            write_parquet(written[2], self.best_run.to_pandas())
            written += self._save_launch(folder / LAUNCH)
        with _drawn(self) as pictures:
            for picture in pictures:
                written.append(folder / picture.file)
                write_atomically(written[-1], picture.png())
            beside = [path.relative_to(folder).as_posix() for path in written]
            written.append(folder / PAGE)
            write_atomically(written[-1], search_page(self, pictures, beside))
        for path in set(old) - set(written):
            path.unlink(missing_ok=True)
        return tuple(written)

    def _save_launch(self, folder: Path) -> tuple[Path, ...]:
        """The best plan as a file, and how it is started."""
        write_atomically(folder / "plan.yaml", self.plan_yaml)
        return (folder / "plan.yaml", *(self.deployment.save(folder) if self.deployment is not None else ()))

    @property
    def tables(self) -> tuple[Table, ...]:
        """The ranking, what is given up for what, and the plans that are not ranked."""
        return search_tables(self.result, self.top, self.doubt)

    def __rich__(self) -> Group:
        return render(self.tables)

    def _repr_html_(self) -> str:
        return tables_html(self.heading, self.tables)


def search(
    model: str,
    cluster: Cluster | str,
    trace: Trace | str | Path,
    slo: SLO | str,
    *,
    objective: str = "goodput",
    strategy: str = "auto",
    rate: float | None = None,
    price: float | None = None,
    carbon: float | None = None,
    space: Space | Mapping[str, Any] | Path | str | None = None,
    max_devices: int | None = None,
    min_devices: int | None = None,
    max_usd_per_hour: float | None = None,
    engine: str | None = None,
    pareto: str | Sequence[str] | None = None,
    top: int = TOP,
    out: Path | str | None = None,
    workers: int | None = None,
    backend: str = "process",
    plan_timeout: str | None = None,
    seed: int = 0,
    sensitivity: int = 0,
) -> SearchReport:
    """The best plans to serve ``model`` on ``cluster`` under ``trace``, so that ``slo`` is met:

        report = ax.search("Llama-3.1-70B", "8xh100-sxm", "burstgpt-day", "ttft=2s,tpot=100ms@0.9")
        report.best.plan, report.best.goodput_rps

    Args:
        model: a name of ``apexsim list models``, or the path of a config.json. trace: one, its path, or a bundled name.
        cluster: ``8xh100-sxm``, ``4x8xh100-sxm``, or a file.
        objective: goodput, goodput-per-device, attainment, energy, cost, latency, carbon or devices (the fewest).
        rate: requests/s at which a plan must meet the SLO to be ranked; the trace's own where None.
        price: USD per device-hour; the profile's where None. carbon: g CO2e per kWh.
        space: lists that replace the default ones, ``{"tp": [1, 2]}``, or a YAML file with them; max_devices,
            min_devices, max_usd_per_hour and engine stand in the place of its keys of these names.
        pareto: two or more objectives that the Pareto front compares; goodput per device, energy and cost where None.
        out: folder for the journal and, once done, the results; nothing is written where None.
        workers: as many as there are processors where None. backend: who runs them: process, ray or dask.
        plan_timeout: ``"10min"``: a plan that takes longer is dropped.
        sensitivity: so many of the first plans are also replayed at other loads, step times and output lengths.

    Raises:
        UsageError, InputError: a name, an SLO or a file that cannot be; without a winner only ``report.best`` raises.
    """
    where = catalog.cluster(cluster) if isinstance(cluster, str) else cluster
    problem = make_problem(
        model, where, as_trace(trace), catalog.slo(slo) if isinstance(slo, str) else slo, objective=objective,
        rate_rps=rate, price_usd_per_hour=price, carbon_g_per_kwh=carbon, space=space, seed=seed,
        limits=Limits(min_devices, max_devices, max_usd_per_hour, engine), pareto=pareto,
    )  # fmt: skip
    report = search_for(
        problem, strategy=strategy, top=top, out=out, workers=workers, backend=backend, sensitivity=sensitivity,
        plan_timeout_s=None if plan_timeout is None else parse_seconds(plan_timeout),
    )  # fmt: skip
    if out is not None:
        report.save(out)
    return report


def search_for(
    problem: Problem,
    *,
    strategy: str = "auto",
    top: int = TOP,
    out: Path | str | None = None,
    workers: int | None = None,
    backend: str = "process",
    plan_timeout_s: float | None = None,
    sensitivity: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> SearchReport:
    """The same with the question resolved, and nothing but the journal written: what the command line calls."""
    if sensitivity < 0:
        raise UsageError(f"sensitivity: {sensitivity} is not allowed; 0 or more plans")
    heading = {"search": problem.fingerprint, "version": __version__}
    with nullcontext() if out is None else Journal(Path(out) / JOURNAL, heading) as journal:
        result = run_search(
            problem,
            executor(backend, workers),
            strategy_name=strategy,
            keep=max(top, KEEP),
            journal=journal,
            plan_timeout_s=plan_timeout_s,
            on_progress=on_progress,
        )
    failure = "" if journal is None else journal.failure
    return SearchReport(result, top, failure, doubt_about(result, backend, workers, sensitivity))


@contextmanager
def _drawn(report: SearchReport) -> Iterator[tuple[Picture, ...]]:
    """The pictures, forgotten at the end."""
    pictures = search_pictures(report)
    try:
        yield pictures
    finally:
        close(pictures)
