"""An outside package can add to every seam: its entries keep the same contracts and go all the way through."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest

from apexsim import registry
from apexsim.cost.step import compile_pool
from apexsim.errors import UsageError
from apexsim.metrics.metric import metrics
from apexsim.report.listing import listing_of
from apexsim.scenario import Prepared, prepare, run
from apexsim.search.strategies import strategy
from apexsim.spec import catalog
from apexsim.spec.legality import check_plan
from apexsim.spec.plan import Plan
from apexsim.techniques.technique import technique
from apexsim.testing.cost_model import CostModelContract
from apexsim.testing.importer import ImporterContract
from apexsim.testing.metric import MetricContract
from apexsim.testing.router import RouterContract
from apexsim.testing.strategy import StrategyContract
from apexsim.testing.technique import TechniqueContract
from apexsim.testing.trace_format import TraceFormatContract
from apexsim.workload.read import read_trace
from tests.plug_ins import (
    ENTRIES,
    METRICS,
    Abacus,
    Chat,
    FewestBlocks,
    OneBlock,
    Stopwatch,
    Thorough,
    TwiceAsSlow,
    installed,
)
from tests.scenario_worlds import plan, trace


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """The toys are installed for the length of one test."""
    monkeypatch.setattr(registry, "entry_points", lambda group: installed(group))
    registry._targets.cache_clear()
    yield
    registry._targets.cache_clear()


class TestOutsideRouter(RouterContract):
    routers = ("fewest-blocks",)


class TestOutsideFormat(TraceFormatContract):
    formats = ("chat",)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.tag)
class TestOutsideMetric(MetricContract):
    @pytest.fixture(autouse=True)
    def of_a_run(self):
        type(self).summaries = (run(prepared(plan()), trace(5)).summary,)


class TestOutsideTechnique(TechniqueContract):
    techniques = ("one-block",)


class TestOutsideCostModel(CostModelContract):
    costs = ("twice-as-slow",)
    devices = ("h100-sxm",)


class TestOutsideImporter(ImporterContract):
    importers = ("stopwatch",)


class TestOutsideStrategy(StrategyContract):
    strategies = ("thorough",)


def prepared(declared: Plan) -> Prepared:
    ready = prepare(declared)
    assert isinstance(ready, Prepared)
    return ready


TOYS = (FewestBlocks, Chat, METRICS, OneBlock, TwiceAsSlow, Thorough, Stopwatch, Abacus)


def test_an_outside_machine_is_found_or_says_why_not():
    with pytest.raises(UsageError, match="no beads"):
        registry.load("machines", "abacus")()


@pytest.mark.parametrize("seam", sorted(registry.SEAMS))
def test_every_seam_lists_and_loads_an_outside_entry(seam):
    name, _ = ENTRIES[seam]
    assert set(registry.names(seam)) == {*registry.SEAMS[seam], name}
    assert registry.load(seam, name) in TOYS


def test_a_plan_may_name_an_outside_router():
    routed = plan(replicas=3).model_copy(update={"router": "fewest-blocks"})
    result = run(prepared(routed), trace(60, rate=50.0)).result
    assert set(np.unique(result.requests.replica)) == {0, 1, 2}


def test_an_outside_format_is_recognised_by_its_header(tmp_path):
    (tmp_path / "log.csv").write_text(Chat().example()["chat.csv"])
    read = read_trace(tmp_path / "log.csv")
    assert read.input_tokens.tolist() == [210, 900]
    assert read.dropped == {"no answer": 1}


def test_an_outside_metric_is_among_the_metrics():
    assert METRICS[0] in metrics()


def test_an_outside_cost_model_prices_a_pool():
    declared = plan()
    model, device = catalog.model(declared.model), catalog.device("h100-sxm")
    analytic, slower = (
        compile_pool(
            model, device, declared.cluster, declared.pools[0], engine="vllm", engine_version=None,
            max_num_batched_tokens=512, max_num_seqs=8, max_chunk_tokens=None, costs=costs,
        )
        for costs in ("analytic", "twice-as-slow")
    )
    assert (slower.tables.decode_s[:, 1:] > 1.5 * analytic.tables.decode_s[:, 1:]).all()


def test_an_outside_technique_is_listed_and_refused_until_it_is_simulated():
    assert {"name": "one-block", "about": OneBlock.__doc__} in listing_of("techniques")
    assert technique("one-block", {"tokens": 64}).apply(plan()).pools[0].block_size == 64
    named = plan().model_copy(update={"techniques": ("one-block",)})
    assert "this release simulates none" in (check_plan(catalog.model(named.model), named) or "")


def test_an_outside_strategy_is_found_by_its_name():
    assert strategy("thorough") is Thorough


def test_a_name_that_is_taken_twice_is_an_error(monkeypatch):
    twice = EntryPoint("random", "elsewhere:Random", "apexsim.routers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [twice])
    with pytest.raises(UsageError, match="routers: 'random' is registered twice"):
        registry.names("routers")
