"""JSON Schemas of the files that a user writes, from the same classes that read them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from apexsim.spec.cluster import Cluster
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan
from apexsim.spec.slo import SLO

_CLASSES: dict[str, type[BaseModel]] = {
    "plan": Plan,
    "cluster": Cluster,
    "slo": SLO,
    "hardware-profile": HardwareProfile,
    "model": ModelSpec,
}


def schemas() -> dict[str, dict[str, Any]]:
    """Name to JSON Schema (draft 2020-12) of plan, cluster, SLO, hardware profile and model."""
    return {name: {"title": name, **cls.model_json_schema()} for name, cls in _CLASSES.items()}
