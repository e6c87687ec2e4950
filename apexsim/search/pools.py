"""The question of pools on nodes: shapes of prefill and decode replicas, and what nodes and links hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from apexsim.errors import InputError
from apexsim.search.pool_rates import phase_rate
from apexsim.search.question import beside, read_question
from apexsim.spec import catalog
from apexsim.spec.base import Strict, parse
from apexsim.spec.cluster import Cluster, DeviceGroup, island_size
from apexsim.spec.dtypes import KvDtype
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.plan import Plan
from apexsim.spec.units import Bandwidth, Bytes
from apexsim.workload.read import read_trace

PREFILL, DECODE = "prefill", "decode"


class Shape(Strict):
    """One kind of replica of one role."""

    name: str = Field(min_length=1, description="what tables call it")
    role: Literal["prefill", "decode"] = Field(description="which phase of a request it serves")
    devices: PositiveInt = Field(1, description="devices of one replica")
    rate: PositiveFloat | None = Field(None, description="requests/s whose phase one replica serves within the SLO")
    pool: dict[str, Any] | None = Field(
        None, description="in place of devices and rate: the replica as a plan's pool, whose goodput is simulated"
    )
    device: str | None = Field(None, description="its devices, where the cluster has several kinds")


class PoolsLimits(Strict):
    """What a placement must keep."""

    devices: PositiveInt | None = Field(None, description="devices of all replicas together")
    prefill: PositiveInt | None = Field(None, description="prefill replicas")
    decode: PositiveInt | None = Field(None, description="decode replicas")


class PoolsProblem(Strict):
    """Prefill and decode replicas to be put on nodes."""

    cluster: Cluster = Field(description="nodes and their links: short, 4x8xh100-sxm, or a mapping")
    objective: Literal["goodput", "devices"] = Field(
        "goodput", description="most requests/s, or fewest devices for rate"
    )
    rate: PositiveFloat | None = Field(None, description="requests/s to be served, for objective: devices")
    shapes: tuple[Shape, ...] = Field(min_length=1, strict=False, description="kinds of replicas")
    trace: str | None = Field(None, description="what shapes with a pool are simulated under: a file or a bundled name")
    slo: str | None = Field(None, description="and the SLO that they keep, each role by itself")
    kv_bytes: Bytes | None = Field(None, gt=0, description="KV of one request that goes from prefill to decode")
    model: str | None = Field(None, description="in place of kv_bytes: the model, whose KV it is, and of the pools")
    kv_cache: KvDtype = Field("bf16", description="dtype of that KV")
    input_tokens: PositiveFloat | None = Field(None, description="and the tokens of a prompt, the mean over requests")
    nic: Bandwidth | None = Field(
        None, gt=0, description="network of a whole node, one direction, beside that of its devices"
    )
    link_share: float = Field(1.0, gt=0, le=1, description="share of the links that KV may use in the mean")
    headroom: float = Field(0.0, ge=0, lt=1, description="share of each replica's rate that is kept free")
    limits: PoolsLimits = Field(PoolsLimits(), description="what must be kept")

    @model_validator(mode="after")
    def _consistent(self) -> PoolsProblem:
        if self.objective == "devices" and self.rate is None:
            raise ValueError("objective: devices needs rate, the requests/s to be served")
        if (self.kv_bytes is None) == (self.model is None):
            raise ValueError("kv_bytes: needed, or model and input_tokens in its place, but not both")
        if self.model is not None and self.input_tokens is None and self.trace is None:
            raise ValueError("input_tokens: missing beside model (or trace, whose mean it is)")
        for shape in self.shapes:
            if (shape.rate is None) == (shape.pool is None):
                raise ValueError(f"shapes: {shape.name}: rate: needed, or pool in its place, but not both")
            if shape.pool is not None and None in (self.model, self.trace, self.slo):
                raise ValueError(f"shapes: {shape.name}: pool: needs model, trace and slo beside the shapes")
            if (shape.pool is None) != ("devices" in shape.model_fields_set):
                told = "missing" if shape.pool is None else f"{shape.devices}, but a pool says it with its degrees"
                raise ValueError(f"shapes: {shape.name}: devices: {told}")
        for role in (PREFILL, DECODE):
            if not any(shape.role == role for shape in self.shapes):
                raise ValueError(f"shapes: none has role: {role}")
        names = [shape.name for shape in self.shapes]
        if len(set(names)) < len(names):
            raise ValueError(f"shapes: the name {next(n for n in names if names.count(n) > 1)!r} stands twice")
        kinds = [group.device for group in self.cluster.groups]
        for shape in self.shapes:
            if shape.device is not None and shape.device not in kinds:
                raise ValueError(f"shapes: {shape.name}: device = {shape.device}: the cluster holds {', '.join(kinds)}")
        return self


@dataclass(frozen=True, slots=True)
class Box:
    """Nodes that are all alike; where scale-up links leave a node, what they join counts as one."""

    device: str
    devices: int
    count: int
    link: float  # B/s of one device's network, as far as KV may use it
    nic: float  # B/s of the whole node's
    near: float  # B/s of one device inside the node


@dataclass(frozen=True, slots=True)
class PoolsQuestion:
    """A problem with every name resolved."""

    problem: PoolsProblem
    kv_bytes: float
    boxes: tuple[Box, ...]

    def fits(self, shape: Shape, box: Box) -> bool:
        """Whether a shape is for the devices of a box."""
        return (shape.device or self.problem.cluster.device) == box.device


def read_pools(source: PoolsProblem | Mapping[str, Any] | Path | str) -> PoolsQuestion:
    """The question with its nodes, their links and the KV of a request.

    Raises:
        InputError: a file that says something impossible. UsageError: an unknown model or device.
    """
    problem, folder, name = read_question(PoolsProblem, source, "pools")
    if (reason := problem.cluster.network.unknown_to_programs) is not None:
        raise InputError(f"{name}: {reason}")
    problem, prompt = _simulated(problem, folder, name)
    kv_bytes = problem.kv_bytes
    if problem.model is not None:
        kv_bytes = catalog.model(problem.model).kv_bytes_per_token(problem.kv_cache) * prompt
    assert kv_bytes is not None
    boxes = tuple(_box(problem, group, catalog.device(group.device)) for group in problem.cluster.groups)
    question = PoolsQuestion(problem, kv_bytes, boxes)
    for shape in problem.shapes:
        room = max((box.devices * box.count for box in boxes if question.fits(shape, box)), default=0)
        if shape.devices > room:
            told = f"devices = {shape.devices}: its group of the cluster has {room}"
            raise InputError(f"{name}: shapes: {shape.name}: {told}")
    return question


def _simulated(problem: PoolsProblem, folder: Path, name: str) -> tuple[PoolsProblem, float]:
    """(the problem with the rates of all shapes, tokens of a prompt): what it does not say is the trace's."""
    if problem.trace is None:
        return problem, problem.input_tokens or 0.0
    trace = read_trace(str(beside(folder, problem.trace)))
    shapes = []
    for shape in problem.shapes:
        if shape.pool is not None:
            said = f"{name}: shapes: {shape.name}"
            cluster = problem.cluster.only(shape.device).model_dump(mode="json")
            pool = {**shape.pool, "role": shape.role, "replicas": 1}
            plan = parse(Plan, {"model": problem.model, "cluster": cluster, "pools": [pool]}, source=f"{said}: pool")
            rate = phase_rate(plan, trace, catalog.slo(problem.slo or ""), said)
            shape = shape.model_copy(update={"devices": plan.devices, "rate": rate})
        shapes.append(shape)
    resolved = problem.model_copy(update={"shapes": tuple(shapes)})
    return resolved, problem.input_tokens or float(trace.input_tokens.mean())


def _box(problem: PoolsProblem, group: DeviceGroup, profile: HardwareProfile) -> Box:
    """Of links a share as large collectives reach it (the profile's ``efficiency.link``), as for KV in a simulation."""
    reached = profile.efficiency.link * problem.link_share
    devices = max(group.devices_per_node, island_size(group, profile))
    scaleup = profile.scaleup.bandwidth if profile.scaleup is not None else 0.0
    near = max(scaleup, profile.pcie_bandwidth or 0.0) or (group.node_link or profile.node_link_bandwidth)
    merged = devices // group.devices_per_node
    return Box(
        group.device, devices, group.devices_per_node * group.nodes // devices,
        reached * (group.node_link or profile.node_link_bandwidth),
        float("inf") if problem.nic is None else problem.nic * problem.link_share * merged, reached * near,
    )  # fmt: skip
