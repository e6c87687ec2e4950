"""The question of formats by layer: what each may be, what that loses, and what it costs in a simulation.

Time, energy and weights of a workload are taken as sums over layers. Layers of one kind cost alike, so of each kind and
format one plan is simulated in which all of its layers have that format and all others the leanest; the difference to
the leanest plan, divided by the number of layers, is what one layer adds. Uniform plans are so exact; what mixed ones
really take is simulated once more for the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field, PositiveInt

from apexsim.cost.memory import DoesNotFit
from apexsim.errors import InputError, NoFeasiblePlan
from apexsim.scenario import Prepared, prepare, run
from apexsim.search.question import beside, read_csv, read_question
from apexsim.spec import catalog
from apexsim.spec.base import Strict, parse
from apexsim.spec.formats import weight_bytes, word_of
from apexsim.spec.layer_precision import PrecisionRule
from apexsim.spec.plan import Plan
from apexsim.spec.units import Bytes, Seconds
from apexsim.workload.trace import Trace

PARTS = ("all", "attention", "mlp", "experts", "shared_experts")
COLUMNS = ("layer", "format", "loss")


class FormatsLimits(Strict):
    """What the formats must keep."""

    loss: float | None = Field(None, description="accuracy budget: sum of the losses of the table, in its unit")
    weights: Bytes | None = Field(
        None, gt=0, description="weights of one device; what leaves room for the KV of the batch where left out"
    )
    time: Seconds | None = Field(None, gt=0, description="time of the workload")


class FormatsProblem(Strict):
    """Formats of the weights of each layer to be chosen."""

    plan: str | dict[str, Any] = Field(description="the plan whose layers get formats: a file, or its mapping")
    sensitivity: str = Field(description="CSV layer,format,loss (and part): what a layer loses in each of its formats")
    objective: Literal["time", "energy", "memory", "loss"] = Field("time", description="what to make least")
    batch: PositiveInt = Field(32, description="requests of the workload, all at once")
    input_tokens: PositiveInt = Field(1024, description="prompt tokens of each")
    output_tokens: PositiveInt = Field(256, description="generated tokens of each")
    limits: FormatsLimits = Field(FormatsLimits(), description="what must be kept")


class Cost(NamedTuple):
    """Of the workload, on all devices; weights of one device."""

    time_s: float
    energy_j: float | None
    weights_bytes: float


@dataclass(frozen=True, slots=True)
class Item:
    """A part of a layer, with the losses of its formats in the order of the table."""

    layer: int
    part: str
    losses: dict[str, float]

    @property
    def leanest(self) -> str:
        """The format with the fewest bytes a weight; of equal ones the first."""
        return min(self.losses, key=lambda word: weight_bytes(word_of(*_split(word))))


Chosen = Mapping[tuple[int, str], str]
"""(layer, part) → format."""


@dataclass(frozen=True)
class FormatsQuestion:
    """A problem with its table read and its formats priced.

    Attributes:
        base: cost with every item at its leanest format. added: (index of the item, format) → what it adds to that.
        closed: formats that some layers cannot have → why, of the last kind of layers that it was asked for.
        weights_most: bytes of one device that the weights may have.
    """

    problem: FormatsProblem
    plan: Plan
    items: tuple[Item, ...]
    base: Cost
    added: dict[tuple[int, str], Cost]
    closed: dict[str, str]
    weights_most: float

    def simulated(self, chosen: Chosen) -> Cost | None:
        """What a choice really takes; None where it does not fit."""
        priced = _priced(with_formats(self.plan, chosen), self.problem)
        return None if isinstance(priced, str) else priced[0]


def read_formats(source: FormatsProblem | Mapping[str, Any] | Path | str) -> FormatsQuestion:
    """The question with what every layer costs in each of its formats.

    Raises:
        InputError: a file that says something impossible. NoFeasiblePlan: not even the leanest formats can be had.
    """
    problem, folder, name = read_question(FormatsProblem, source, "formats")
    if isinstance(problem.plan, str):
        plan = catalog.load_plan(beside(folder, problem.plan))
    else:
        plan = parse(Plan, problem.plan, source=f"{name}: plan")
    if len(plan.pools) > 1 or plan.pools[0].pp > 1:
        raise InputError(f"{name}: plan: formats are chosen for one pool without pipeline stages, whose layers add up")
    layers = catalog.model(plan.model).layers
    items = _items(beside(folder, problem.sensitivity), layers)
    leanest = {(item.layer, item.part): item.leanest for item in items}
    priced = _priced(with_formats(plan, leanest), problem)
    if isinstance(priced, str):
        raise NoFeasiblePlan(f"the leanest format of every layer cannot be had: {priced}")
    base, room = priced
    added, closed = _added(plan, problem, items, base)
    most = problem.limits.weights if problem.limits.weights is not None else room
    return FormatsQuestion(problem, plan, items, base, added, closed, most)


def with_formats(plan: Plan, chosen: Chosen) -> Plan:
    """The plan with rules that give these formats, after those that it has."""
    rules = [
        {"layers": _ranges(sorted(layers)), "part": part} | dict(
            zip(("weights", "activations"), _split(word), strict=False)
        )
        for (part, word), layers in _together(chosen).items()
    ]
    data = plan.model_dump(mode="json")
    data["pools"][0]["precision"] += [{key: value for key, value in rule.items() if value} for rule in rules]
    return parse(Plan, data, source="plan")


def _together(chosen: Chosen) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = {}
    for (layer, part), word in sorted(chosen.items()):
        found.setdefault((part, word), []).append(layer)
    return found


def _ranges(layers: Sequence[int]) -> str:
    """``0-3,60``."""
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _split(word: str) -> tuple[Any, Any]:
    weights, _, activations = word.partition("/")
    return weights, activations or None


def _items(path: Path, layers: int) -> tuple[Item, ...]:
    table = read_csv(path)
    if not set(COLUMNS) <= set(table.columns) <= {*COLUMNS, "part"}:
        told = f"columns {', '.join(map(str, table.columns))}"
        raise InputError(f"{path}: {told}: expected layer, format, loss, and part where it is needed")
    found: dict[tuple[int, str], dict[str, float]] = {}
    for number, row in enumerate(table.to_dict("records"), start=1):
        where = f"{path}: row {number}"
        layer, word, loss = (pd.to_numeric(row["layer"], errors="coerce"), str(row["format"]).strip(), row["loss"])
        part = str(row.get("part", "all")).strip()
        if not 0 <= layer < layers or layer % 1:
            raise InputError(f"{where}: layer = {row['layer']}: the model has layers 0 to {layers - 1}")
        if part not in PARTS:
            raise InputError(f"{where}: part = {part}: allowed: {', '.join(PARTS)}")
        weights, activations = _split(word)
        parse(PrecisionRule, {"weights": weights, "activations": activations}, source=where)
        if not np.isfinite(pd.to_numeric(loss, errors="coerce")):
            raise InputError(f"{where}: loss = {loss}: must be a number")
        losses = found.setdefault((int(layer), part), {})
        if word in losses:
            raise InputError(f"{where}: {word} stands twice for layer {int(layer)}, part {part}")
        losses[word] = float(loss)
    for layer, part in found:
        if part != "all" and (layer, "all") in found:
            raise InputError(f"{path}: layer {layer} has rows for part all and for {part}: one of the two")
    if not found:
        raise InputError(f"{path}: no rows")
    return tuple(Item(layer, part, losses) for (layer, part), losses in sorted(found.items()))


def _priced(plan: Plan, problem: FormatsProblem) -> tuple[Cost, float] | str:
    """(cost of the workload, bytes of one device that weights may have beside its KV), or why the plan does not fit."""
    prepared = prepare(plan, source="plan")
    if isinstance(prepared, DoesNotFit):
        return prepared.reason
    count = problem.batch
    lengths = (np.full(count, problem.input_tokens), np.full(count, problem.output_tokens))
    done = run(prepared, Trace("workload", np.zeros(count), *lengths), with_itl=False).summary
    if done.requests.completed < count:
        return f"the KV cache does not hold a request of {problem.input_tokens + problem.output_tokens} tokens"
    weights = prepared.compiled.memory.weights_bytes_per_device
    return Cost(done.duration_s, done.energy.total_j, weights), weights + _spare(prepared, problem)


def _spare(prepared: Prepared, problem: FormatsProblem) -> float:
    """Bytes of one device that the KV of the batch leaves free."""
    memory, pool = prepared.compiled.memory, prepared.pool
    tokens = problem.input_tokens + problem.output_tokens
    each = -(-problem.batch // (pool.replicas * pool.dp))
    needed = each * tokens
    return max(memory.kv_capacity_tokens - needed, 0) * memory.kv_bytes_per_token_per_device


def _added(
    plan: Plan, problem: FormatsProblem, items: Sequence[Item], base: Cost
) -> tuple[dict[tuple[int, str], Cost], dict[str, str]]:
    """(index of the item, format) → what one layer of its kind adds; formats that cannot be had are left out."""
    order = catalog.model(plan.model).order
    alike: dict[tuple[int, str, str, str], list[int]] = {}
    for place, item in enumerate(items):
        for word in item.losses:
            alike.setdefault((order[item.layer], item.part, item.leanest, word), []).append(place)
    added: dict[tuple[int, str], Cost] = {}
    closed: dict[str, str] = {}
    for (_, _, leanest, word), places in alike.items():
        one = Cost(0.0, 0.0, 0.0) if word == leanest else _of_one(plan, problem, items, places, word, base)
        if isinstance(one, str):
            closed[word] = one
        else:
            added |= {(place, word): one for place in places}
    return added, closed


def _of_one(
    plan: Plan, problem: FormatsProblem, items: Sequence[Item], places: Sequence[int], word: str, base: Cost
) -> Cost | str:
    """What one layer adds, from all of them together where they fit, else from one."""
    reason = ""
    for count in (len(places), 1):
        chosen = {(item.layer, item.part): item.leanest for item in items}
        chosen |= {(items[place].layer, items[place].part): word for place in places[:count]}
        priced = _priced(with_formats(plan, chosen), problem)
        if not isinstance(priced, str):
            cost = priced[0]
            joules = None if cost.energy_j is None or base.energy_j is None else cost.energy_j - base.energy_j
            return Cost(
                (cost.time_s - base.time_s) / count, None if joules is None else joules / count,
                (cost.weights_bytes - base.weights_bytes) / count,
            )
        reason = priced
    return reason
