"""From a row to what is simulated: plan, load, window and clocks, with every default that was needed.

A row that cannot be simulated is a ``Skipped`` with its reason, never a guess: where no honest default exists, or
where this release does not simulate what ran.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apexsim.cost.host import HostModel, host_model
from apexsim.errors import ApexsimError, InputError
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan
from apexsim.validation.columns import Row
from apexsim.validation.drafting import speculative_of, waiting_of
from apexsim.validation.limits import limits_of, preset_of
from apexsim.validation.loads import Load, load_of
from apexsim.validation.precision import activation_dtype, kv_dtype, weight_dtype
from apexsim.validation.recipes import recipe_of
from apexsim.validation.roles import engine_of, is_disaggregated, nodes_of, role_pools, role_router
from apexsim.validation.sets import RunTable
from apexsim.validation.stated import CannotSimulate, Known

PER_NODE = 8
"""Devices of a node, where a run used that many."""


@dataclass(frozen=True)
class Case:
    """One measured run, ready to be simulated.

    Attributes:
        set: name of its validation set.
        model: the plan's model; its context is stretched where the run's ``max_model_len`` is longer.
        window: ``all``, or ``steady``: what throughput, power and mean batch were measured over.
        ttft_anchor: ``arrival`` or ``engine``: the instant that TTFT is measured from.
        measured_at: ``client`` (over HTTP), ``server`` or ``engine`` (no entry and exit time in any number).
        cuda_graphs: False where the run replayed none.
        async_scheduling: whether the next batch was decided beside the device; None = as the version does.
        assumptions: every default in force, as ``column = value (why)``.
        guessed: those of them that nobody can tell from another value, as ``column = value``.
        graphs: sequences for which a graph was captured at least; None = as the engine's version does.
    """

    set: str
    folder: Path
    row: Row
    plan: Plan
    model: ModelSpec
    load: Load
    window: str
    ttft_anchor: str
    measured_at: str
    cuda_graphs: bool
    async_scheduling: bool | None
    assumptions: tuple[str, ...]
    guessed: tuple[str, ...] = ()
    graphs: int | None = None

    @property
    def run(self) -> str:
        return self.row.name

    @property
    def measured(self) -> dict[str, float]:
        return self.row.measured()

    def host(self, given: HostModel | None = None) -> HostModel:
        """Host terms of this run: ``given``, or those of its engine's version; without what was not measured."""
        device = catalog.device(self.plan.cluster.device)
        host = given or host_model(self.plan.engine, self.plan.engine_version, device.folder)
        if self.graphs is not None:
            host = replace(host, largest_graph=max(host.largest_graph, self.graphs))
        if not self.cuda_graphs:
            host = replace(host, largest_graph=0)
        if self.async_scheduling is not None:
            host = replace(host, asynchronous=self.async_scheduling)
        if self.measured_at != "client":
            host = replace(host, entry_s=0.0, exit_s=0.0)
        if self.load.kind == "static":
            # one batch, started by hand: no scheduler runs
            host = replace(host, iteration_s=0.0, sequence_s=0.0, gap_s=0.0, gap_sequence_s=0.0)
        return host


@dataclass(frozen=True)
class Skipped:
    """A row that is not simulated, and why.

    Attributes:
        mistake: the row itself is wrong (a name that nobody knows), not this release too small for it.
    """

    set: str
    row: Row
    reason: str
    mistake: bool = False

    @property
    def run(self) -> str:
        return self.row.name


def read_set(table: RunTable, assume: Mapping[str, Any] | None = None) -> list[Case | Skipped]:
    """Every row of a set, in its order.

    Args:
        assume: column -> value for cells that are empty, before any default.

    Raises:
        InputError: a file that a row names is not there.
    """
    return [make_case(row, table, assume or {}) for row in table.rows]


def make_case(row: Row, table: RunTable, assume: Mapping[str, Any]) -> Case | Skipped:
    """One row as a case, or why it is skipped. Raises InputError for a file that is not there."""
    known = Known(row, assume)
    try:
        return _case(row, table, known)
    except CannotSimulate as problem:
        return Skipped(table.name, row, str(problem), problem.mistake)


def _case(row: Row, table: RunTable, known: Known) -> Case:
    _refuse_what_is_not_simulated(known)
    model = _model(row)
    plan = _plan(known, model)
    longest = known.get("max_model_len")
    if longest is not None and longest > model.max_context:
        known.assume(f"the context of {model.name} is stretched to max_model_len = {longest}")
        model = model.model_copy(update={"max_context": longest})
    load = load_of(known, table.folder, plan)
    static = load.kind == "static"
    return Case(
        set=table.name, folder=table.folder, row=row, plan=plan, model=model, load=load,
        window=str(known.default("window", "all", silent=True)),
        ttft_anchor=str(known.default("ttft_anchor", "arrival", silent=True)),
        measured_at=str(known.default("measured_at", "engine" if static else "client", silent=static)),
        cuda_graphs=known.get("cuda_graphs") is not False, async_scheduling=known.get("async_scheduling"),
        assumptions=tuple(known.assumed), guessed=tuple(known.guessed), graphs=recipe_of(row).get("decode_batch"),
    )  # fmt: skip


def _refuse_what_is_not_simulated(known: Known) -> None:
    if known.get("modality") == "multimodal":
        raise CannotSimulate("multimodal input: image tokens and the vision encoder are not part of the simulation")


def _model(row: Row) -> ModelSpec:
    for column, lookup in (("model", catalog.model), ("device", catalog.device)):
        if row.get(column) is None:
            raise CannotSimulate(f"{row.where(column)} is empty (allowed: a name)", mistake=True)
        try:
            lookup(row.get(column))
        except ApexsimError as problem:
            raise CannotSimulate(f"{row.where(column)}: {problem}", mistake=True) from None
    return catalog.model(row.get("model"))


def _plan(known: Known, model: ModelSpec) -> Plan:
    row = known.row
    engine = str(known.default("engine", "vllm"))
    version = known.get("engine_version")
    data = {
        "model": row.get("model"), "engine": engine,
        **(_roles if is_disaggregated(known) else _alike)(known, model, engine, version),
    }  # fmt: skip
    try:
        plan = parse(Plan, data, source=f"{row.file}: row {row.number} ({row.name})")
    except InputError as problem:
        raise CannotSimulate(str(problem), mistake=True) from None
    return plan


def _alike(known: Known, model: ModelSpec, engine: str, version: str | None) -> dict[str, Any]:
    """Pools, cluster, router and version of a run of one or several engines that are all alike."""
    row = known.row
    degrees = {name: int(known.default(name, 1)) for name in ("tp", "pp", "dp", "ep")}
    each = degrees["tp"] * degrees["pp"] * degrees["dp"]
    devices = int(known.default("devices", each))
    if devices % each:
        raise CannotSimulate(
            f"{row.where('devices')} is {devices} (allowed: a multiple of tp · pp · dp = {each})", mistake=True
        )
    preset = preset_of(known, engine, version)
    scheduler = {"preset": preset, **limits_of(known, preset, engine), **waiting_of(known, engine, degrees["dp"])}
    pool = {
        **degrees, "replicas": devices // each, **_formats(known, model, engine), "scheduler": scheduler,
        "speculative": speculative_of(known), "moe_tp": known.get("moe_tp"),
    }  # fmt: skip
    nodes = {"devices_per_node": min(devices, PER_NODE), "nodes": -(-devices // PER_NODE)}
    return {
        "cluster": {"device": row.get("device"), **nodes}, "pools": [pool],
        "router": _router(known, devices // each, degrees["dp"]), "engine_version": _numbers(known, version),
    }  # fmt: skip


def _formats(known: Known, model: ModelSpec, engine: str) -> dict[str, Any]:
    """Keys of any pool of the run: number formats and what memory holds."""
    keys = {
        "weights": weight_dtype(known, model), "activations": activation_dtype(known),
        "kv_cache": kv_dtype(known, engine), "max_model_len": known.get("max_model_len"),
    }  # fmt: skip
    share = known.get("gpu_memory_utilization")
    return keys if share is None else {**keys, "gpu_memory_utilization": share}


def _roles(known: Known, model: ModelSpec, engine: str, version: str | None) -> dict[str, Any]:
    """``_alike`` of a run whose workers prefill or decode."""
    preset = preset_of(known, engine, version)
    scheduler = {"preset": preset, **limits_of(known, preset, engine)}
    pools = role_pools(known, _formats(known, model, engine), scheduler)
    nodes = {"devices_per_node": PER_NODE, "nodes": nodes_of(pools, PER_NODE)}
    return {
        "cluster": {"device": known.row.get("device"), **nodes},
        "pools": pools, "router": role_router(known, pools), "engine_version": engine_of(known, engine, version),
    }  # fmt: skip


def _router(known: Known, replicas: int, dp: int) -> str:
    """Who spreads the requests: a harness over engines, in turn; an engine over its attention ranks, by their load."""
    who = f"{replicas} independent engines = devices / (tp · pp · dp), requests" if replicas > 1 else "requests"
    if dp > 1:
        known.assume(f"{who} to the attention rank with the fewest unfinished ones")
        return "join-shortest-queue"
    if replicas > 1:
        known.assume(f"{who} in turn")
    return "round-robin" if replicas > 1 else "least-loaded"


def _numbers(known: Known, version: str | None) -> str | None:
    """A version that begins with numbers; ``gpt-oss-dev`` is nobody's."""
    found = re.match(r"v?(\d+\.\d+.*)", version or "")
    if found:
        return found[1]
    known.assume("engine_version = newest known" + (f" ({version!r} is no number)" if version else ""))
    return None
