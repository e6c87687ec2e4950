"""Collectives through ``torch.distributed``: one process a rank, driven from the process that times them.

Ranks wait at their end of a pipe. A sample goes to all of them; the slowest one's time counts. NCCL on CUDA devices,
Gloo on a CPU.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist

from apexsim.calibration.microbench.cases import Case
from apexsim.calibration.microbench.machine import CannotRun, Sample

TIMEOUT_S = 120.0
"""A rank that says nothing for so long has died or hangs."""

DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Collective:
    """What a group times: which operation, over how many ranks, how many values each rank holds."""

    op: str
    ranks: int
    elements: int


class Group:
    """``ranks`` processes; none as long as no collective is asked for."""

    def __init__(self, device: str, ranks: int) -> None:
        self.device, self.ranks = device, ranks
        self._ends: list[Connection] = []
        self._processes: list[BaseProcess] = []

    def kernel(self, case: Case) -> Collective:
        """The collective of a case; starts the processes when it is the first."""
        if not self._processes:
            self._start()
        return Collective(str(case["op"]), case.number("gpus"), case.number("elements"))

    def sample(self, kernel: Collective, calls: int) -> Sample:
        """Time ``calls`` calls on the first ranks; the slowest counts."""
        for end in self._ends:
            end.send((kernel, calls))
        answers = [self._answer(end) for end in self._ends]  # of all ranks, or the next sample would get an old one
        reasons = [answer for answer in answers if isinstance(answer, str)]
        if reasons:
            raise CannotRun(reasons[0])
        return Sample(max(float(answer) for answer in answers), False)

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()
        self._ends, self._processes = [], []

    def _start(self) -> None:
        context = torch.multiprocessing.get_context("spawn")
        port = _free_port()
        for rank in range(self.ranks):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self.device, rank, self.ranks, port), daemon=True)
            process.start()
            self._ends.append(mine)
            self._processes.append(process)

    def _answer(self, end: Connection) -> float | str:
        if not end.poll(TIMEOUT_S):
            self.close()
            raise CannotRun(f"a rank did not answer for {TIMEOUT_S:.0f} s")
        answer: float | str = end.recv()
        return answer


def _serve(end: Connection, device: str, rank: int, ranks: int, port: int) -> None:
    """A rank's life: wait for a collective, time it, send the seconds of one call, or why there are none."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # names of functions that will change in torch
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=ranks)
    groups: dict[int, Any] = {size: dist.new_group(list(range(size))) for size in _sizes(ranks)}
    try:
        while (asked := end.recv()) is not None:
            kernel, calls = asked
            try:
                end.send(_time(kernel, calls, device, rank, groups))
            except RuntimeError as problem:
                end.send(str(problem).strip().splitlines()[0])
    except (EOFError, KeyboardInterrupt):
        pass
    dist.destroy_process_group()


def _time(kernel: Collective, calls: int, device: str, rank: int, groups: Mapping[int, Any]) -> float:
    """Seconds of one call on this rank; 0 on a rank that takes no part."""
    if rank >= kernel.ranks:
        return 0.0
    group = groups[kernel.ranks]
    run = OPERATIONS[kernel.op](kernel, device, group)
    run()
    _finish(device)
    dist.barrier(group=group)
    began = time.perf_counter()
    for _ in range(calls):
        run()
    _finish(device)
    return (time.perf_counter() - began) / calls


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _values(elements: int, device: str) -> torch.Tensor:
    return torch.zeros(elements, dtype=DTYPE, device=device)


def _all_reduce(kernel: Collective, device: str, group: Any) -> Callable[[], object]:
    message = _values(kernel.elements, device)
    return lambda: dist.all_reduce(message, group=group)


def _all_gather(kernel: Collective, device: str, group: Any) -> Callable[[], object]:
    """``elements`` are those of one rank's part, as nccl-tests count them for a gather of all."""
    part = _values(max(kernel.elements // kernel.ranks, 1), device)
    whole = _values(part.numel() * kernel.ranks, device)
    return lambda: dist.all_gather_into_tensor(whole, part, group=group)


def _reduce_scatter(kernel: Collective, device: str, group: Any) -> Callable[[], object]:
    part = _values(max(kernel.elements // kernel.ranks, 1), device)
    whole = _values(part.numel() * kernel.ranks, device)
    return lambda: dist.reduce_scatter_tensor(part, whole, group=group)


def _all_to_all(kernel: Collective, device: str, group: Any) -> Callable[[], object]:
    sent = _values(max(kernel.elements // kernel.ranks, 1) * kernel.ranks, device)
    received = torch.empty_like(sent)
    return lambda: dist.all_to_all_single(received, sent, group=group)


OPERATIONS: Mapping[str, Callable[[Collective, str, Any], Callable[[], object]]] = {
    "all_reduce": _all_reduce, "all_gather": _all_gather, "reduce_scatter": _reduce_scatter, "alltoall": _all_to_all,
}  # fmt: skip
"""Word of the tables -> what makes the call."""


def _sizes(ranks: int) -> list[int]:
    """Powers of two up to the number of ranks."""
    return [2**i for i in range(1, ranks.bit_length())]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
