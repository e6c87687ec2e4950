"""Contract of a metric: subclass it, give ``summaries``, and parametrise ``metric`` over what you registered.

    @pytest.mark.parametrize("metric", MY_METRICS)
    class TestMine(MetricContract):
        summaries = (a_summary_of_a_run, a_summary_of_a_run_in_which_nothing_completed)
"""

from __future__ import annotations

import math
import re
from typing import ClassVar, get_args

from apexsim.metrics.distribution import Distribution
from apexsim.metrics.metric import Direction, Metric
from apexsim.metrics.summary import Summary


class MetricContract:
    """What tables, files and comparisons rely on."""

    summaries: ClassVar[tuple[Summary, ...]] = ()

    def test_the_tag_can_be_a_column(self, metric: Metric) -> None:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.tag)

    def test_it_says_what_it_is(self, metric: Metric) -> None:
        assert metric.title
        assert metric.unit
        assert metric.better in get_args(Direction)

    def test_a_value_is_a_finite_number_a_distribution_or_nothing(self, metric: Metric) -> None:
        for summary in self.summaries:
            value = metric.read(summary)
            assert value is None or isinstance(value, Distribution | float | int)
            assert all(v is None or math.isfinite(v) for v in metric.flat(summary).values())

    def test_columns_do_not_depend_on_the_run(self, metric: Metric) -> None:
        assert len({tuple(metric.flat(summary)) for summary in self.summaries}) == 1

    def test_reading_changes_nothing(self, metric: Metric) -> None:
        for summary in self.summaries:
            before = summary.to_dict()
            assert metric.flat(summary) == metric.flat(summary)
            assert summary.to_dict() == before
