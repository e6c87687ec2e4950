"""Cases as calls into PyTorch.

A kernel is a function of the number of the call, so that weights and caches rotate: call i reads other operands than
call i - 1, and finds them no warmer than an iteration of a served model does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import prod

import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from apexsim.calibration.microbench.cases import Case
from apexsim.calibration.microbench.machine import CannotRun
from apexsim.calibration.microbench.torch_attention import attend

Kernel = Callable[[int], object]

DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "fp8": torch.float8_e4m3fn,
}  # fmt: skip

PAGE_TOKENS = 32
"""Tokens of a page of the KV cache that decodes gather."""

HEAD_DIM = 64
"""Of the rotary embedding."""


class Operands:
    """Random values from which kernels take their operands; ``rotated_bytes`` of them for each dtype.

    Weights and caches are views at different places of one block, so that making a case costs nothing.
    """

    def __init__(self, device: str, rotated_bytes: int) -> None:
        self.device = device
        self.rotated_bytes = rotated_bytes
        self._block = cache(self._make)

    def _make(self, dtype: torch.dtype) -> torch.Tensor:
        values = self.rotated_bytes // dtype.itemsize
        generator = torch.Generator(self.device).manual_seed(0)
        block = torch.empty(values, dtype=torch.bfloat16 if dtype.itemsize == 1 else dtype, device=self.device)
        return block.normal_(0.0, 0.02, generator=generator).to(dtype)

    def turns(self, dtype: torch.dtype, *shape: int) -> list[torch.Tensor]:
        """As many tensors of this shape as the block holds, at most 256."""
        size = prod(shape)
        block = self._block(dtype)
        count = min(block.numel() // size, 256)
        if count == 0:
            raise CannotRun(f"{size * dtype.itemsize} bytes are more than the {self.rotated_bytes} of the operands")
        return [block[i * size : (i + 1) * size].view(shape) for i in range(count)]

    def fresh(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A tensor that stays in the caches: activations, which the operator before has just written."""
        return torch.randn(shape, dtype=torch.float32, device=self.device).to(dtype)


def gemm(case: Case, operands: Operands) -> Kernel:
    """A linear layer without bias. fp8 quantises its input, per tensor, as an engine has to."""
    m, n, k = (case.number(name) for name in "mnk")
    dtype = DTYPES[str(case["dtype"])]
    weights = operands.turns(dtype, n, k)
    if dtype.itemsize > 1:
        x = operands.fresh(dtype, m, k)
        return lambda turn: linear(x, weights[turn % len(weights)])
    activations = operands.fresh(torch.bfloat16, m, k)
    one = torch.ones((), device=operands.device)

    def scaled(turn: int) -> object:
        weight = weights[turn % len(weights)]
        return torch._scaled_mm(activations.to(dtype), weight.t(), one, one, out_dtype=torch.bfloat16)

    return scaled


def prefill(case: Case, operands: Operands) -> Kernel:
    """Whole prompts; queries, keys and values come fresh from their projections, tokens before heads."""
    batch, tokens, heads, kv_heads, width = (
        case.number(name) for name in ("batch", "prompt_tokens", "q_heads", "kv_heads", "head_dim")
    )
    dtype = DTYPES[str(case["kv_dtype"])]
    rows, flat = (1, batch * tokens) if operands.device == "cpu" else (batch, tokens)
    q, k, v = (operands.fresh(dtype, rows, flat, count, width).transpose(1, 2) for count in (heads, kv_heads, kv_heads))
    if operands.device == "cpu":
        ends = [i * tokens for i in range(batch + 1)]
        return lambda turn: attend(q, k, v, ends, ends)
    return lambda turn: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)


def decode(case: Case, operands: Operands) -> Kernel:
    """One token for each sequence. On a CPU the pages are gathered first, as a paged cache in PyTorch must."""
    batch, tokens, heads, kv_heads, width = (
        case.number(name) for name in ("batch", "kv_tokens", "q_heads", "kv_heads", "head_dim")
    )
    dtype = DTYPES[str(case["kv_dtype"])]
    if operands.device == "cpu":
        return _gathered_decode(operands, dtype, batch, tokens, heads, kv_heads, width)
    caches = operands.turns(dtype, 2, batch, kv_heads, tokens, width)
    q = operands.fresh(dtype, batch, heads, 1, width)

    def attention(turn: int) -> object:
        k, v = caches[turn % len(caches)]
        return scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads)

    return attention


def _gathered_decode(
    operands: Operands, dtype: torch.dtype, batch: int, tokens: int, heads: int, kv_heads: int, width: int
) -> Kernel:
    """Pages lie where a cache in use has them: anywhere."""
    slots = operands.rotated_bytes // (2 * kv_heads * width * dtype.itemsize)
    (block,) = operands.turns(dtype, 2, slots, kv_heads, width)[:1]
    pages = -(-batch * tokens // PAGE_TOKENS)
    places = torch.arange(pages * PAGE_TOKENS).view(pages, PAGE_TOKENS)
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randint(0, max(slots // PAGE_TOKENS, 1), (pages, 1), generator=generator) for _ in range(8)]
    indices = [(start * PAGE_TOKENS + places % PAGE_TOKENS).flatten()[: batch * tokens] % slots for start in starts]
    q = operands.fresh(dtype, 1, batch, heads, width).transpose(1, 2)
    query_ends, key_ends = list(range(batch + 1)), [i * tokens for i in range(batch + 1)]

    def attention(turn: int) -> object:
        index = indices[turn % len(indices)]
        k, v = (part.index_select(0, index).transpose(0, 1).unsqueeze(0) for part in block)
        return attend(q, k, v, query_ends, key_ends)

    return attention


def memory(case: Case, operands: Operands) -> Kernel:
    """A copy into another place, or a sum that reads everything; both rotate."""
    values = case.number("bytes") // 4
    blocks = operands.turns(torch.float32, values)
    if case["op"] == "read":
        return lambda turn: blocks[turn % len(blocks)].sum()
    if len(blocks) < 2:
        raise CannotRun("a copy needs two blocks of operands")
    return lambda turn: blocks[turn % len(blocks)].copy_(blocks[(turn + len(blocks) // 2) % len(blocks)])


def elementwise(case: Case, operands: Operands) -> Kernel:
    """The operations between matrix products, written as the models of the transformers library write them."""
    tokens, width = case.number("tokens"), case.number("width")
    dtype = DTYPES[str(case["dtype"])]
    x, y = operands.fresh(dtype, 1, tokens, width), operands.fresh(dtype, 1, tokens, width)
    if case["op"] == "norm":
        weight = operands.fresh(dtype, width)
        return lambda turn: _norm(x, y, weight)
    if case["op"] == "activation":
        return lambda turn: silu(x) * y
    q = x.view(1, tokens, -1, HEAD_DIM).transpose(1, 2)
    cosine, sine = (operands.fresh(dtype, 1, 1, tokens, HEAD_DIM) for _ in range(2))
    return lambda turn: (q * cosine) + (_half_turned(q) * sine)


def _norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    summed = x + residual
    wide = summed.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * wide.to(summed.dtype)


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    middle = x.shape[-1] // 2
    return torch.cat((-x[..., middle:], x[..., :middle]), dim=-1)


KERNELS: Mapping[str, Callable[[Case, Operands], Kernel]] = {
    "gemm": gemm, "context_attention": prefill, "generation_attention": decode, "memory": memory,
    "elementwise": elementwise,
}  # fmt: skip
"""Table -> what makes the kernel of one of its cases."""
