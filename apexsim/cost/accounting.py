"""From the counters of a run to where its time, energy and work went.

The engine counts iterations by size; the tables' own ledgers say what an iteration of that size spent on what. So
nothing is accounted twice, and nothing needs a log of iterations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from apexsim.cost.ledger import CALIBRATED, COMMUNICATION, EXTRAPOLATED, JOULES, MOVED_BYTES, PARTS, Ledger
from apexsim.cost.power import PowerModel
from apexsim.cost.power_law import PowerLaw
from apexsim.cost.together import NOTHING, Together, knot_shares
from apexsim.cost.vision import EncoderWork
from apexsim.spec.dtypes import ComputeDtype

NOISE = 1e-12
"""Relative to a sum of many terms, what rounding alone leaves of a difference."""


class Counted(Protocol):
    """What accounting reads of ``apexsim.engine.result.Counters`` (which lies above this package)."""

    @property
    def mixed(self) -> NDArray[np.int64]: ...
    @property
    def decode(self) -> NDArray[np.int64]: ...
    @property
    def sampled(self) -> NDArray[np.int64]: ...
    @property
    def scheduled(self) -> NDArray[np.int64]: ...
    @property
    def busy_s(self) -> float: ...
    @property
    def prefill_attention_s(self) -> float: ...
    @property
    def decode_attention_s(self) -> float: ...
    @property
    def prefill_tokens(self) -> int: ...
    @property
    def decode_tokens(self) -> int: ...
    @property
    def prefill_pairs(self) -> float: ...
    @property
    def decode_kv_tokens(self) -> float: ...
    @property
    def prefill_pairs_windowed(self) -> float: ...
    @property
    def decode_kv_tokens_windowed(self) -> float: ...
    @property
    def accepted_tokens(self) -> int: ...
    @property
    def copy_s(self) -> float: ...
    @property
    def adapter_wait_s(self) -> float: ...
    @property
    def waited_s(self) -> float: ...
    @property
    def encode_s(self) -> float: ...
    @property
    def encode_alone_s(self) -> float: ...
    @property
    def together(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Attention of all layers of one kind on one rank, summed over the pipeline stages."""

    prefill_pair_flops: float
    decode_pair_flops: float
    token_bytes: float
    prefill_token_bytes: float = 0.0  # queries, keys, values and outputs of a prompt token, once each

    def times(self, queries: int) -> AttentionWork:
        """With so many queries a decoding sequence: FLOP of them all, its KV is read once."""
        return replace(self, decode_pair_flops=queries * self.decode_pair_flops)


@dataclass(frozen=True, slots=True)
class RecurrenceWork:
    """Layers with a constant state on one rank, summed over the pipeline stages: of one token."""

    prefill_flops: float = 0.0
    prefill_bytes: float = 0.0
    decode_flops: float = 0.0
    decode_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Joules:
    """Above idle, of all devices: GEMMs, experts and elementwise kernels; attention; collectives."""

    kernels: float
    attention: float
    communication: float


@dataclass(frozen=True, slots=True)
class Account:
    """Where time, energy and work of a run went. Fractions are of device seconds, in [0, 1]."""

    breakdown_s: dict[str, float]  # gemm, attention, moe, communication, host, idle; sums to replicas · duration
    energy_j: float | None  # all devices, idle included; None where the device's power is unknown
    mean_power_w: float | None  # of one device
    mfu: float  # useful FLOP over the peak of the dtype that computes the linear layers
    mbu: float  # bytes read and written over the peak bandwidth
    calibrated_fraction: float
    extrapolated_fraction: float


@dataclass(frozen=True)
class Accounting:
    """Ledgers of a compiled pool, summed over its pipeline stages; one device each.

    Attention ranks (dp) count their own iterations, so all sums but those of the breakdown are over them.
    """

    mixed: Ledger  # [LINES, N] by token knots
    decode: Ledger  # [LINES, M + 1]
    head: Ledger  # [LINES, M + 1]
    host_serial_s: NDArray[np.float64]  # [M + 1]
    token_dense: int
    token_stride: int
    stages: int
    ranks: int  # devices of one stage, of one attention rank
    token_flops: float  # linear layers, FLOP of one token, all ranks
    sampled_flops: float  # LM head, FLOP of one sequence that yields a token, all ranks
    attention: tuple[AttentionWork, AttentionWork]  # full, windowed
    attention_calibrated: tuple[bool, bool]  # prefill, decode
    prefill_extrapolated: NDArray[np.bool_]  # [N] by tokens of the chunk
    decode_extrapolated: NDArray[np.bool_]  # [M + 1, J] by sequences and mean context
    context_knots: NDArray[np.float64]  # [J]
    peak_flops: float
    memory_bandwidth: float
    power: PowerModel | None
    attention_power: tuple[PowerLaw, PowerLaw] | None = None  # prefill, decode; None where power is
    attention_dtype: ComputeDtype = "bf16"
    recurrence: RecurrenceWork = RecurrenceWork()
    together: Together = NOTHING
    encoder: EncoderWork | None = None  # of images, where replicas encode them
    executed: tuple[AttentionWork, AttentionWork] | None = None  # with drafts: theirs, and that of rejected ones, too

    def account(self, counters: Counted, replicas: float, duration_s: float) -> Account:
        """Time, energy and work of ``replicas`` replicas that ran for ``duration_s``.

        With pipeline stages the parts are means over the stages, so the breakdown still sums to
        replicas · duration; waiting for the other stages, and for transfers between them, is idle time. With attention
        ranks they are means over the ranks; dummy batches count as the work they are, waiting for the slowest as idle.
        """
        ledger = self._linear(counters)
        attention = (counters.prefill_attention_s, counters.decode_attention_s)
        parts = dict(zip(PARTS, ledger[: len(PARTS)].tolist(), strict=True))
        parts["attention"] += sum(attention)
        # Draws idle power: the copy engines work, the kernels wait.
        parts["communication"] += counters.copy_s + counters.adapter_wait_s
        for part, share in self.encoder.shares.items() if self.encoder and counters.encode_s else ():
            parts[part] += share * counters.encode_s
        device_s = sum(parts.values())
        breakdown = self._breakdown(parts, counters, replicas, duration_s)
        calibrated = ledger[CALIBRATED] + np.dot(attention, self.attention_calibrated)
        calibrated += self.encoder.calibrated * counters.encode_s if self.encoder else 0.0
        devices = replicas * self.stages * self.ranks * self.together.ranks
        wall_s = devices * duration_s
        energy = self._energy(ledger, counters, wall_s)
        return Account(
            breakdown_s=breakdown,
            energy_j=energy,
            mean_power_w=None if energy is None or wall_s <= 0 else energy / wall_s,
            mfu=_share(self._useful_flops(counters), self.peak_flops * wall_s),
            mbu=_share(self.ranks * (ledger[MOVED_BYTES] + self._attention_bytes(counters))
                       + self._encoded(counters) * (self.encoder.moved_bytes if self.encoder else 0.0),
                       self.memory_bandwidth * wall_s),
            calibrated_fraction=_share(calibrated, device_s),
            extrapolated_fraction=_share(
                ledger[EXTRAPOLATED] + np.dot(attention, self._attention_extrapolated(counters)), device_s
            ),
        )

    def _linear(self, counters: Counted) -> NDArray[np.float64]:
        """[LINES] of everything but the attention tables, one rank, summed over the stages."""
        tokens = np.flatnonzero(counters.mixed)
        weights = counters.mixed[tokens].astype(np.float64)
        total = self._at(tokens) @ weights
        for ledger, count in ((self.decode, counters.decode), (self.head, counters.sampled)):
            size = min(ledger.shape[1], len(count))
            total = total + ledger[:, :size] @ np.asarray(count[:size], dtype=np.float64)
        if self.together.ranks > 1:
            total = total + self.together.spent(counters.together, self.token_dense, self.token_stride)
        return np.asarray(total)

    def _at(self, tokens: NDArray[np.int64]) -> Ledger:
        """Ledger of iterations that hold prefill, at any token counts, by the law of the tables."""
        left, share, right = knot_shares(tokens, self.mixed.shape[1], self.token_dense, self.token_stride)
        return self.mixed[:, left] * (1.0 - share) + self.mixed[:, right] * share

    def _attention_extrapolated(self, counters: Counted) -> tuple[bool, bool]:
        """Whether prefill and decode attention lay outside what was measured, judged at the run's mean sizes."""
        with_prefill, without = float(counters.mixed.sum()), float(counters.decode.sum())
        chunk = counters.prefill_tokens / max(with_prefill, 1.0)
        knot = min(chunk, self.token_dense) + max(chunk - self.token_dense, 0.0) / self.token_stride
        sequences = counters.decode_tokens / max(with_prefill + without, 1.0)
        context = counters.decode_kv_tokens / max(counters.decode_tokens, 1)
        row = min(round(sequences), self.decode_extrapolated.shape[0] - 1)
        column = int(np.clip(np.searchsorted(self.context_knots, context), 0, len(self.context_knots) - 1))
        return (
            bool(self.prefill_extrapolated[min(round(knot), len(self.prefill_extrapolated) - 1)]),
            bool(self.decode_extrapolated[row, column]),
        )

    def _breakdown(
        self, parts: dict[str, float], counters: Counted, replicas: float, duration_s: float
    ) -> dict[str, float]:
        """One stage: host time is what iterations lasted beyond the device. Several: the serial part of it."""
        total = replicas * duration_s
        mean = {name: seconds / self.stages / self.together.ranks for name, seconds in parts.items()}
        if self.stages == 1:
            beyond = counters.busy_s - counters.waited_s - sum(mean.values())
            host = beyond if beyond > NOISE * counters.busy_s else 0.0
        else:
            size = min(len(self.host_serial_s), len(counters.scheduled))
            host = float(self.host_serial_s[:size] @ counters.scheduled[:size]) / self.stages
        mean["host"] = host
        mean["idle"] = total - sum(mean.values())
        return mean

    def _energy(self, ledger: NDArray[np.float64], counters: Counted, device_wall_s: float) -> float | None:
        if self.power is None:
            return None
        parts = self._joules(self.power, ledger, counters, 1.0)
        encoded = self._encoded(counters) * (self.encoder.joules if self.encoder else 0.0)
        return self.power.idle_w * device_wall_s + parts.kernels + parts.attention + parts.communication + encoded

    def _encoded(self, counters: Counted) -> float:
        """Image slices of the usual size that were encoded."""
        return counters.encode_alone_s / self.encoder.slice_s if self.encoder else 0.0

    def joules(self, counters: Counted, attention: float = 1.0) -> Joules | None:
        """Where the joules above idle went; None where the device's power is unknown.

        Args:
            attention: factor on what attention draws, up to the board's limit.
        """
        if self.power is None:
            return None
        return self._joules(self.power, self._linear(counters), counters, attention)

    def _joules(
        self, power: PowerModel, ledger: NDArray[np.float64], counters: Counted, attention: float
    ) -> Joules:
        full, windowed = self.executed or self.attention
        work = (
            (
                counters.prefill_attention_s,
                full.prefill_pair_flops * counters.prefill_pairs
                + windowed.prefill_pair_flops * counters.prefill_pairs_windowed
                + self.recurrence.prefill_flops * counters.prefill_tokens,
                (full.prefill_token_bytes + windowed.prefill_token_bytes + self.recurrence.prefill_bytes)
                * counters.prefill_tokens,
            ),
            (
                counters.decode_attention_s,
                full.decode_pair_flops * counters.decode_kv_tokens
                + windowed.decode_pair_flops * counters.decode_kv_tokens_windowed
                + self.recurrence.decode_flops * counters.decode_tokens,
                self._attention_bytes(counters),
            ),
        )
        drawn = sum(
            float(power.running_j(law.times(attention), self.attention_dtype, seconds, flops, moved))
            for law, (seconds, flops, moved) in zip(self.attention_power or (), work, strict=False)
        )
        sending = float(power.communicating_j(ledger[COMMUNICATION]))
        return Joules(self.ranks * (float(ledger[JOULES]) - sending), self.ranks * drawn, self.ranks * sending)

    def _attention_bytes(self, counters: Counted) -> float:
        full, windowed = self.executed or self.attention
        return (
            full.token_bytes * counters.decode_kv_tokens
            + windowed.token_bytes * counters.decode_kv_tokens_windowed
            + self.recurrence.decode_bytes * counters.decode_tokens
        )

    def _useful_flops(self, counters: Counted) -> float:
        """Of tokens that went out: rejected drafts are no use, nor is what drafted them."""
        full, windowed = self.attention
        yields = 1.0 + counters.accepted_tokens / max(counters.decode_tokens, 1)
        attention = (
            full.prefill_pair_flops * counters.prefill_pairs
            + windowed.prefill_pair_flops * counters.prefill_pairs_windowed
            + yields * full.decode_pair_flops * counters.decode_kv_tokens
            + yields * windowed.decode_pair_flops * counters.decode_kv_tokens_windowed
            + self.recurrence.prefill_flops * counters.prefill_tokens
            + self.recurrence.decode_flops * counters.decode_tokens
        )
        sampled = float(np.arange(len(counters.sampled)) @ counters.sampled) + counters.accepted_tokens
        tokens = counters.prefill_tokens + counters.decode_tokens + counters.accepted_tokens
        text = self.token_flops * tokens + self.sampled_flops * sampled + self.ranks * attention
        return text + self._encoded(counters) * (self.encoder.flops if self.encoder else 0.0)


def _share(part: float, whole: float) -> float:
    return float(min(1.0, max(0.0, part / whole))) if whole > 0 else 0.0
