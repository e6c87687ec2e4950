"""Every seam has a suite, and every registered entry keeps it.

The suites of trace formats, metrics, cost models and strategies run beside their areas' other tests
(test_workload_formats, test_metrics_compare, test_cost_contract, test_search_strategies).
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from apexsim import registry
from apexsim.errors import UsageError
from apexsim.testing import SUITES
from apexsim.testing.router import RouterContract
from apexsim.testing.technique import TechniqueContract

OPTIONAL = {"torch", "transformers"}
"""Libraries of the extra ``calibrate``."""


class TestRegisteredRouters(RouterContract):
    """All routers of the registry."""


class TestRegisteredTechniques(TechniqueContract):
    """All techniques of the registry; none in this release."""


def test_every_seam_has_a_suite():
    assert set(SUITES) == set(registry.SEAMS)


@pytest.mark.parametrize("seam", sorted(registry.SEAMS))
def test_the_registered_entries_of_every_seam_are_held_to_its_suite(seam):
    """Some test class inherits the suite as it stands: what it leaves out is taken from the registry."""
    module, _, suite = SUITES[seam].partition(":")
    assert any(name.startswith("test_") for name in dir(getattr(importlib.import_module(module), suite)))
    heirs = [
        node.name
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and suite in [ast.unparse(base) for base in node.bases]
    ]
    assert any(heir.startswith("Test") and "Outside" not in heir for heir in heirs)


@pytest.mark.parametrize(("seam", "name"), [(s, n) for s in registry.SEAMS for n in registry.names(s)])
def test_every_registered_name_loads(seam, name):
    try:
        assert registry.load(seam, name) is not None
    except ModuleNotFoundError as missing:
        if missing.name not in OPTIONAL:
            raise
        pytest.skip(f"{missing.name} is not installed")


@pytest.mark.parametrize("seam", sorted(registry.SEAMS))
def test_an_unknown_name_is_a_usage_error_of_one_line(seam):
    with pytest.raises(UsageError, match=r"^unknown [a-z ]+[^s] 'no-such-thing' \(known: .*\)$"):
        registry.load(seam, "no-such-thing")
