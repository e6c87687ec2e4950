"""JSON Schemas of every file that a user writes: those of ``spec``, and the questions of search, check and plan."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from apexsim.search.baseline import Baseline
from apexsim.search.experts import ExpertsProblem
from apexsim.search.fleet import FleetProblem
from apexsim.search.formats import FormatsProblem
from apexsim.search.pools import PoolsProblem
from apexsim.search.space import Space
from apexsim.spec.schema import schema_of, schemas

QUESTIONS: dict[str, type[BaseModel]] = {
    "space": Space,
    "baseline": Baseline,
    "fleet": FleetProblem,
    "pools": PoolsProblem,
    "experts": ExpertsProblem,
    "precision": FormatsProblem,
}
"""The last four as ``apexsim plan`` calls them."""


def all_schemas() -> dict[str, dict[str, Any]]:
    """Name to JSON Schema (draft 2020-12)."""
    found = schemas() | {name: schema_of(name, cls) for name, cls in QUESTIONS.items()}
    del found["space"]["required"]  # lists that a file leaves out follow from model, device and cluster
    return found
