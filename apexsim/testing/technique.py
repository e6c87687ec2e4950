"""The contract of a technique, as tests. A plug-in inherits it:

    from apexsim.testing.technique import TechniqueContract

    class TestMine(TechniqueContract):
        techniques = ("mine",)          # names in the registry; all registered ones where left out

A technique must: say what it is and where it was published; be a frozen value that works without options and
refuses unknown ones in one line; and turn a plan into another that is a plan again, of the same model, cluster
and devices, the same each time, without touching the plan it was given.
"""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import ValidationError

from apexsim import registry
from apexsim.errors import UsageError
from apexsim.spec.plan import Plan
from apexsim.techniques.technique import technique


class TechniqueContract:
    """What the plan language, the listing and a comparison on equal terms rely on."""

    techniques: ClassVar[tuple[str, ...]] = ()
    plan: ClassVar[Plan] = Plan.model_validate(
        {"model": "Llama-3.1-8B", "cluster": "8xh100-sxm", "pools": [{"replicas": 2, "tp": 2}]}
    )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.techniques or registry.names("techniques"))

    def test_it_says_what_it_is_and_where_it_is_from(self, name: str) -> None:
        kind = registry.load("techniques", name)
        assert (kind.__doc__ or "").strip()
        assert kind.source.strip()

    def test_it_works_without_options_and_is_a_frozen_value(self, name: str) -> None:
        assert technique(name, {}) == technique(name, {})
        with pytest.raises((ValidationError, AttributeError)):
            technique(name, {}).source = "elsewhere"  # type: ignore[misc]  # the assignment is the test

    def test_an_unknown_option_is_an_error_of_one_line(self, name: str) -> None:
        with pytest.raises(UsageError) as caught:
            technique(name, {"no_such_option": 1})
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_it_gives_a_plan_of_the_same_model_and_devices(self, name: str) -> None:
        changed = technique(name, {}).apply(self.plan)
        assert (changed.model, changed.cluster) == (self.plan.model, self.plan.cluster)
        assert changed.devices == self.plan.devices
        assert Plan.model_validate_json(changed.model_dump_json()) == changed

    def test_it_does_the_same_each_time_and_leaves_its_plan_alone(self, name: str) -> None:
        before = self.plan.model_copy(deep=True)
        assert technique(name, {}).apply(self.plan) == technique(name, {}).apply(self.plan)
        assert self.plan == before
