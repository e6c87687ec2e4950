"""The CPU and CUDA devices, timed through PyTorch."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from apexsim.calibration.microbench.cases import BYTES, Case, Limits
from apexsim.calibration.microbench.machine import CannotRun, Environment, Sample
from apexsim.calibration.microbench.torch_collectives import Group
from apexsim.calibration.microbench.torch_kernels import KERNELS, Kernel, Operands
from apexsim.errors import UsageError, unknown_name


class _Torch:
    """What both have in common: kernels by their table, collectives through a group of processes."""

    environment: Environment
    limits: Limits

    def __init__(self, device: str, rotated_bytes: int, ranks: int) -> None:
        self._operands = Operands(device, rotated_bytes)
        self._group = Group(device, ranks)
        self._turn = 0

    def kernel(self, case: Case) -> Any:
        """A function of the number of the call, or a collective of the group."""
        if case.family == "collectives":
            return self._group.kernel(case)
        try:
            run = KERNELS[case.table](case, self._operands)
            with torch.inference_mode():
                run(0)
        except RuntimeError as problem:  # out of memory, or no such kernel
            raise CannotRun(str(problem).strip().splitlines()[0]) from None
        return run

    def sample(self, kernel: Any, calls: int) -> Sample:
        """Time ``calls`` calls; operands go on rotating from one sample to the next."""
        if not callable(kernel):
            return self._group.sample(kernel, calls)
        with torch.inference_mode():
            return self._sample(kernel, calls)

    def _sample(self, kernel: Kernel, calls: int) -> Sample:
        raise AssertionError("a machine times its own kernels")

    def close(self) -> None:
        """End the processes of the group."""
        self._group.close()


class Cpu(_Torch):
    """This CPU, with as many threads as asked for.

    The clock is the wall's. A sample in which the scheduler took the processor away says so; where one thread
    computes, its processor time stands for it.
    """

    def __init__(
        self, threads: int = 1, ranks: int = 1, dtypes: Sequence[str] | None = None, rotated_bytes: int = 2**28
    ) -> None:
        torch.set_num_threads(threads)
        super().__init__("cpu", rotated_bytes, ranks)
        self.threads = threads
        self.environment = _cpu_environment(threads)
        self.limits = Limits(
            flops=1e10 * threads, moved=rotated_bytes / 4, dtypes=_known(dtypes or ("bfloat16",), ("fp8",)), ranks=ranks
        )
        self._who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF) if threads == 1 else resource.RUSAGE_SELF

    def _sample(self, kernel: Kernel, calls: int) -> Sample:
        first, self._turn = self._turn, self._turn + calls
        switches = resource.getrusage(self._who).ru_nivcsw
        cpu, began = time.thread_time(), time.perf_counter()
        for turn in range(first, first + calls):
            kernel(turn)
        wall_s, cpu_s = time.perf_counter() - began, time.thread_time() - cpu
        disturbed = resource.getrusage(self._who).ru_nivcsw > switches
        return Sample((cpu_s if disturbed and self.threads == 1 else wall_s) / calls, disturbed)

    def free_bytes(self) -> float:
        """What the operating system could hand out."""
        found = _lines(Path("/proc/meminfo")).get("MemAvailable")
        return float(found.split()[0]) * 1024 if found else float(self.environment.memory_bytes) / 2


class Cuda(_Torch):
    """The first CUDA device, its kernels replayed from a graph and timed with events."""

    def __init__(
        self, ranks: int | None = None, dtypes: Sequence[str] | None = None, rotated_bytes: int | None = None,
        threads: int = 1,
    ) -> None:
        if not torch.cuda.is_available():
            raise UsageError("--backend cuda: PyTorch finds no CUDA device here (allowed: cpu)")
        found = torch.cuda.get_device_properties(0)
        # four times the cache, so that a rotation leaves nothing warm
        rotated = rotated_bytes or max(4 * found.L2_cache_size, 2**30)
        super().__init__("cuda", rotated, ranks or torch.cuda.device_count())
        self.environment = _cuda_environment(found)
        words = dtypes or ("bfloat16", *(["fp8"] if found.major * 10 + found.minor >= 89 else []))
        self.limits = Limits(1e14, rotated / 2, _known(words, ()), ranks or torch.cuda.device_count())
        self._graphs: dict[int, tuple[Kernel, torch.cuda.CUDAGraph]] = {}

    def _sample(self, kernel: Kernel, calls: int) -> Sample:
        replay = self._replayed(kernel, calls)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        replay()
        end.record()
        end.synchronize()
        return Sample(float(begin.elapsed_time(end)) * 1e-3 / calls, False)

    def _replayed(self, kernel: Kernel, calls: int) -> Callable[[], object]:
        """One graph of all calls; what cannot be captured is launched call by call. Only the last graph is kept."""
        known = self._graphs.get(calls)
        if known is None or known[0] is not kernel:
            self._graphs.clear()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    for turn in range(calls):
                        kernel(turn)
            except RuntimeError:
                return lambda: [kernel(turn) for turn in range(calls)]
            known = self._graphs[calls] = (kernel, graph)
        replay: Callable[[], object] = known[1].replay
        return replay

    def free_bytes(self) -> float:
        """As the driver reports it."""
        return float(torch.cuda.mem_get_info()[0])


def _known(dtypes: Sequence[str], lacks: Sequence[str]) -> tuple[str, ...]:
    """The words, or a UsageError for one that the machine does not multiply in."""
    allowed = [word for word in BYTES if word not in lacks]
    for word in dtypes:
        if word not in allowed:
            raise UsageError(f"--dtypes: {unknown_name('dtype', word, allowed)}")
    return tuple(dtypes)


def _cpu_environment(threads: int) -> Environment:
    cpu, memory = _lines(Path("/proc/cpuinfo")), _lines(Path("/proc/meminfo"))
    total = memory.get("MemTotal", "")
    settings = {
        "clock_mhz_as_found": cpu.get("cpu MHz", "unknown"), "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "last_level_cache": cpu.get("cache size", "unknown"), "load_average": _load(),
    }  # fmt: skip
    return Environment(
        backend="cpu", device=cpu.get("model name") or platform.processor() or platform.machine(), count=1,
        units=threads, memory_bytes=int(total.split()[0]) * 1024 if total else os.sysconf("SC_PAGE_SIZE")
        * os.sysconf("SC_PHYS_PAGES"),
        driver=f"{platform.system()} {platform.release()}", versions={"torch": str(torch.__version__)},
        settings=settings, vendor=cpu.get("vendor_id", "unknown"),
    )  # fmt: skip


def _cuda_environment(found: Any) -> Environment:
    words = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")
    told = _nvidia_smi(words)
    versions = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    if torch.distributed.is_nccl_available():
        versions["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())
    return Environment(
        backend="cuda", device=found.name, count=torch.cuda.device_count(), units=found.multi_processor_count,
        memory_bytes=found.total_memory, driver=told["driver_version"], versions=versions,
        settings={word: told[word] for word in words[1:]}, vendor="AMD" if torch.version.hip else "NVIDIA",
    )  # fmt: skip


def _nvidia_smi(words: Sequence[str]) -> dict[str, str]:
    """Values as the driver's own tool prints them, "unknown" where it is missing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(words)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return dict(zip(words, (cell.strip() for cell in done.stdout.split(",")), strict=True))
    except (OSError, ValueError, subprocess.SubprocessError):
        return dict.fromkeys(words, "unknown")


def _lines(path: Path) -> Mapping[str, str]:
    """``name: value`` lines of a file of /proc, the first of equal names; nothing where there is no such file."""
    if not path.exists():
        return {}
    pairs = [line.partition(":") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name.strip(): value.strip() for name, _, value in reversed(pairs) if value.strip()}


def _load() -> list[float]:
    return [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else []
