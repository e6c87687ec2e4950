"""Images of requests: the pool that encodes them, and what a trace with images is to the engine.

Mechanism: Efficiently Serving Large Multimodal Models Using EPD Disaggregation (Singh et al., arXiv 2501.05460), for
encode units of their own and the slices of one request on many of them (IRP); vLLM's encoder inputs, where the replica
that prefills encodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from apexsim.cost.accounting import Account
from apexsim.cost.encode_pool import CompiledEncoder, compile_encoder
from apexsim.cost.host import HostModel, host_model
from apexsim.cost.memory import DoesNotFit
from apexsim.cost.vision import EncoderLaw
from apexsim.engine.encoders import ImageSetup
from apexsim.engine.prefixes import shares_prefixes
from apexsim.engine.result import SimulationResult
from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.legality import check_clock, check_cluster
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.vision_rules import cannot_encode, wrong_vision
from apexsim.workload.trace import Trace
from apexsim.workload.visual import has_images, with_visual_tokens


@dataclass(frozen=True, slots=True)
class Encoders:
    """The pool with role encode of a plan, compiled."""

    plan: Plan  # of this pool alone
    profile: HardwareProfile
    compiled: CompiledEncoder

    @property
    def pool(self) -> Pool:
        return self.plan.pools[0]

    @property
    def shape(self) -> tuple[str, int, float, float]:
        """Role, devices, peak FLOP/s and B/s of a device: what a summary of several pools has to know."""
        return "encode", self.pool.devices, self.compiled.peak_flops, self.compiled.memory_bandwidth

    def account(self, result: SimulationResult) -> Account:
        """Time, energy and work of a run."""
        encoded = result.encoded
        busy_s, alone_s = (0.0, 0.0) if encoded is None else (encoded.busy_s, encoded.alone_s)
        return self.compiled.account(busy_s, alone_s, self.pool.replicas, result.duration_s)


def prepare_encoders(alone: Plan, source: str, model: ModelSpec, host: HostModel | None) -> Encoders | DoesNotFit:
    """The pool with role encode, resolved and compiled; ``alone`` is the plan with no other.

    Raises:
        InputError: the pool is not legal; ``source`` is what the message calls it.
    """
    pool = alone.pools[0]
    profile = catalog.device(pool.device or alone.cluster.device)
    reason = check_cluster(profile, alone.cluster) or wrong_vision(model, pool) or check_clock(profile, pool)
    if reason is not None:
        raise InputError(f"{source}.{reason}")
    host = host or host_model(alone.engine, alone.engine_version, profile.folder)
    compiled = compile_encoder(model, profile, alone.cluster, pool, alone.engine, host)
    return compiled if isinstance(compiled, DoesNotFit) else Encoders(alone, profile, compiled)


def as_prefilled(plan: Plan, model: ModelSpec, trace: Trace) -> Trace:
    """The trace with the visual tokens of its images in its prompts, once, however often it is asked.

    Raises:
        InputError: the model reads no images, or the plan cannot encode them.
    """
    trace = with_visual_tokens(trace, model.vision.visual_tokens if model.vision else None, model.name)
    if has_images(trace):
        reason = cannot_encode(plan, with_prefixes=shares_prefixes(trace))
        if reason is not None:
            raise InputError(f"{trace.source or trace.name}: requests have images, and {reason}")
    return trace


def image_setup(
    plan: Plan, encode: Encoders | None, laws: Iterable[EncoderLaw | None], trace: Trace
) -> ImageSetup | None:
    """How the images of a trace are encoded, by the pool for that or by the ``laws`` of those that prefill; None
    where it has none."""
    if not has_images(trace) or trace.images is None or trace.visual_tokens is None:
        return None
    if encode is None:
        own = next((law for law in laws if law is not None), None)
        return ImageSetup(np.zeros(len(trace)) if own is None else own.host_s(trace.images))
    law, pool = encode.compiled.law, encode.pool
    return ImageSetup(
        law.host_s(trace.images), pool.replicas, law, law.token_bytes * trace.visual_tokens.astype(float), pool.irp,
        pool.encode_batch, plan.router_of("encode"),
    )  # fmt: skip
