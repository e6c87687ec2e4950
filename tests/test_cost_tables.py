"""Step tables: the sum of their operators, finite, and never much cheaper for more work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apexsim.cost.graph import cut_of, head_operators, stage_operators
from apexsim.cost.host import AS_MEASURED, Kernels, graph_sizes, host_model, hosts, padded
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp, Collective, Elementwise, Gemm
from apexsim.cost.pricing import rising
from apexsim.cost.step import CompiledPool, compile_pool
from apexsim.cost.tables import FULL, WINDOWED, token_knots
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster
from apexsim.spec.plan import Pool
from tests.cost_worlds import attempt, compiled, same_bytes

POOLS = [
    ("Llama-3.1-70B", "h100-sxm", {"tp": 8}),
    ("Llama-3.1-70B", "h100-sxm", {"tp": 4, "weights": "fp8", "kv_cache": "fp8"}),
    ("Llama-3.1-70B", "h100-sxm", {"tp": 2, "pp": 3}),
    ("Llama-3.1-8B", "a100-sxm-80gb", {"tp": 1}),
    ("Gemma-3-27B", "h100-sxm", {"tp": 2}),
    ("Mixtral-8x7B", "h100-sxm", {"tp": 2}),
    ("DeepSeek-V3", "b200-sxm", {"tp": 8}),
    ("gpt-oss-120b", "h100-sxm", {"tp": 2}),
    ("Llama-3.1-8B", "mi300x", {"tp": 1}),
]


@pytest.mark.parametrize(("model", "device", "pool"), POOLS)
def test_tables_are_finite_never_negative_and_nothing_costs_nothing(
    model: str, device: str, pool: dict[str, object]
) -> None:
    t = compiled(model, device, **pool).tables
    for name, table in t._asdict().items():
        if isinstance(table, np.ndarray):
            assert np.isfinite(table).all(), name
            assert (table >= 0).all(), name
    assert t.mixed_s[:, 0].max() == t.decode_s[:, 0].max() == t.head_s[0] == 0.0
    assert t.decode_attention_s[:, :, 0].max() == t.prefill_s[:, :, 0].max() == 0.0
    assert (t.mixed_s[:, 1:] > 0).all()
    assert (t.decode_attention_s[:, FULL, 1:, -1].sum(axis=0) > 0).all()


@pytest.mark.parametrize(("model", "device", "pool"), POOLS)
def test_more_tokens_sequences_or_context_never_cost_less(model: str, device: str, pool: dict[str, object]) -> None:
    t = compiled(model, device, **pool).tables
    for table in (t.mixed_s, t.decode_s, t.prefill_s, t.prefill_past_s, t.head_s, t.host_floor_s, t.host_serial_s):
        assert (np.diff(table, axis=-1) >= -1e-15).all()
    assert (np.diff(t.decode_attention_s, axis=-1) >= -1e-15).all()
    assert (np.diff(t.decode_attention_s, axis=-2) >= -1e-15).all()


def test_shapes_follow_the_law_of_the_tables() -> None:
    t = compiled(tp=2, pp=4, tokens=2048, seqs=100).tables
    knots = len(token_knots(2048))
    assert t.mixed_s.shape == (4, knots)
    assert t.decode_s.shape == (4, 101)
    assert t.decode_attention_s.shape == (4, 2, 101, len(t.context_knots))
    assert t.prefill_s.shape == t.prefill_past_s.shape == (4, 2, knots)
    assert t.head_s.shape == t.host_floor_s.shape == t.host_serial_s.shape == (101,)
    assert t.transfer_s.shape == (t.stages - 1, knots)
    assert (t.transfer_s[:, 1] > 0).all()
    assert t.context_knots[0] == 0
    assert t.context_knots[-1] >= 131_072
    assert t.stages == 4


@pytest.mark.parametrize("tokens", [1, 8, 256, 1000, 2048, 8192])
def test_a_mixed_iteration_is_the_sum_of_its_operators(tokens: int) -> None:
    """Priced one by one, without tables, ledgers or caches; 1000 tokens are beyond the largest graph, 8 are one."""
    model, profile = catalog.model("Llama-3.1-70B"), catalog.device("h100-sxm")
    cut, kernels = cut_of(model, Pool(tp=4)), CalibratedKernels(profile)
    link = Cluster.model_validate("8xh100-sxm").link(profile, 4)
    total = 0.0
    for op in stage_operators(model, cut, 0):
        if isinstance(op, Gemm):
            price = kernels.gemm(tokens, op.n, op.k, op.weights)
        elif isinstance(op, Elementwise):
            price = kernels.memory_bound(tokens * op.token_bytes, op.kernels)
        elif isinstance(op, Collective):
            price = kernels.collective(op.kind, tokens * op.token_bytes, op.ranks, link)
        else:
            assert isinstance(op, AttentionOp)
            decode, prefill = kernels.decode_attention(1, 1, op), kernels.prefill_attention(1, 1, op)
            price = min(decode, prefill, key=lambda one: float(one.seconds))
        total += op.count * float(price.seconds)
    host = host_model("vllm", None)
    if tokens > host.largest_graph:
        launches = host.eager_kernel_s * sum(op.count * op.kernels for op in stage_operators(model, cut, 0))
        total = (total**1.5 + launches**1.5) ** (1 / 1.5)
    t = compiled(tp=4).tables
    index = tokens if tokens <= t.token_dense else t.token_dense + (tokens - t.token_dense) // t.token_stride
    # The tables never let a kernel get cheaper with more tokens, so they may lie a little beside.
    assert t.mixed_s[0, index] == pytest.approx(total, rel=0.05)


def test_the_head_is_priced_on_the_sequences_that_yield_a_token() -> None:
    model, profile = catalog.model("Llama-3.1-8B"), catalog.device("h100-sxm")
    head, sampling = head_operators(model, cut_of(model, Pool()), host_model("vllm", None).logit_bytes)
    assert isinstance(head, Gemm)
    assert isinstance(sampling, Elementwise)
    kernels = CalibratedKernels(profile)
    own = kernels.gemm(64, head.n, head.k, head.weights).seconds
    drawn = kernels.memory_bound(64 * sampling.token_bytes, sampling.kernels).seconds
    assert compiled("Llama-3.1-8B").tables.head_s[64] == pytest.approx(float(own + drawn), rel=0.03)


def test_decode_iterations_are_padded_to_a_cuda_graph() -> None:
    t = compiled(tp=4).tables
    assert t.decode_s[0, 9] == t.decode_s[0, 16]
    assert t.decode_s[0, 3] == t.decode_s[0, 4]
    assert t.decode_s[0, 17] > t.decode_s[0, 16]


def test_without_a_graph_an_iteration_waits_for_its_launches() -> None:
    """vLLM 0.6 ran prefills eagerly: 12 kernels a layer and two for the embedding, which the kernels hide in part."""
    old, new = (compiled(tp=8, engine_version=version).tables for version in ("0.6.0", "0.15.1"))
    launches = (12 * 80 + 2) * host_model("vllm", "0.6.0").eager_kernel_s
    device = old.decode_s[0, 1]  # replays a graph
    assert max(launches, device) < old.mixed_s[0, 1] < launches + device
    assert old.mixed_s[0, 1] == pytest.approx((launches**1.5 + device**1.5) ** (2 / 3), rel=1e-3)
    assert old.decode_s[0, 64] < 0.5 * old.mixed_s[0, 64]
    assert new.mixed_s[0, 64] == pytest.approx(new.decode_s[0, 64])  # piecewise graphs since
    assert old.mixed_s[0, -1] > 0.1  # a full batch keeps the device busier than the host


def test_graph_sizes_are_vllms() -> None:
    sizes = graph_sizes(host_model("vllm", "0.11.0").graphs, 256)
    assert sizes.tolist()[:6] == [1, 2, 4, 8, 16, 24]
    assert sizes.tolist()[-3:] == [480, 496, 512]
    assert graph_sizes(host_model("vllm", "0.11.0").graphs, 20).max() == 40
    assert padded(np.array([0, 1, 3, 9, 40, 41]), graph_sizes(host_model("vllm", "0.11.0").graphs, 20)).tolist() == [
        0, 1, 4, 16, 40, 41,
    ]  # fmt: skip


def test_a_version_takes_the_latest_preset_that_is_not_newer() -> None:
    assert host_model("vllm", "0.2.3").since == (0, 0)
    assert host_model("vllm", "0.6.0").since == (0, 4)
    assert host_model("vllm", "0.11.1").since == (0, 8)
    assert host_model("vllm", "v0.15.1rc2").since == host_model("vllm", None).since == (0, 14)
    assert host_model("an-engine-nobody-knows", "3.1").engine == "vllm"
    assert all(preset.source for preset in hosts())


def test_kernels_of_an_old_engine_take_longer_by_a_factor() -> None:
    """What the device does does, what the host does not; ranks beside the first cost the host."""
    model, profile, cluster = catalog.model("OPT-13B"), catalog.device("a100-sxm-80gb"), Cluster(device="a100-sxm-80gb")
    pool, limits = Pool(tp=2, kv_cache="fp16"), {"max_num_batched_tokens": 512, "max_num_seqs": 8}
    plain = replace(host_model("vllm", "0.2.3"), kernels=AS_MEASURED, rank_s=0.0)
    slow = replace(plain, kernels=Kernels(2.0, 3.0), rank_s=0.01)
    one, two = (compile_pool(model, profile, cluster, pool, host=host, **limits) for host in (plain, slow))
    assert isinstance(one, CompiledPool)
    assert isinstance(two, CompiledPool)
    for name, factor in (("mixed_s", 2.0), ("prefill_s", 2.0), ("prefill_past_s", 2.0), ("decode_s", 3.0),
                         ("decode_attention_s", 3.0), ("head_s", 3.0)):  # fmt: skip
        np.testing.assert_allclose(getattr(two.tables, name), factor * getattr(one.tables, name), rtol=1e-12)
    np.testing.assert_allclose((two.tables.host_serial_s - one.tables.host_serial_s)[1:], 0.01)


def test_windowed_layers_are_a_kind_of_their_own() -> None:
    t = compiled("Gemma-3-27B", tp=2).tables
    assert t.window == 1024
    assert t.decode_attention_s[0, WINDOWED, 16, -1] > 0
    assert t.prefill_s[0, WINDOWED, -1] < t.prefill_s[0, FULL, -1] * 10  # five times the layers, a window each
    assert compiled("Llama-3.1-8B").tables.decode_attention_s[:, WINDOWED].max() == 0


def test_a_long_chunk_has_room_in_the_tables() -> None:
    """A scheduler that does not chunk takes a prompt as long as the context."""
    found = compiled("Llama-3.1-8B", tokens=2048)
    assert len(found.tables.mixed_s[0]) == len(token_knots(2048))
    t = compiled("Llama-3.1-8B", tokens=32_768).tables
    assert t.prefill_s[0, FULL, -1] > 4 * t.prefill_s[0, FULL, (t.token_dense + (8192 - 1024) // 64)]


def test_decoding_above_the_largest_graph_pays_its_launches() -> None:
    """vLLM 0.6 on 8 ranks: 256 sequences replay a graph; 257 launch every kernel, as an iteration with prefill."""
    t = compiled(tp=8, tokens=2048, seqs=300, engine_version="0.6.0").tables
    assert t.decode_s[0, 256] < 0.7 * t.mixed_s[0, 256]
    assert t.decode_s[0, 257] == pytest.approx(t.mixed_s[0, 257], rel=1e-3)  # a row more or less, knots between


def test_stages_send_slices_and_gather_them() -> None:
    """2048 tokens of 70B between nodes: hidden and residual are 67 MB, an eighth for each of eight NICs."""
    pool = {"tp": 8, "pp": 2, "cluster": "2x8xh100-sxm", "tokens": 2048}
    reached = catalog.device("h100-sxm").efficiency
    message = 2048 * 2 * 8192 * 2
    sent = 5e-6 + message / 8 / (50e9 * reached.link)
    gathered = reached.launch_s + 1e-6 + 7 / 8 * message / (450e9 * reached.link)
    assert compiled(**pool).tables.transfer_s[0, -1] == pytest.approx(sent + gathered)


def test_windowed_models_say_how_much_kv_capacity_is_understated() -> None:
    """Gemma-3-27B: 52 of 62 layers hold 1024 tokens; 62 / (10 + 52 · 1024 / L) is 3.8 at 8192 tokens."""
    old = compiled("Gemma-3-27B", tp=2, max_model_len=8192, engine_version="0.9")
    (note,) = [n for n in old.confidence.notes if "window" in n]
    assert "understated by up to 3.8x" in note
    assert not any("window" in n for n in compiled("Llama-3.1-8B").confidence.notes)


def test_cached_tokens_were_not_measured_and_a_note_says_so() -> None:
    assert any("cached tokens" in n and "extrapolated_fraction" in n for n in compiled(tp=4).confidence.notes)


def test_groups_over_several_nodes_say_that_their_collectives_are_estimated() -> None:
    far, near = compiled(tp=16, cluster="2x8xh100-sxm"), compiled(tp=8)
    assert any("between nodes" in note for note in far.confidence.notes)
    assert not any("between nodes" in note for note in near.confidence.notes)


def test_tensor_parallel_iterations_are_faster_but_not_by_the_ranks() -> None:
    one, two, eight = (compiled(tp=tp, weights="fp8").tables.decode_s[0, 16] for tp in (2, 4, 8))
    assert one > two > eight
    assert one < 4 * eight


def test_fp8_beats_bf16_where_weights_are_read() -> None:
    bf16, fp8 = compiled(tp=4).tables, compiled(tp=4, weights="fp8").tables
    assert fp8.decode_s[0, 1] < 0.75 * bf16.decode_s[0, 1]
    full, half = bf16.decode_attention_s, compiled(tp=4, kv_cache="fp8").tables.decode_attention_s
    assert half[0, FULL, 256, -1] < 0.75 * full[0, FULL, 256, -1]


def test_a_pool_that_cannot_run_is_a_value_with_a_reason() -> None:
    dtype = attempt("Llama-3.1-8B", "a100-sxm-80gb", weights="fp8")
    assert dtype.resource == "dtype"
    assert "fp8" in dtype.reason
    shape = attempt("Llama-3.1-70B", tp=3)
    assert shape.resource == "shape"
    assert "3" in shape.reason
    memory = attempt("Llama-3.1-405B", tp=8)
    assert memory.resource == "memory"
    assert memory.short_bytes == pytest.approx(memory.needed_bytes - memory.available_bytes)
    assert memory.short_bytes > 20e9  # 812 GB over eight devices of 77 GB usable
    assert "short by" in memory.reason
    assert "\n" not in dtype.reason + shape.reason + memory.reason


def test_a_device_without_bf16_runs_fp16() -> None:
    refused = attempt("Llama-3.1-8B", "v100-sxm2-32gb", tp=2)
    assert refused.resource == "dtype"
    assert "fp16 would run" in refused.reason
    for weights in ("fp16", "w4a16"):  # the LM head of the second stays in 16 bits
        assert compiled("Llama-3.1-8B", "v100-sxm2-32gb", tp=2, weights=weights).tables.head_s[1] > 0


def test_confidence_says_what_was_measured() -> None:
    known = compiled(tp=4).confidence
    assert {"qkv_proj", "down_proj", "attention", "mlp_sum"} <= set(known.calibrated_operators)
    assert set(known.analytic_operators) == {
        "attention_norm", "mlp_norm", "rotary_cache", "activation", "embedding",
    }
    guessed = compiled("Llama-3.1-8B", "mi300x").confidence
    assert guessed.calibrated_operators == ()
    assert any("nothing measured" in note for note in guessed.notes)
    analytic = compiled(tp=4, costs="analytic").confidence
    assert analytic.calibrated_operators == ()


def test_equal_pools_compile_to_equal_tables() -> None:
    first, second = compiled(tp=4).tables, compiled(tp=4).tables
    assert same_bytes(first, second)


def test_a_series_that_wavers_rises_through_its_middle() -> None:
    """5, 7, 6: the dip is halfway between the largest so far (7) and the smallest to come (6)."""
    np.testing.assert_allclose(rising(np.array([5.0, 7.0, 6.0, 9.0])), [5.0, 6.5, 6.5, 9.0])
    np.testing.assert_allclose(rising(np.array([[2.0, 1.0], [1.0, 3.0]]), axis=0), [[1.5, 1.0], [1.5, 3.0]])
    np.testing.assert_allclose(rising(np.array([9.0, 1.0, 1.0, 1.0, 5.0])), [3.0, 3.0, 3.0, 3.0, 5.0])
