"""Names to objects, loaded when first asked for.

A seam of the product (a router, a trace format, a technique, a cost model, a search strategy) is one table
here: ``name -> "module:Object"``. An outside package adds to a table with an entry point in the group
``apexsim.<seam>``; a name that is taken twice is an error, never a silent override.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from apexsim.errors import UsageError, unknown_name

SEAMS: dict[str, dict[str, str]] = {
    "routers": {
        "round-robin": "apexsim.engine.routers:RoundRobin",
        "round-robin-front-ends": "apexsim.engine.routers:FrontEnds",
        "random": "apexsim.engine.routers:Random",
        "least-loaded": "apexsim.engine.routers:LeastLoaded",
        "join-shortest-queue": "apexsim.engine.routers:JoinShortestQueue",
        "power-of-two": "apexsim.engine.routers:PowerOfTwo",
        "session-affine": "apexsim.engine.routers:SessionAffine",
        "prefix-aware": "apexsim.engine.routers:PrefixAware",
        "lora-aware": "apexsim.engine.routers:LoraAware",
    },
    "formats": {
        "apexsim": "apexsim.workload.formats.own:Own",
        "burstgpt": "apexsim.workload.formats.burstgpt:BurstGPT",
        "azure": "apexsim.workload.formats.azure:Azure",
        "mooncake": "apexsim.workload.formats.mooncake:Mooncake",
        "apex": "apexsim.workload.formats.apex:Apex",
        "servegen": "apexsim.workload.formats.servegen:ServeGen",
        "lengths": "apexsim.workload.formats.lengths:Lengths",
    },
    "metrics": {
        "cost": "apexsim.metrics.cost:METRICS",
        "energy": "apexsim.metrics.energy:METRICS",
        "latency": "apexsim.metrics.latency:METRICS",
        "slo": "apexsim.metrics.attainment:METRICS",
        "throughput": "apexsim.metrics.throughput:METRICS",
        "usage": "apexsim.metrics.usage:METRICS",
    },
    "techniques": {},
    "costs": {
        "analytic": "apexsim.cost.kernels:AnalyticKernels",
        "calibrated": "apexsim.cost.kernels:CalibratedKernels",
    },
    "strategies": {
        "grid": "apexsim.search.strategies:Grid",
        "race": "apexsim.search.race:Race",
    },
    "importers": {
        "vllm-bench-serve": "apexsim.validation.importers.vllm_serve:VllmServe",
        "vllm-bench-latency": "apexsim.validation.importers.vllm_latency:VllmLatency",
        "aiperf": "apexsim.validation.importers.aiperf:AiPerf",
        "guidellm": "apexsim.validation.importers.guidellm:GuideLlm",
        "prometheus": "apexsim.validation.importers.prometheus:Prometheus",
    },
    "machines": {
        "cpu": "apexsim.calibration.microbench.torch_machine:Cpu",
        "cuda": "apexsim.calibration.microbench.torch_machine:Cuda",
    },
}

_SINGULAR = {
    "routers": "router",
    "formats": "trace format",
    "metrics": "metric",
    "techniques": "technique",
    "costs": "cost model",
    "strategies": "search strategy",
    "importers": "result format",
    "machines": "machine",
}
"""What a message calls one entry of a seam."""


def names(seam: str) -> tuple[str, ...]:
    """All names of a seam, sorted; outside plug-ins included."""
    return tuple(sorted(_targets(seam)))


def load(seam: str, name: str) -> Any:
    """The object that ``name`` stands for in ``seam``.

    Raises:
        UsageError: nobody registered the name.
    """
    targets = _targets(seam)
    if name not in targets:
        raise UsageError(unknown_name(_SINGULAR[seam], name, targets))
    module, _, attribute = targets[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def _targets(seam: str) -> dict[str, str]:
    targets = dict(SEAMS[seam])
    for point in entry_points(group=f"apexsim.{seam}"):
        if point.name in targets:
            raise UsageError(f"{seam}: {point.name!r} is registered twice ({targets[point.name]}, {point.value})")
        targets[point.name] = point.value
    return targets
