"""apexsim: a discrete-event simulator and plan optimizer for LLM serving.

    import apexsim as ax
    ax.simulate("plan.yaml", "burstgpt-day", slo="ttft=2s,tpot=100ms@0.9")

Nothing is loaded before it is asked for, so ``import apexsim`` costs milliseconds.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ApexsimError": "apexsim.errors:ApexsimError",
    "Cluster": "apexsim.spec.cluster:Cluster",
    "HardwareProfile": "apexsim.spec.hardware:HardwareProfile",
    "ModelSpec": "apexsim.spec.model:ModelSpec",
    "Plan": "apexsim.spec.plan:Plan",
    "SLO": "apexsim.spec.slo:SLO",
    "Trace": "apexsim.workload.trace:Trace",
    "compare": "apexsim.report.comparison:compare",
    "device": "apexsim.spec.catalog:device",
    "explain": "apexsim.report.explanation:explain",
    "listing": "apexsim.report.listing:listing",
    "model": "apexsim.spec.catalog:model",
    "parse_slo": "apexsim.spec.slo:parse_slo",
    "plan_experts": "apexsim.report.placement:plan_experts",
    "plan_fleet": "apexsim.report.fleet:plan_fleet",
    "plan_pools": "apexsim.report.pool_nodes:plan_pools",
    "plan_precision": "apexsim.report.layer_formats:plan_precision",
    "read_trace": "apexsim.workload.read:read_trace",
    "search": "apexsim.report.search_results:search",
    "simulate": "apexsim.report.simulation:simulate",
    "validate": "apexsim.report.validation:validate",
    "what_if": "apexsim.report.what_if:what_if",
}
"""Public name -> "module:object". ``__init__.pyi`` says the same to type checkers; a test holds them together."""

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604  # strings all, from the table above


class _Package(ModuleType):
    """Keeps ``apexsim.search`` the function: a subpackage, once imported, would put itself in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PUBLIC and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
