"""What a technique is: one published way to serve faster, as a change to a plan.

A plan switches one on by its name, with options or without: ``techniques: [{name: {option: value}}]``. To add one: a
file beside this one, a line in ``registry.SEAMS["techniques"]`` (or an entry point ``apexsim.techniques``);
``apexsim.testing.technique`` then tests it without being told. This release ships none, and ``spec.legality``
refuses a plan that names one, so that nobody takes a technique that is not simulated for one that is useless.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from apexsim import registry
from apexsim.errors import UsageError
from apexsim.spec.base import Strict, parse
from apexsim.spec.plan import Plan


class Technique(Protocol):
    """A frozen ``spec.base.Strict`` value: its fields are the options that a plan may give, each with a default.

    Attributes:
        source: where it was published, and where its effect was measured.
    """

    source: ClassVar[str]

    def apply(self, plan: Plan) -> Plan:
        """The plan that runs when the technique is on. Model, cluster and number of devices stay what they were."""
        ...


def technique(name: str, options: Mapping[str, Any]) -> Technique:
    """The technique that a plan names, with its options.

    Raises:
        UsageError: nobody registered the name, or it has no such option or not that value.
    """
    kind: type[Strict] = registry.load("techniques", name)
    made: Any = parse(kind, dict(options), source=f"technique {name}", error=UsageError)
    chosen: Technique = made
    return chosen
