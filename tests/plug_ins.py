"""What an outside package would register: one toy entry for each seam, and entry points that name them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import numpy as np

from apexsim.cost.kernels import AnalyticKernels, Priced
from apexsim.engine.routers import Offered, ReplicaView, RequestView
from apexsim.errors import UsageError
from apexsim.metrics.metric import Metric
from apexsim.search.strategies import Grid
from apexsim.spec.base import Strict
from apexsim.spec.plan import Plan
from apexsim.validation.importers.base import ImportedRun
from apexsim.workload.formats.base import has_columns
from apexsim.workload.formats.cells import foreign, seconds, tokens, trace_name
from apexsim.workload.formats.source import NUMBER, read_table
from apexsim.workload.trace import Trace


class FewestBlocks:
    """The replica that holds the fewest KV blocks."""

    def start(self, offered: Offered, replicas: int, seed: int) -> None:
        """Nothing to draw."""

    def choose(self, request: RequestView, replicas: ReplicaView) -> int:
        return int(np.argmin(replicas.used_blocks))


class Chat:
    """A log of a chat server: ``when_s,prompt,answer``."""

    name = "chat"
    header = "when_s,prompt,answer"
    is_log = True

    def matches(self, header: str, path: Path) -> bool:
        return has_columns(header, "when_s", "prompt", "answer")

    def read(self, path: Path) -> Trace:
        table = read_table(path, dict.fromkeys(("when_s", "prompt", "answer"), NUMBER))
        answer = tokens(path, table, "answer", least=0)
        trace = Trace(
            name=trace_name(path), arrival_s=seconds(path, table, "when_s"),
            input_tokens=tokens(path, table, "prompt", least=1), output_tokens=answer, source=f"{path} ({self.name})",
        )
        return foreign(trace, drop={"no answer": answer == 0})

    def example(self) -> Mapping[str, str]:
        return {"chat.csv": "when_s,prompt,answer\n0.5,210,33\n1.5,20,0\n2.25,900,120\n"}


METRICS = (Metric("preemptions_per_request", "Preemptions per request", "count", "down",
                  lambda summary: summary.preemptions / summary.requests.total),)


class OneBlock(Strict):
    """KV blocks of one size: ``tokens`` of them."""

    source: ClassVar[str] = "tests of apexsim"
    tokens: int = 32

    def apply(self, plan: Plan) -> Plan:
        pools = tuple(pool.model_copy(update={"block_size": self.tokens}) for pool in plan.pools)
        return plan.model_copy(update={"pools": pools})


class TwiceAsSlow(AnalyticKernels):
    """Rooflines of which every GEMM takes twice as long."""

    def gemm(self, *sizes: object, **more: object) -> Priced:
        price = super().gemm(*sizes, **more)
        return price._replace(seconds=2.0 * price.seconds)


class Thorough(Grid):
    """Every plan, none left out."""

    def _drop_hopeless(self) -> None:
        pass


class Stopwatch:
    """Results of a stopwatch: ``seconds a token``, one number."""

    name = "stopwatch"
    about = "a number and the words 'seconds a token'"
    needs: tuple[str, ...] = ("load",)

    def matches(self, text: str) -> bool:
        return "seconds a token" in text

    def read(self, path: Path, text: str) -> list[ImportedRun]:
        return [ImportedRun({"tpot_mean_s": float(text.split()[0])})]

    def example(self) -> Mapping[str, str]:
        return {"watch.txt": "0.02 seconds a token\n"}


class Abacus:
    """A machine that is never here, and says so."""

    def __init__(self) -> None:
        raise UsageError("abacus: no beads were found")


ENTRIES = {
    "routers": ("fewest-blocks", "FewestBlocks"),
    "formats": ("chat", "Chat"),
    "metrics": ("preemptions", "METRICS"),
    "techniques": ("one-block", "OneBlock"),
    "costs": ("twice-as-slow", "TwiceAsSlow"),
    "strategies": ("thorough", "Thorough"),
    "importers": ("stopwatch", "Stopwatch"),
    "machines": ("abacus", "Abacus"),
}
"""Seam -> name and object of its toy."""


def installed(group: str) -> list[EntryPoint]:
    """What ``importlib.metadata.entry_points`` says where the toys are installed."""
    name, attribute = ENTRIES[group.removeprefix("apexsim.")]
    return [EntryPoint(name, f"tests.plug_ins:{attribute}", group)]
