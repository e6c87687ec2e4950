"""One side of a comparison: a plan, or what an earlier command wrote as JSON, read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from apexsim.errors import InputError
from apexsim.metrics.paired import Served
from apexsim.metrics.summary import Summary
from apexsim.report.pairing import served_of
from apexsim.spec.base import load_yaml

RESULT = "result.json"
"""The file that stands for the folder of a search."""

REQUESTS = "requests.parquet"
"""Beside it, the requests of its best plan."""

TABLE = "requests_table"
"""Key of a simulation's JSON: the file of ``--requests-out`` that was written with it."""

PLAN, SIMULATION, SEARCH, VALIDATION = "a plan", "a simulation", "a search", "a validation"

KINDS = {PLAN: "pools", SIMULATION: "ttft_s", SEARCH: "plans", VALIDATION: "runs"}
"""What a file may hold -> the key that only such a file has at its top."""


@dataclass(frozen=True)
class Side:
    """What one file says.

    Attributes:
        name: what tables call it.
        kind: a name of ``KINDS``.
        summary: of a simulation, or of the best plan of a search; None for a plan, which has yet to run.
        plan: as nested keys; None where the file does not say it.
        ranking: plan id -> entry of the search's JSON, best first; empty but for a search.
        errors: metric -> statistics of a validation; empty for anything else.
        requests: what became of each request of a simulation, or of the best plan of a search; why it is not known.
    """

    name: str
    kind: str
    summary: Summary | None = None
    plan: Mapping[str, Any] | None = None
    ranking: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requests: Served | str = "no simulation"


def read_side(path: Path | str) -> Side:
    """The side that a plan file, a result file or the folder of a search stands for.

    Raises:
        InputError: no such file, or one that no command of apexsim wrote.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RESULT
    data = load_yaml(path)
    kind = next((kind for kind, key in KINDS.items() if key in data), None)
    name = str(path)
    if kind is None:
        raise InputError(
            f"{name}: neither a plan nor the JSON of simulate, search or validate (expected one of the keys "
            f"{', '.join(KINDS.values())})"
        )
    if kind == SEARCH:
        return _search(path, data)
    if kind == VALIDATION:
        return Side(name, kind, errors=_mapping(name, data, "summary"))
    if kind == PLAN:
        return Side(name, kind)
    summary, plan = summary_of(name, data), _mapping(name, data, "plan") if "plan" in data else None
    return Side(name, kind, summary, plan, requests=served_of(_table_of(path, data), summary))


def _table_of(path: Path, data: Mapping[str, Any]) -> Path | None:
    """The table of requests that was written with a result; its name counts from the result's folder."""
    named = data.get(TABLE)
    if named is None:
        return None
    if not isinstance(named, str):
        raise InputError(f"{path}: {TABLE} = {named!r}: must be the name of a file")
    return path.parent / named


def _search(path: Path, data: Mapping[str, Any]) -> Side:
    name = str(path)
    plans = data["plans"]
    if not isinstance(plans, list) or not all(isinstance(plan, dict) and "id" in plan for plan in plans):
        raise InputError(f"{name}: plans: must be the list that apexsim search writes")
    ranking = {plan["id"]: plan for plan in plans}
    best = plans[0] if plans else None
    if best is None:
        return Side(name, SEARCH, ranking=ranking)
    summary = summary_of(f"{name}: plans[0]", _mapping(name, best, "summary"))
    table = path.parent / REQUESTS if path.name == RESULT else None
    return Side(name, SEARCH, summary, _mapping(name, best, "plan"), ranking, requests=served_of(table, summary))


def _mapping(name: str, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    if not isinstance(found, dict):
        raise InputError(f"{name}: {key}: {'missing' if found is None else 'must be a mapping of keys to values'}")
    return found


def summary_of(name: str, data: Mapping[str, Any]) -> Summary:
    """The summary whose ``to_dict`` is ``data``. Raises InputError, which names ``name`` and the key."""
    try:
        return TypeAdapter(Summary).validate_python(data)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        key = ".".join(str(step) for step in first["loc"])
        says = "missing" if first["type"] in ("missing", "missing_argument") else first["msg"]
        raise InputError(f"{name}: {key}: {says[0].lower()}{says[1:]} (is it the JSON of apexsim simulate?)") from None
