"""The machines through PyTorch: what kernels compute, collectives of two processes, and CUDA with a stand-in device."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: apexsim[calibrate]")

from apexsim.calibration.microbench import torch_kernels, torch_machine  # noqa: E402
from apexsim.calibration.microbench.cases import Case, Limits, draw  # noqa: E402
from apexsim.calibration.microbench.machine import CannotRun, find_machine  # noqa: E402
from apexsim.calibration.microbench.timing import Effort, time_case  # noqa: E402
from apexsim.calibration.microbench.torch_kernels import KERNELS, Operands  # noqa: E402
from apexsim.errors import UsageError  # noqa: E402

SMALL = Limits(1e7, 2**20, ("bfloat16",))
AS_CUDA = "cpu:0"
"""A device whose name is not ``cpu``: the kernels take the paths of CUDA, and run here."""


def case(table: str, **columns: object) -> Case:
    return Case("test", table, tuple(columns.items()), 0.0, 0.0, 0.0)


@pytest.mark.parametrize("device", ["cpu", AS_CUDA])
@pytest.mark.parametrize("family", ["gemm", "attention", "memory", "elementwise"])
def test_every_case_of_a_family_runs_on_either_path(device, family):
    operands = Operands(device, 2**24)
    for drawn in draw([family], SMALL, 0)[:12]:
        kernel = KERNELS[drawn.table](drawn, operands)
        assert kernel(0) is not None
        assert kernel(1) is not None


def test_weights_rotate_and_activations_stay():
    operands = Operands("cpu", 2**20)
    kernel = KERNELS["gemm"](case("gemm", dtype="bfloat16", m=2, n=64, k=128), operands)
    first, second = kernel(0), kernel(1)
    assert first.shape == (2, 64)
    assert not torch.equal(first, second)
    assert torch.equal(kernel(0), first)


@pytest.mark.parametrize("device", ["cpu", AS_CUDA])
def test_a_prompt_attends_to_itself_and_what_came_before(device):
    """Against the formula, through the operands that the kernel made."""
    made: list[torch.Tensor] = []

    class Remembered(Operands):
        def fresh(self, dtype, *shape):
            made.append(super().fresh(dtype, *shape))
            return made[-1]

    sizes = {"batch": 2, "prompt_tokens": 5, "q_heads": 4, "kv_heads": 2, "head_dim": 64}
    prompt = case("context_attention", kv_dtype="float32", **sizes)
    kernel = KERNELS["context_attention"](prompt, Remembered(device, 2**20))
    q, k, v = (x.reshape(2, 5, -1, 64) for x in made)
    found = kernel(0)
    found = found.transpose(1, 2).reshape(2, 5, 4, 64)
    for sequence in range(2):
        for token in range(5):
            weights = torch.softmax(k[sequence, : token + 1, 1] @ q[sequence, token, 3] / 8.0, dim=0)
            torch.testing.assert_close(found[sequence, token, 3], weights @ v[sequence, : token + 1, 1])


def test_the_cpu_times_a_kernel_and_says_when_it_was_disturbed():
    machine = find_machine("cpu")
    drawn = draw(["gemm"], SMALL, 0)[0]
    timing = time_case(machine, machine.kernel(drawn), Effort(case_s=0.01))
    assert 0 < timing.seconds < 1
    assert timing.samples >= 3
    machine.close()


def test_an_operand_larger_than_the_block_is_refused():
    with pytest.raises(CannotRun, match="more than"):
        Operands("cpu", 2**16).turns(torch.float32, 2**16)


@pytest.mark.parametrize("word", ["fp8", "bf16"])
def test_a_dtype_that_a_cpu_does_not_multiply_in_is_told(word):
    with pytest.raises(UsageError, match="--dtypes: unknown dtype"):
        find_machine("cpu", dtypes=[word])


def test_collectives_of_two_processes_are_timed():
    machine = torch_machine.Cpu(ranks=2)
    try:
        drawn = [c for c in draw(["collectives"], machine.limits, 0) if c.number("bytes") == 4096]
        assert {c["op"] for c in drawn} == {"all_reduce", "all_gather", "reduce_scatter", "alltoall"}
        times = {}
        for one in drawn:
            try:
                times[one["op"]] = machine.sample(machine.kernel(one), 3).seconds
            except CannotRun:
                continue  # Gloo lacks some of them in some versions
        assert {"all_reduce", "all_gather"} <= set(times)
        assert all(0 < seconds < 10 for seconds in times.values())
    finally:
        machine.close()


# --- CUDA, with a device that is not there ------------------------------------------------------------------------


class FakeEvent:
    clock_ms = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = FakeEvent.clock_ms

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at - self.at


class FakeGraph:
    """Each replay takes 2 ms."""

    captured = 0

    def replay(self) -> None:
        FakeEvent.clock_ms += 2.0


@contextmanager
def capture(graph: FakeGraph):
    FakeGraph.captured += 1
    yield


@pytest.fixture
def cuda(monkeypatch) -> torch_machine.Cuda:
    found = SimpleNamespace(
        name="Fake GPU", total_memory=80 * 2**30, multi_processor_count=132, L2_cache_size=50 * 2**20, major=9, minor=0
    )
    for name, value in {
        "is_available": lambda: True, "get_device_properties": lambda index: found, "device_count": lambda: 1,
        "Event": FakeEvent, "CUDAGraph": FakeGraph, "graph": capture, "mem_get_info": lambda: (70 * 2**30, 80 * 2**30),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch_machine, "Operands", lambda device, size: Operands(AS_CUDA, 2**24))
    return torch_machine.Cuda()


def test_a_cuda_device_says_what_it_is(cuda):
    found = cuda.environment
    assert (found.backend, found.device, found.units) == ("cuda", "Fake GPU", 132)
    assert cuda.limits.dtypes == ("bfloat16", "fp8")
    assert cuda.free_bytes() == 70 * 2**30
    assert set(found.versions) >= {"torch", "cuda"}


def test_kernels_are_replayed_from_one_graph(cuda):
    kernel = cuda.kernel(draw(["gemm"], SMALL, 0)[0])
    FakeGraph.captured = 0
    assert cuda.sample(kernel, 4).seconds == pytest.approx(2e-3 / 4)
    assert cuda.sample(kernel, 4).seconds == pytest.approx(2e-3 / 4)
    assert FakeGraph.captured == 1
    cuda.sample(kernel, 8)
    assert FakeGraph.captured == 2


def test_what_cannot_be_captured_is_launched_call_by_call(cuda, monkeypatch):
    @contextmanager
    def refused(graph):
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refused)
    turns: list[int] = []
    cuda.sample(turns.append, 3)
    assert turns == [0, 1, 2]


def test_without_a_device_the_message_names_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="finds no CUDA device here"):
        find_machine("cuda")


def test_fp8_quantises_its_input(monkeypatch):
    asked: list[torch.dtype] = []

    def scaled_mm(x, w, scale_a, scale_b, out_dtype):
        asked.extend([x.dtype, w.dtype, out_dtype])
        return torch.zeros(x.shape[0], w.shape[1], dtype=out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    kernel = torch_kernels.gemm(case("gemm", dtype="fp8", m=16, n=32, k=64), Operands("cpu", 2**16))
    assert kernel(0).shape == (16, 32)
    assert asked == [torch.float8_e4m3fn, torch.float8_e4m3fn, torch.bfloat16]
