"""The contract of a cost model, as tests. A plug-in inherits it:

    from apexsim.testing.cost_model import CostModelContract

    class TestMine(CostModelContract):
        costs = ("mine",)          # names in the registry; all registered ones where left out
        devices = ("h100-sxm",)    # profiles that it is tried on

A cost model is made as ``Model(profile, engine)`` and keeps ``apexsim.cost.kernels.KernelModel``: prices have the
broadcast shape of their sizes, are finite and positive, never beat 0.95 × the roofline, grow with the work (up to
what quantisation to tiles explains), do not depend on what else is priced beside them, and say how they are known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim import registry
from apexsim.cost.floor import FLOOR
from apexsim.cost.kernels import KernelModel, Priced
from apexsim.cost.operators import AttentionOp, ExpertExchange, GroupedGemm
from apexsim.cost.precision import INPUT_BYTES, compute_dtype, sixteen_bit
from apexsim.spec import catalog
from apexsim.spec.cluster import Link
from apexsim.spec.formats import weight_bytes
from apexsim.spec.hardware import HardwareProfile

ATTENTION = AttentionOp("attention", 8, 1, 128, 128, 0, "bf16", 1)
LATENT = AttentionOp("attention", 16, 16, 192, 128, 0, "bf16", 1, 576, 512)
EXPERTS = GroupedGemm("experts", 4096, 1792, 8, 8, 2, True, "bf16", 1)
EXCHANGE = ExpertExchange("exchange", 7168, 256, 8, 8, 1, "deepep_normal", "fp8", 24)
NVLINK = Link("scaleup", 450e9, 1e-6, True)

SIZES = np.array([1, 2, 5, 16, 63, 64, 65, 250, 256, 1000, 4096, 8192], dtype=np.float64)
GROWTH = 4.0
"""Sizes this factor apart must differ in price: nearer ones may swap by tile quantisation."""

WAVER = 0.9
"""A price may fall to this share of a smaller size's: measured kernels take other tiles there. Step tables rise."""

FORMATS = ("bf16", "fp8", "fp8-block", "w4a16", "int8", "w4a8", "fp8:bf16", "w4a16-g32s")
EXAMPLES = 60
"""Random shapes that a property is tried on."""

sizes = st.integers(1, 20_000)
widths = st.integers(4, 1_000).map(lambda n: 64 * n)


class CostModelContract:
    """What the step tables, the pruning bounds and the reports rely on."""

    costs: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ("h100-sxm", "a100-sxm-80gb", "mi300x")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "cost" in metafunc.fixturenames:
            metafunc.parametrize("cost", self.costs or registry.names("costs"))
        if "device" in metafunc.fixturenames:
            metafunc.parametrize("device", self.devices)

    def test_prices_have_the_broadcast_shape_of_the_sizes(self, cost: str, device: str) -> None:
        kernels = model(cost, device)
        column = SIZES[:, None]
        assert kernels.gemm(column, SIZES, 512, "bf16").seconds.shape == (12, 12)
        assert kernels.decode_attention(column, SIZES, ATTENTION).seconds.shape == (12, 12)
        for name, price in by_size(kernels).items():
            found = price(SIZES)
            assert found.seconds.shape == SIZES.shape, name
            assert np.broadcast_shapes(np.shape(found.extrapolated), SIZES.shape) == SIZES.shape, name

    def test_prices_are_finite_and_positive_and_say_how_they_are_known(self, cost: str, device: str) -> None:
        for name, price in by_size(model(cost, device)).items():
            found = price(SIZES)
            assert np.isfinite(found.seconds).all(), name
            assert (found.seconds > 0).all(), name
            assert isinstance(found.calibrated, bool), name
            assert np.asarray(found.extrapolated).dtype == np.bool_, name

    def test_much_more_work_never_costs_less(self, cost: str, device: str) -> None:
        for name, price in by_size(model(cost, device)).items():
            small, large = price(SIZES).seconds, price(GROWTH * SIZES).seconds
            assert (large >= WAVER * small).all(), name

    def test_a_price_does_not_depend_on_its_neighbours(self, cost: str, device: str) -> None:
        for name, price in by_size(model(cost, device)).items():
            together = price(SIZES).seconds
            alone = np.array([float(price(np.array([size])).seconds[0]) for size in SIZES])
            np.testing.assert_allclose(together, alone, rtol=1e-12, err_msg=name)

    def test_no_gemm_beats_the_roofline(self, cost: str, device: str) -> None:
        kernels, profile = model(cost, device), catalog.device(device)
        runs = [weights for weights in FORMATS if profile.supports(weights)]

        @settings(max_examples=EXAMPLES, deadline=None)
        @given(m=sizes, n=widths, k=widths, weights=st.sampled_from(runs))
        def holds(m: int, n: int, k: int, weights: str) -> None:
            compute = compute_dtype(profile, weights)
            flops = 2.0 * m * n * k / profile.peak_flops[compute]
            cold = weight_bytes(weights) * n * k + INPUT_BYTES[compute] * m * k + 2.0 * m * n
            assert float(kernels.gemm(m, n, k, weights).seconds) >= _bound(profile, flops, cold)

        holds()

    def test_no_decode_attention_beats_the_roofline(self, cost: str, device: str) -> None:
        kernels, profile = model(cost, device), catalog.device(device)

        @settings(max_examples=EXAMPLES, deadline=None)
        @given(
            batch=st.integers(1, 1024), context=st.integers(1, 200_000), kv_heads=st.sampled_from([1, 2, 8, 32]),
            group=st.sampled_from([1, 4, 5, 8, 16]), head_dim=st.sampled_from([64, 80, 128, 256]),
        )
        def holds(batch: int, context: int, kv_heads: int, group: int, head_dim: int) -> None:
            op = AttentionOp("attention", kv_heads * group, kv_heads, head_dim, head_dim, 0, "bf16", 1)
            flops = batch * context * op.decode_pair_flops / profile.peak_flops[sixteen_bit(profile)]
            cold = batch * context * op.kv_token_bytes
            assert float(kernels.decode_attention(batch, context, op).seconds) >= _bound(profile, flops, cold)

        holds()

    def test_no_prefill_attention_beats_the_roofline(self, cost: str, device: str) -> None:
        kernels, profile = model(cost, device), catalog.device(device)

        @settings(max_examples=EXAMPLES, deadline=None)
        @given(
            batch=st.integers(1, 64), tokens=st.integers(1, 40_000), heads=st.sampled_from([1, 8, 40, 64]),
            window=st.sampled_from([0, 128, 4096]),
        )
        def holds(batch: int, tokens: int, heads: int, window: int) -> None:
            op = AttentionOp("attention", heads, 1, 128, 128, window, "bf16", 1)
            reach = min(window or tokens, tokens)
            pairs = reach * (reach + 1) / 2 + (tokens - reach) * reach
            flops = batch * pairs * op.prefill_pair_flops / profile.peak_flops[sixteen_bit(profile)]
            assert float(kernels.prefill_attention(batch, tokens, op).seconds) >= _bound(profile, flops, 0.0)

        holds()

    def test_no_expert_block_beats_the_roofline(self, cost: str, device: str) -> None:
        kernels, profile = model(cost, device), catalog.device(device)

        @settings(max_examples=EXAMPLES, deadline=None)
        @given(
            tokens=sizes, hidden=widths, width=widths, experts=st.sampled_from([8, 64, 256]),
            per_token=st.integers(1, 8),
        )
        def holds(tokens: int, hidden: int, width: int, experts: int, per_token: int) -> None:
            op = GroupedGemm("experts", hidden, width, experts, experts, per_token, True, "bf16", 1)
            touched = experts * (1 - (1 - per_token / experts) ** tokens)
            compute = profile.peak_flops[sixteen_bit(profile)]
            flops = 2.0 * tokens * per_token * op.expert_parameters / compute
            cold = 2.0 * touched * op.expert_parameters
            assert float(kernels.grouped_gemm(tokens, op).seconds) >= _bound(profile, flops, cold)

        holds()

    def test_no_all_reduce_beats_its_link(self, cost: str, device: str) -> None:
        """A switch may do the sums, but every rank has to send its message once."""
        kernels = model(cost, device)

        @settings(max_examples=EXAMPLES, deadline=None)
        @given(message=st.integers(1, 2**30), ranks=st.sampled_from([2, 3, 4, 8]))
        def holds(message: int, ranks: int) -> None:
            found = kernels.collective("all_reduce", message, ranks, NVLINK)
            assert float(found.seconds) >= FLOOR * message / NVLINK.bandwidth * (1 - 1e-12)

        holds()


def model(cost: str, device: str) -> KernelModel:
    """The registered cost model for a device."""
    made: KernelModel = registry.load("costs", cost)(catalog.device(device), "vllm")
    return made


def by_size(kernels: KernelModel) -> dict[str, Callable[[np.ndarray], Priced]]:
    """Each operator as a function of its one size that grows with the load."""
    return {
        "gemm": lambda m: kernels.gemm(m, 6144, 4096, "bf16"),
        "grouped_gemm": lambda tokens: kernels.grouped_gemm(tokens, EXPERTS),
        "prefill_attention": lambda tokens: kernels.prefill_attention(1, tokens, ATTENTION),
        "prefill_past": lambda tokens: kernels.prefill_past(tokens, ATTENTION),
        "decode_attention by batch": lambda batch: kernels.decode_attention(batch, 700, ATTENTION),
        "decode_attention by context": lambda context: kernels.decode_attention(32, context, ATTENTION),
        "latent decode_attention": lambda batch: kernels.decode_attention(batch, 700, LATENT),
        "latent prefill_attention": lambda tokens: kernels.prefill_attention(1, tokens, LATENT),
        "memory_bound": lambda tokens: kernels.memory_bound(16_384 * tokens, 2),
        "all_reduce": lambda tokens: kernels.collective("all_reduce", 16_384 * tokens, 8, NVLINK),
        "all_gather": lambda tokens: kernels.collective("all_gather", 16_384 * tokens, 8, NVLINK),
        "dispatch": lambda tokens: kernels.exchange("dispatch", tokens, EXCHANGE),
        "combine": lambda tokens: kernels.exchange("combine", tokens, EXCHANGE),
    }


def _bound(profile: HardwareProfile, compute_s: float, cold_bytes: float) -> float:
    """0.95 × roofline, a rounding error less."""
    return FLOOR * max(compute_s, cold_bytes / profile.memory_bandwidth) * (1 - 1e-12)
