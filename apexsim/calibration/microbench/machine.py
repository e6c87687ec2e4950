"""What can be timed: a machine, and what was found on it.

A machine is an entry of the seam ``machines``: a class whose call finds the device, or says in one line why it
cannot. Shipped are ``cpu`` and ``cuda``, both through PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from apexsim import registry
from apexsim.calibration.microbench.cases import Case, Limits
from apexsim.errors import UsageError

EXTRA = "apexsim[calibrate]"


@dataclass(frozen=True)
class Environment:
    """What was found. Times of machines that differ in ``identity`` do not go together."""

    backend: str  # cpu | cuda
    device: str  # the product's name
    count: int  # devices of that kind; 1 for a CPU
    units: int  # multiprocessors, or threads that compute
    memory_bytes: int
    driver: str  # driver of a GPU, kernel of the operating system for a CPU
    versions: Mapping[str, str]  # library -> version, torch among them
    settings: Mapping[str, Any] = field(default_factory=dict)  # clocks, power limit, instruction set, as found
    vendor: str = "unknown"

    @property
    def identity(self) -> dict[str, Any]:
        """Clocks and settings may change between two tries; nothing else may."""
        unit = "threads" if self.backend == "cpu" else "multiprocessors"
        return {
            "backend": self.backend, "device": self.device, unit: self.units, "driver": self.driver,
            "versions": dict(self.versions),
        }  # fmt: skip


class Sample(NamedTuple):
    """One timing of some calls."""

    seconds: float  # of one call
    disturbed: bool  # the machine did something else in between, as far as it tells


class CannotRun(Exception):
    """A kernel that this machine does not have, or for which it lacks memory; the message says why."""


class Machine(Protocol):
    """A device under measurement.

    A kernel is whatever ``kernel`` returns and ``sample`` takes; who times it does not look inside. Operands are made
    by ``kernel``, larger in all than the last-level cache where they come cold in serving (weights, KV cache).
    """

    environment: Environment
    limits: Limits

    def kernel(self, case: Case) -> Any:
        """What runs ``case``. Raises CannotRun."""
        ...

    def sample(self, kernel: Any, calls: int) -> Sample:
        """Time ``calls`` calls, one after another."""
        ...

    def free_bytes(self) -> float:
        """Memory that operands may still take."""
        ...

    def close(self) -> None:
        """Give back what was taken, processes included."""
        ...


def find_machine(name: str, **settings: Any) -> Machine:
    """The machine of that name, with ``settings`` (threads, ranks, dtypes) of its class.

    Raises:
        UsageError: no such machine, it is not here, or PyTorch is not installed.
    """
    made: Callable[..., Machine]
    if name in registry.names("machines"):
        require("torch", "calibrate run")
    made = registry.load("machines", name)
    return made(**settings)


def require(library: str, command: str) -> None:
    """UsageError where an optional library is not installed."""
    if find_spec(library) is None:
        raise UsageError(f"{command} needs {library}, which is not installed: pip install '{EXTRA}'")
