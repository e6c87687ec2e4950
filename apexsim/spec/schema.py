"""JSON Schemas of the files that a user writes, from the same classes that read them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

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


class _AsWritten(GenerateJsonSchema):
    """A default is text with its unit where that is what a file takes."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        found = super().default_schema(schema)
        writes = schema["schema"].get("serialization")
        if writes is not None and writes["type"] == "function-plain" and found.get("default") is not None:
            found["default"] = writes["function"](schema["default"])
        return found


def schemas() -> dict[str, dict[str, Any]]:
    """Name to JSON Schema (draft 2020-12) of plan, cluster, SLO, hardware profile and model."""
    return {name: schema_of(name, cls) for name, cls in _CLASSES.items()}


def schema_of(name: str, cls: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of the file that ``cls`` reads."""
    return {"title": name, **cls.model_json_schema(schema_generator=_AsWritten)}
