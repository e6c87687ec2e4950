"""One iteration of a plan, compiled: model + device + links + pool → step tables, memory, accounting.

``compile_pool`` is called once for each plan of a search and costs milliseconds: operators are built once for each
cut of a model, and priced once for each device (``pricing.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.accounting import Accounting, RecurrenceWork
from apexsim.cost.adapters import AdapterLaw, adapter_law
from apexsim.cost.clock import clock_of
from apexsim.cost.collectives import all_gather_s, send_s
from apexsim.cost.context import Ring
from apexsim.cost.crowding import crowding_note, group_link, switched
from apexsim.cost.exchange import way_of
from apexsim.cost.expert_notes import expert_notes
from apexsim.cost.format_notes import format_notes
from apexsim.cost.graph import Cut, cut_of
from apexsim.cost.host import HostModel, host_model
from apexsim.cost.kvgroups import Kept, kept_kv
from apexsim.cost.kvnotes import kv_notes
from apexsim.cost.ledger import CALIBRATED, Ledger, seconds
from apexsim.cost.lora import adapter_operators, lora_notes, slots_of
from apexsim.cost.memory import DoesNotFit, MemoryPlan, plan_memory
from apexsim.cost.operators import AttentionOp, Collective, Gemm, GroupedGemm, Operator, Recurrence
from apexsim.cost.parts import Parts
from apexsim.cost.power_law import Serving
from apexsim.cost.precision import ACTIVATION_BYTES, check_dtypes, compute_dtype, sixteen_bit
from apexsim.cost.pricing import Pricer, pricer
from apexsim.cost.speculation import drafting_host, drafting_notes, drafting_of, with_drafts
from apexsim.cost.swap import SwapLaw, swap_law
from apexsim.cost.tables import TOKEN_DENSE, TOKEN_STRIDE, StepTables, token_knots
from apexsim.cost.tiers import TierLaw, tier_laws
from apexsim.cost.vision import EncoderLaw, encoder_law, encoder_notes
from apexsim.spec.cluster import Cluster
from apexsim.spec.drafts import drafts_of
from apexsim.spec.hardware import HardwareProfile
from apexsim.spec.legality import check_pool
from apexsim.spec.model import ModelSpec
from apexsim.spec.plan import Pool

Floats = NDArray[np.float64]

STAGE_TENSORS = 2
"""Activations between pipeline stages: the hidden state, and the residual that the next norm adds."""


LAUNCH_OVERLAP = 1.5
"""How launches and the kernels before them hide each other, (device^p + launches^p)^(1/p): 1 would be not at all, a
large p the longer of the two. By TTFT at three tensor parallel degrees in apex-h100-llama70b, where launches are
longer than the prompt's kernels, as long, and shorter."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """What is known of a pool's prices before anything ran, for reports."""

    calibrated_operators: tuple[str, ...]
    analytic_operators: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CompiledPool:
    """Everything that the engine and the metrics need of a pool; nothing of it changes while it runs."""

    tables: StepTables
    memory: MemoryPlan
    entry_s: float  # a request's time before the engine sees it
    exit_s: float  # and after its last iteration
    accounting: Accounting
    confidence: Confidence
    parts: Parts  # what the tables were added up from
    tiers: tuple[TierLaw, ...] = ()  # beyond the device's memory
    swap: SwapLaw | None = None  # None where preemption recomputes
    adapters: AdapterLaw | None = None  # None where it serves no LoRA adapters
    encoder: EncoderLaw | None = None  # None where it encodes no images


def compile_pool(
    model: ModelSpec,
    profile: HardwareProfile,
    cluster: Cluster,
    pool: Pool,
    *,
    engine: str = "vllm",
    engine_version: str | None = None,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    max_chunk_tokens: int | None = None,
    costs: str = "calibrated",
    host: HostModel | None = None,
    serving: Serving | None = None,
) -> CompiledPool | DoesNotFit:
    """Step tables of one pool of a plan, or why it cannot run.

    Args:
        max_num_batched_tokens: most tokens of an iteration; also the batch of the engine's memory profile run.
        max_num_seqs: most sequences of an iteration; the tables' M.
        max_chunk_tokens: longest chunk of a prompt that one iteration may take, where that is more than
            ``max_num_batched_tokens`` (a scheduler without chunking takes whole prompts).
        costs: registered cost model that prices the operators.
        host: host terms in place of those of the engine's version.
        serving: factors of power in place of the committed ones.
    """
    refused = _refused(profile, model, pool, engine)
    if refused is not None:
        return refused
    way = way_of(pool, engine, profile, cluster)
    cut = cut_of(model, pool, way)
    kept = kept_kv(model, pool, cut, engine, engine_version)
    drafting = drafting_of(model, pool, way)
    beside = drafting.beside if drafting else slots_of(model, pool)
    host = (host or host_model(engine, engine_version, profile.folder)).of(pool.devices_per_replica)
    host = drafting_host(host, pool)
    prices = _prices(profile, cluster, pool, engine, costs, serving, host)
    encoder = encoder_law(model, prices, host, pool.tp) if pool.vision else None
    if encoder is not None:
        beside = beside._replace(weight_bytes=beside.weight_bytes + encoder.weights_bytes)
    memory = plan_memory(model, profile, pool, cut, max_num_batched_tokens, max_num_seqs, engine, kept.pool, beside)
    if isinstance(memory, DoesNotFit):
        return memory
    each = 1 + drafts_of(pool)
    most_tokens = max(max_num_batched_tokens, max_chunk_tokens or 0, each * max_num_seqs)
    sizes = (most_tokens, max_num_seqs, memory.max_model_len)
    ring = Ring(pool.cp, group_link(cluster, profile, pool.cp, pool.tp), prices) if pool.cp > 1 else None
    parts = Parts(model, cut, prices, host, *sizes, each, adapter_operators(model, pool, max_num_seqs), ring)
    if drafting is not None:
        draft_prices = _prices(profile, cluster, drafting.draft.pool, engine, costs, serving, host)
        with_drafts(parts, drafting, draft_prices, host, *sizes)
    transfer_s = _transfer_s(model, profile, cluster, pool, most_tokens)
    tables = _tables(parts, host, transfer_s, max_num_seqs, model.window)
    return CompiledPool(
        tables, memory, host.entry_s, host.exit_s,
        replace(_accounting(model, profile, cut, prices, parts, tables), encoder=encoder.work if encoder else None),
        _confidence(parts, prices, host, model, _notes(model, pool, memory, kept, host, encoder)),
        parts, tier_laws(model, profile, cluster, pool), swap_law(model, profile, pool),
        adapter_law(model, profile, pool, memory), encoder,
    )


def _notes(
    model: ModelSpec, pool: Pool, memory: MemoryPlan, kept: Kept, host: HostModel, encoder: EncoderLaw | None
) -> list[str]:
    notes = drafting_notes(model, pool) + lora_notes(pool) + kv_notes(model, memory, kept)
    return notes + (encoder_notes(host, encoder) if encoder else [])


def _tables(parts: Parts, host: HostModel, transfer_s: Floats, max_num_seqs: int, window: int) -> StepTables:
    return StepTables(
        token_dense=TOKEN_DENSE,
        token_stride=TOKEN_STRIDE,
        mixed_s=_launched(parts.mixed, parts.mixed_launches_s, parts.together.seconds(mixed=True)),
        decode_s=_launched(parts.decode, parts.decode_launches_s, parts.together.seconds(mixed=False)),
        context_knots=np.array(parts.context_knots),
        decode_attention_s=parts.decode_attention_s,
        prefill_s=parts.prefill_s,
        prefill_past_s=parts.prefill_past_s,
        head_s=seconds(parts.head),
        host_floor_s=host.floor(max_num_seqs),
        host_serial_s=host.serial(max_num_seqs),
        transfer_s=transfer_s,
        window=window,
        group=parts.together.tables(host.graphs, max_num_seqs, parts.each),
        cp=parts.ring.ranks if parts.ring else 1,
    )


def _prices(
    profile: HardwareProfile, cluster: Cluster, pool: Pool, engine: str, costs: str, serving: Serving | None,
    host: HostModel,
) -> Pricer:
    link, clock = group_link(cluster, profile, pool.tp), clock_of(profile, pool.clock_mhz)
    wide = group_link(cluster, profile, pool.tp * pool.dp) if pool.dp > 1 else None
    return pricer(profile, engine, link, costs, clock, serving, wide, host.kernels)


def _refused(profile: HardwareProfile, model: ModelSpec, pool: Pool, engine: str) -> DoesNotFit | None:
    """A pool that cannot be, or whose dtypes the device does not have."""
    reasons = (("shape", check_pool(model, pool, engine)), ("dtype", check_dtypes(profile, model, pool)))
    for resource, reason in reasons:
        if reason is not None:
            return DoesNotFit(resource, 0.0, 0.0, 0.0, reason)
    return None


def _launched(stages: list[Ledger], launches_s: Floats, together_s: Floats) -> Floats:
    """[stages, sizes] device seconds of iterations whose kernels the host launches meanwhile (0 = replays a graph).

    ``together_s``: of what a rank does with others; its launches count here, its seconds do not.
    """
    device_s = np.stack([seconds(ledger) for ledger in stages])
    whole_s = device_s + together_s
    launched = (whole_s**LAUNCH_OVERLAP + launches_s**LAUNCH_OVERLAP) ** (1 / LAUNCH_OVERLAP)
    return np.where(launches_s > 0, launched - together_s, device_s)


def _transfer_s(model: ModelSpec, profile: HardwareProfile, cluster: Cluster, pool: Pool, most_tokens: int) -> Floats:
    """[B, N] seconds to send the activations of an iteration over each boundary between stages; zeros without stages.

    Each rank sends its share of them, and the ranks of the next stage gather the whole, as vLLM does.
    """
    tokens = token_knots(most_tokens).astype(np.float64)
    if pool.pp == 1:
        return np.zeros((1, len(tokens)))
    width = pool.tp * pool.dp * pool.cp
    links = [
        switched(cluster, profile, cluster.stage_link(profile, width, pool.pp, stage), width * pool.pp)
        for stage in range(pool.pp - 1)
    ]
    message = tokens * STAGE_TENSORS * model.hidden_size * ACTIVATION_BYTES
    reached = profile.efficiency
    sent = np.stack([send_s(message / pool.tp, link, efficiency=reached.link) for link in links])
    if pool.tp == 1:
        return sent
    return sent + all_gather_s(
        message, pool.tp, group_link(cluster, profile, pool.tp), efficiency=reached.link, launch_s=reached.launch_s
    )


def _accounting(
    model: ModelSpec, profile: HardwareProfile, cut: Cut, prices: Pricer, parts: Parts, tables: StepTables
) -> Accounting:
    everything = [op for operators in parts.stages for op in operators]
    return Accounting(
        mixed=np.sum(parts.mixed, axis=0), decode=np.sum(parts.decode, axis=0), head=parts.head,
        host_serial_s=tables.host_serial_s, token_dense=tables.token_dense, token_stride=tables.token_stride,
        stages=cut.pp, ranks=cut.tp * cut.cp, together=parts.together,
        token_flops=cut.tp * sum(_token_flops(op, cut.dp) for op in everything),
        sampled_flops=cut.tp * sum(_token_flops(op, cut.dp) for op in parts.head_ops),
        attention=parts.attention_work(), executed=parts.executed,
        attention_calibrated=(parts.attention_calibrated[0], parts.attention_calibrated[1]),
        prefill_extrapolated=parts.prefill_extrapolated, decode_extrapolated=parts.decode_extrapolated,
        context_knots=tables.context_knots,
        peak_flops=profile.peak_flops[compute_dtype(profile, cut.experts if model.is_moe else cut.mlp)],
        memory_bandwidth=profile.memory_bandwidth, power=prices.power,
        attention_power=prices.attention_power(everything), attention_dtype=sixteen_bit(profile),
        recurrence=_recurrence(everything),
    )


def _recurrence(operators: list[Operator]) -> RecurrenceWork:
    """Work of one token in the layers with a constant state; zeros where there are none."""
    layers = [op for op in operators if isinstance(op, Recurrence)]
    return RecurrenceWork(
        prefill_flops=sum(op.count * op.prefill_flops for op in layers),
        prefill_bytes=sum(op.count * op.token_bytes for op in layers),
        decode_flops=sum(op.count * op.decode_flops for op in layers),
        decode_bytes=sum(op.count * (2.0 * op.state_bytes + op.token_bytes) for op in layers),
    )


def _token_flops(op: Operator, dp: int) -> float:
    """FLOP of one token on one device of its rank, or on one of each rank where all have it."""
    if isinstance(op, Gemm):
        return 2.0 * op.count * op.n * op.k / op.rows.over
    if isinstance(op, GroupedGemm):
        share = op.experts_per_token / op.ranks
        return 2.0 * op.count * share * op.expert_parameters * (dp if op.rows.tokens == "all" else 1)
    return 0.0


def _confidence(
    parts: Parts, prices: Pricer, host: HostModel, model: ModelSpec, kv: list[str]
) -> Confidence:
    """Which operators are priced from measurements of this device, and what else a reader should know."""
    rates = prices.profile.power_carries == "rates"
    known: dict[str, bool] = {}
    for op in (op for operators in parts.stages for op in operators):
        measured = bool(prices.ledger(op, parts.decode_sizes)[CALIBRATED].any())
        if isinstance(op, AttentionOp):
            measured = all(parts.attention_calibrated)
        known[op.name] = known.get(op.name, True) and measured
    calibrated = tuple(sorted(name for name, measured in known.items() if measured))
    analytic = tuple(sorted(name for name, measured in known.items() if not measured))
    notes = [f"host time of {host.engine} {host.since[0]}.{host.since[1]} and later: {host.source}"]
    if not calibrated:
        profile = prices.profile
        notes.append(f"{profile.name}: nothing measured, analytic rooflines ({profile.efficiency.source})")
    if parts.attention_calibrated[0]:
        notes.append(
            "attention over cached tokens (chunks after the first) follows the rate of whole prompts; not measured, "
            "and extrapolated_fraction does not count it"
        )
    notes += kv
    notes += format_notes(prices.profile, (op for operators in parts.stages for op in operators), prices.kernels)
    notes += expert_notes((op for operators in parts.stages for op in operators), prices.kernels)
    if prices.power is not None and prices.power.metered != prices.profile.name:
        notes.append(
            f"power: kernels of {prices.profile.name} were not metered; laws of {prices.power.metered}, scaled by "
            f"{'the limit, at equal joules a FLOP and a byte' if rates else 'TDP and idle power'}"
        )
    between = (op for operators in parts.stages for op in operators if isinstance(op, Collective))
    links = [prices.wide if op.wide else prices.link for op in between]
    notes += dict.fromkeys(crowding_note(link) for link in links if link.link_class == "nic")
    return Confidence(calibrated, analytic, tuple(notes))
