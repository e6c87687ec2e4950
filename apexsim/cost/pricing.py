"""Operators times sizes: ledgers and attention tables of one device, kept for reuse between plans.

A ``Pricer`` stands for a device, an engine, a link and a cost model of the registry. A search asks it for the same
operators again and again, with other schedulers and replicas, so each (operator, sizes) is priced once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from apexsim import registry
from apexsim.cost.analytic import AnalyticKernels
from apexsim.cost.clock import AT_BOOST, Clock, clocked
from apexsim.cost.collectives import algorithm_of
from apexsim.cost.experts import exchange_work
from apexsim.cost.fullest import mean_load
from apexsim.cost.host import AS_MEASURED, Graphs, Kernels, graph_sizes, padded
from apexsim.cost.kernels import KernelModel, Priced
from apexsim.cost.ledger import (
    ATTENTION,
    CALIBRATED,
    COMMUNICATION,
    EXTRAPOLATED,
    GEMM,
    JOULES,
    LINES,
    MOE,
    MOVED_BYTES,
    Ledger,
)
from apexsim.cost.lora import GATHER_TILE, KERNEL_LAUNCHES, distinct_adapters
from apexsim.cost.operators import (
    AdapterOp,
    AttentionOp,
    Collective,
    Elementwise,
    Exchange,
    Gemm,
    GroupedGemm,
    Operator,
    Recurrence,
)
from apexsim.cost.power import PowerModel, power_model
from apexsim.cost.power_law import PowerLaw, Serving
from apexsim.cost.precision import ACTIVATION_BYTES, INPUT_BYTES, compute_dtype, sixteen_bit
from apexsim.cost.recurrence import decode_s, prefill_s
from apexsim.cost.tables import token_knots
from apexsim.spec.cluster import Link
from apexsim.spec.formats import weight_bytes, weights_part
from apexsim.spec.hardware import HardwareProfile

Floats = NDArray[np.float64]

SHARED_TOKENS = 1024
"""Short chunks share the launch and the idle units of an attention kernel with others: a chunk of fewer tokens costs
its share of a batch of equal chunks that holds this many."""

PAST_WINDOW = 8
"""Windows of context that a sequence past its window is priced at; kernels differ little beyond two."""

PRICES_KEPT = 1024
"""Priced (operator, sizes) pairs that a pricer keeps."""


class Sizes(NamedTuple):
    """A family of iteration sizes: token knots, decoding sequences, or sequences that yield a token."""

    kind: str  # mixed | decode | sampled
    limit: int
    graphs: Graphs
    max_num_seqs: int
    ranks: int = 1  # data-parallel ranks, each with as many tokens: what operators over all of them get
    each: int = 1  # tokens of a decoding sequence: one, and its drafts


@lru_cache(maxsize=256)
def executed(sizes: Sizes) -> NDArray[np.int64]:
    """Rows that the device really computes at each size: padded to CUDA graphs where the engine does."""
    if sizes.kind == "sampled":
        return sizes.each * np.arange(sizes.limit + 1, dtype=np.int64)
    graphs = graph_sizes(sizes.graphs, sizes.each * sizes.max_num_seqs)
    if sizes.kind == "decode":
        return padded(sizes.each * np.arange(sizes.limit + 1, dtype=np.int64), graphs)
    knots = token_knots(sizes.limit)
    return padded(knots, graphs) if sizes.graphs.with_prefill else knots


def eager(sizes: Sizes) -> NDArray[np.bool_]:
    """Which iterations run without a CUDA graph; size 0 does not run."""
    graphs = graph_sizes(sizes.graphs, sizes.each * sizes.max_num_seqs)
    largest = int(graphs.max(initial=0))
    if sizes.kind == "decode":
        return sizes.each * np.arange(sizes.limit + 1) > largest
    return token_knots(sizes.limit) > (largest if sizes.graphs.with_prefill else 0)


class Pricer:
    """Prices of one device under one engine.

    ``link`` joins the ranks of a tensor parallel group, ``wide`` the devices of all data-parallel ranks of a replica.
    """

    def __init__(
        self, profile: HardwareProfile, engine: str, link: Link, costs: str, clock: Clock = AT_BOOST,
        serving: Serving | None = None, wide: Link | None = None, engines: Kernels = AS_MEASURED,
    ) -> None:
        self.profile = profile
        self.kernels: KernelModel = clocked(registry.load("costs", costs), profile, engine, clock)
        self.link = link
        self.clock = clock
        self.wide = wide or link
        self.engines = engines
        self.power = power_model(profile, clock, serving)
        self.ledger = lru_cache(maxsize=PRICES_KEPT)(self._ledger)
        self.prefill = lru_cache(maxsize=PRICES_KEPT)(self._prefill)
        self.decode = lru_cache(maxsize=PRICES_KEPT)(self._decode)

    def _ledger(self, op: Operator, sizes: Sizes) -> Ledger:
        """[LINES, sizes] of all ``op.count`` runs of an operator in one iteration. Size 0 costs nothing."""
        rows = executed(sizes) * (sizes.ranks if op.rows.tokens == "all" else 1)
        unique, where = np.unique(-(-rows // op.rows.over), return_inverse=True)
        table = self.of_rows(op, np.maximum(unique, 1).astype(np.float64), sizes.kind)
        table[:, unique == 0] = 0.0
        return np.asarray(op.count * table[:, where])

    def of_rows(self, op: Operator, rows: Floats, kind: str = "mixed") -> Ledger:
        """[LINES, rows] of one run of an operator with so many rows, ascending; of attention only its launch."""
        table = np.zeros((LINES, rows.size))
        part, price, flops, moved = self._run(op, rows, kind == "decode")
        seconds = rising(price.seconds)  # a kernel never gets cheaper with more rows
        seconds = seconds * (self.engines.prefill if kind == "mixed" else self.engines.decode)
        table[part], table[MOVED_BYTES] = seconds, moved
        table[CALIBRATED] = seconds if price.calibrated else 0.0
        table[EXTRAPOLATED] = np.where(price.extrapolated, seconds, 0.0)
        if self.power is not None:
            table[JOULES] = self._joules(self.power, op, seconds, flops, moved)
        return table

    def flops(self, op: Operator, sizes: Sizes, tokens: float) -> float:
        """FLOP of one run of an operator at ``tokens`` executed tokens of each rank; 0 for attention."""
        rows = tokens * (sizes.ranks if op.rows.tokens == "all" else 1) / op.rows.over
        return float(self._run(op, np.maximum(np.array([rows]), 1.0), sizes.kind == "decode")[2][0])

    def algorithm(self, op: Operator, sizes: Sizes, tokens: float) -> str:
        """How a collective runs at ``tokens`` executed tokens of each rank, by the analytic model; "" of any other
        operator, and where another model prices it."""
        if not isinstance(op, Collective) or not isinstance(self.kernels, AnalyticKernels):
            return ""
        rows = max(tokens * (sizes.ranks if op.rows.tokens == "all" else 1) / op.rows.over, 1.0)
        reached, link = self.profile.efficiency, self.wide if op.wide else self.link
        return algorithm_of(
            op.kind, rows * op.token_bytes, op.ranks, link, efficiency=reached.link, launch_s=reached.launch_s
        )

    def attention_power(self, operators: Iterable[Operator]) -> tuple[PowerLaw, PowerLaw] | None:
        """Laws of prefill and decode attention of a model; None where the device's power is unknown.

        Those of MLA are of whole blocks with their projections, the only ones that were metered.
        """
        op = next((each for each in operators if isinstance(each, AttentionOp)), None)
        if self.power is None or op is None:
            return None
        names = ("mla_prefill", "mla_decode") if op.latent else ("prefill_attention", "decode_attention")
        prefill, decode = (self.power.law(name, "bf16" if op.latent else op.kv_dtype) for name in names)
        return prefill, decode

    def _joules(self, power: PowerModel, op: Operator, seconds: Floats, flops: Floats, moved: Floats) -> Floats:
        """Above idle, of one run. Elementwise kernels were not metered and draw what a GEMM's reads would."""
        if isinstance(op, Collective | Exchange):
            return power.communicating_j(seconds)
        if isinstance(op, Gemm):
            law, compute = power.law("gemm", weights_part(op.weights)), compute_dtype(self.profile, op.weights)
        elif isinstance(op, GroupedGemm):
            law, compute = power.law("grouped_gemm", weights_part(op.weights)), compute_dtype(self.profile, op.weights)
        else:
            law, compute = power.law("gemm", "bf16"), sixteen_bit(self.profile)
        return power.running_j(law, compute, seconds, flops, moved)

    def _run(self, op: Operator, rows: Floats, decode: bool = False) -> tuple[int, Priced, Floats, Floats]:
        """Part, price, FLOP and bytes moved of one run of ``op`` with ``rows`` rows; ``decode``: without prefill."""
        none = np.zeros_like(rows)
        if isinstance(op, Gemm):
            inputs = INPUT_BYTES[compute_dtype(self.profile, op.weights)]
            moved = weight_bytes(op.weights) * op.n * op.k + rows * (inputs * op.k + ACTIVATION_BYTES * op.n)
            return GEMM, self.kernels.gemm(rows, op.n, op.k, op.weights), 2.0 * rows * op.n * op.k, moved
        if isinstance(op, GroupedGemm):
            share = op.experts_per_token / op.ranks  # time is the fullest rank's, work and joules are the mean one's
            touched = mean_load(rows, op).touched
            moved = touched * op.expert_parameters * weight_bytes(op.weights)
            return MOE, self.kernels.grouped_gemm(rows, op), 2.0 * rows * share * op.expert_parameters, moved
        if isinstance(op, Elementwise):
            return GEMM, self.kernels.memory_bound(rows * op.token_bytes, op.kernels), none, rows * op.token_bytes
        if isinstance(op, AdapterOp):
            # Of a batch with prompts only the tokens are known: as many sequences as they could be.
            sequences = np.minimum(rows, op.max_num_seqs)
            distinct = np.minimum(distinct_adapters(sequences, op.adapters, op.zipf), op.most_distinct)
            moved = distinct * op.adapter_bytes + rows * op.token_bytes
            gathered = (sequences + (rows - sequences) / GATHER_TILE) * op.gather_bytes
            price = self.kernels.memory_bound(moved + gathered, KERNEL_LAUNCHES * op.kernels)
            return GEMM, price, rows * op.token_flops, moved
        if isinstance(op, Collective):
            message = rows * op.token_bytes
            price = self.kernels.collective(op.kind, message, op.ranks, self.wide if op.wide else self.link)
            return COMMUNICATION, price, none, 2.0 * message
        if isinstance(op, Exchange):
            carrier = op.decode if decode else op.prefill
            work, sizes = exchange_work(op.phase, rows, carrier)
            price = self.kernels.exchange(op.phase, rows, carrier)
            return COMMUNICATION, price, none, 2.0 * (work.moved + sizes["far"])
        if isinstance(op, Recurrence):
            return ATTENTION, self.kernels.memory_bound(none, op.kernels), none, none
        return ATTENTION, self._launch(op, rows), none, none

    def recurrence(self, op: Recurrence, max_tokens: int, max_num_seqs: int) -> tuple[Floats, Floats]:
        """([N] seconds of a chunk at the token knots, [M + 1] of so many decoding sequences), ``count`` runs."""
        clock = self.clock.fraction
        chunk = prefill_s(self.profile, op, max_tokens, clock)
        return op.count * chunk, op.count * decode_s(self.profile, op, max_num_seqs, clock)

    def _launch(self, op: AttentionOp, rows: Floats) -> Priced:
        """What one attention kernel costs however little it does: paid once an iteration, chunks and decodes apart."""
        price = self.kernels.decode_attention(1, 1, op)
        one = float(min(price.seconds, self.kernels.prefill_attention(1, 1, op).seconds))
        return Priced(np.full_like(rows, one), price.calibrated, np.zeros(rows.shape, dtype=np.bool_))

    def _prefill(self, op: AttentionOp, max_tokens: int) -> tuple[Priced, Floats]:
        """([N] price of a chunk, [N] seconds per past token) at the token knots, ``count`` runs.

        Past tokens are counted with their chunk: their time is extrapolated where the chunk is, and a note of the
        pool says that nobody measured them.
        """
        chunk = np.maximum(token_knots(max_tokens), 1).astype(np.float64)
        together = np.maximum(1.0, SHARED_TOKENS / chunk)
        price = self.kernels.prefill_attention(together, chunk, op)
        launch = float(self._launch(op, np.ones(1)).seconds[0])
        own = rising(np.maximum(price.seconds - launch, 0.0) / together)
        past = rising(self.kernels.prefill_past(chunk, op).seconds)
        own[0] = past[0] = 0.0
        count = op.count * self.engines.prefill
        return Priced(count * own, price.calibrated, price.extrapolated), count * past

    def _decode(self, op: AttentionOp, max_num_seqs: int, knots: tuple[float, ...], each: int = 1) -> Priced:
        """[M + 1, J] price by sequences and mean context, ``count`` runs; row 0 costs nothing.

        With ``each`` queries a sequence, drafts among them, they share its KV as the heads of a group do: so many times
        the heads over a context that is longer by the drafts, and never cheaper than one query.
        """
        if each > 1:
            one = self.decode(op, max_num_seqs, knots)
            longer = tuple(knot + each - 1 for knot in knots)
            all_ = self.decode(replace(op, heads=each * op.heads), max_num_seqs, longer)
            return all_._replace(seconds=np.maximum(one.seconds, all_.seconds))
        sequences = np.maximum(np.arange(max_num_seqs + 1.0), 1.0)[:, None]
        context = np.maximum(np.array(knots), 1.0)[None, :]
        price = (self._reached if op.window else self.kernels.decode_attention)(sequences, context, op)
        launch = float(self._launch(op, np.ones(1)).seconds[0])
        table = np.maximum(price.seconds - launch, 0.0)
        table = rising(rising(table, axis=0), axis=1)
        table[0] = 0.0
        return Priced(op.count * self.engines.decode * table, price.calibrated, price.extrapolated)

    def _reached(self, sequences: Floats, reach: Floats, op: AttentionOp) -> Priced:
        """Windowed attention by the mean of the tokens within reach: the nearer it is to the window, the more
        sequences are past it, where some kernels take longer than at its end."""
        edge, beyond = (self.kernels.decode_attention(sequences, far * op.window, op) for far in (1, PAST_WINDOW))
        price = self.kernels.decode_attention(sequences, np.minimum(reach, op.window), op)
        share = np.minimum(reach / op.window, 1.0)
        longer = np.maximum(beyond.seconds / edge.seconds, 1.0)
        return Priced(price.seconds * (1.0 + share * (longer - 1.0)), price.calibrated, price.extrapolated)


def rising(seconds: Floats, axis: int = -1) -> Floats:
    """The nearest series that never falls, by least squares: a stretch that falls takes its mean.

    Measured prices go up and down by some per cent, and a first one may be several times the others (a kernel without a
    special case for one row). No value sinks below the floor of its own size: in each stretch the last one, which has
    the highest floor, is at most the mean.
    """
    lines = np.moveaxis(np.array(seconds, dtype=np.float64), axis, -1)
    for where in np.argwhere((np.diff(lines) < 0).any(axis=-1)):
        lines[tuple(where)] = isotonic_regression(lines[tuple(where)]).x
    return np.moveaxis(lines, -1, axis)


@lru_cache(maxsize=64)
def pricer(
    profile: HardwareProfile, engine: str, link: Link, costs: str, clock: Clock = AT_BOOST,
    serving: Serving | None = None, wide: Link | None = None, engines: Kernels = AS_MEASURED,
) -> Pricer:
    """The pricer of a device at a clock, an engine, links and a registered cost model; one for all plans that share
    them. ``serving``: factors of power in place of the committed ones, for a fit. ``engines``: how much longer
    its kernels take."""
    return Pricer(profile, engine, link, costs, clock, serving, wide, engines)
