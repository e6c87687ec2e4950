"""The contract of a machine that ``apexsim calibrate run`` times, as tests. A plug-in inherits it:

    from apexsim.testing.machine import MachineContract

    class TestMine(MachineContract):
        machines = ("mine",)          # names in the registry; all registered ones where left out

A machine must: find itself or say in one line why it is not here; say what it is; run a case of every family within
its limits and time it; take no less time for more calls than for fewer; say which kernels it lacks. Each test is
skipped, with the machine's own reason, where it is not here.
"""

from __future__ import annotations

import pytest

from apexsim import registry
from apexsim.calibration.microbench.cases import Case, draw
from apexsim.calibration.microbench.machine import CannotRun, Machine, find_machine
from apexsim.errors import UsageError

TIMED = ("gemm", "attention", "memory", "elementwise")
"""Families that every machine has; collectives need several devices."""

CASES = 6
"""Cases of a family that are tried, the lightest of its sample."""


class MachineContract:
    """Inherit and collect with pytest."""

    machines: tuple[str, ...] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every test once for each machine."""
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.machines or registry.names("machines"))

    def found(self, name: str) -> Machine:
        """The machine as the command line finds it; skips where it is not here."""
        try:
            return find_machine(name)
        except UsageError as reason:
            pytest.skip(str(reason))

    def light(self, machine: Machine, family: str) -> list[Case]:
        """A few cases that take next to no time."""
        return sorted(draw([family], machine.limits, seed=1), key=lambda case: case.flops + case.moved)[:CASES]

    def test_says_what_it_is(self, name: str) -> None:
        machine = self.found(name)
        found = machine.environment
        assert found.backend == name
        assert found.device
        assert found.units >= 1
        assert found.memory_bytes > 0
        assert "torch" in found.versions
        assert found.identity == self.found(name).environment.identity
        assert 0 < machine.free_bytes() <= found.memory_bytes
        machine.close()

    @pytest.mark.parametrize("family", TIMED)
    def test_times_a_case_of_every_family(self, name: str, family: str) -> None:
        machine = self.found(name)
        for case in self.light(machine, family):
            kernel = machine.kernel(case)
            assert 0 < machine.sample(kernel, 1).seconds < 60
            assert machine.sample(kernel, 3).seconds > 0
        machine.close()

    def test_draws_no_case_beyond_its_limits(self, name: str) -> None:
        machine = self.found(name)
        limits = machine.limits
        assert all(c.flops <= limits.flops and c.moved <= limits.moved for c in draw(TIMED, limits, seed=0))
        machine.close()

    def test_says_what_it_cannot_run(self, name: str) -> None:
        machine = self.found(name)
        case = next(case for case in draw(["memory"], machine.limits, seed=0))
        absurd = Case("memory", "memory", (("op", case["op"]), ("bytes", 1 << 60)), 0.0, 2.0**60, 2.0**60)
        with pytest.raises(CannotRun):
            machine.kernel(absurd)
        machine.close()
