"""Images, and units that encode them: the compiled loop against the naive one, textbook cases, invariants 87 to 89."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given

from apexsim.engine.disaggregated import Handover, Links, PoolSetup, simulate_pools
from apexsim.engine.encoders import ImageSetup
from apexsim.engine.result import COMPLETED, IN_FLIGHT, REJECTED, SimulationResult
from apexsim.engine.routers import Offered, router
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.errors import UsageError
from apexsim.workload.trace import Trace
from apexsim.workload.visual import with_visual_tokens
from tests.encoding_worlds import Encoder, ImageWorld, image_worlds
from tests.oracle_encoding import EncodingPools
from tests.oracle_pools import PoolsRun
from tests.test_engine_differential import EXACT, LOADS
from tests.test_engine_pools import entry_and_exit, instants_of, same_gaps_and_work
from tests.worlds import drawn, make_tables


def run(world: ImageWorld) -> SimulationResult:
    pools = world.pools
    return simulate_pools(
        pools.trace, pools.pools, pools.links, pools.handover, routers=pools.routers, seed=7,
        concurrency=pools.concurrency, timeline=True, images=world.images,
    )  # fmt: skip


def run_naively(world: ImageWorld) -> tuple[EncodingPools, PoolsRun]:
    pools, trace = world.pools, world.pools.trace
    encoders = router(world.images.router).candidates(Offered(len(trace), trace.session), max(world.images.units, 1), 7)
    naive = EncodingPools(
        trace, list(pools.pools), pools.links, pools.handover, *entry_and_exit(pools), 7, images=world.images,
        candidates=encoders.candidates, load=LOADS[encoders.load],
    )  # fmt: skip
    return naive, naive.run(*instants_of(pools))


@given(image_worlds())
@drawn
def test_images_agree_with_the_oracle(world: ImageWorld) -> None:
    result, (naive, expected) = run(world), run_naively(world)
    assume(not expected.tied)
    columns, pools, encoded = result.requests, world.pools, result.encoded
    origin_s = 0.0 if pools.concurrency else pools.trace.arrival_s[0]
    exit_s = max(pool.limits.exit_s for pool in pools.pools)
    units = [(p, r) for p, pool in enumerate(pools.pools) for r in range(pool.units)]
    for i, way in enumerate(expected.ways):
        source = None if way.source is None else expected.requests[units[way.source][0]][i]
        sink = None if way.sink is None else expected.requests[units[way.sink][0]][i]
        assert columns.replica[i] == (-1 if way.source is None else way.source)
        rejected = any(q is not None and q.rejected for q in (source, sink))
        assert columns.status[i] == (REJECTED if rejected else COMPLETED)
        if encoded is not None:
            for found, at in (
                (encoded.prepared_s, naive.prepared), (encoded.encoded_s, naive.encoded), (encoded.landed_s, naive.came)
            ):  # fmt: skip
                np.testing.assert_allclose(found[i] - origin_s, at.get(i, np.nan), **EXACT)
        if rejected:
            continue
        assert source is not None
        last = source if sink is None else sink
        clock_s = origin_s + exit_s
        np.testing.assert_allclose(columns.start_s[i] - origin_s, source.start, **EXACT)
        np.testing.assert_allclose(columns.first_token_s[i] - clock_s, last.tokens[0], **EXACT)
        np.testing.assert_allclose(columns.finish_s[i] - clock_s, last.tokens[-1], **EXACT)
    same_gaps_and_work(result, pools, expected)
    if encoded is not None:
        assert encoded.batches == sum(unit.batches for unit in naive.encoders)
    for p, counters in enumerate(result.pools):
        assert counters.slices == sum(picture.seen for picture in expected.pools[p].pictures.values())


# --- invariants -----------------------------------------------------------------------------------------------------


@given(image_worlds())
@drawn
def test_nobody_is_prefilled_before_its_images_are_there(world: ImageWorld) -> None:
    """Invariants 87 and 88: arrival ≤ prepared ≤ encoded ≤ landed ≤ start, and every slice is encoded once."""
    result = run(world)
    columns, encoded, trace = result.requests, result.encoded, world.pools.trace
    assert (columns.status != IN_FLIGHT).all()
    if encoded is None:
        assert not trace.images.any()
        return
    asked = trace.images > 0
    slack = 1e-9
    assert np.isnan(encoded.prepared_s[~asked]).all()
    assert (encoded.prepared_s[asked] + slack >= (columns.arrival_s + world.images.host_s)[asked]).all()
    done = asked & (columns.status == COMPLETED)
    before = encoded.landed_s if world.images.units else encoded.prepared_s
    assert (columns.start_s[done] + slack >= before[done]).all()
    if world.images.units:
        assert (encoded.landed_s[asked] + slack >= encoded.encoded_s[asked]).all()
        assert (encoded.encoded_s[asked] > encoded.prepared_s[asked]).all()
        assert encoded.slices == trace.images.sum()
        assert sum(pool.slices for pool in result.pools) == 0
        shortest_s = world.images.encoder.slice_s(trace.visual_tokens) * world.images.encoder.batch.min()
        assert (encoded.encoded_s - encoded.prepared_s)[asked].min() + slack >= shortest_s[asked].min()
    else:
        taken = np.isin(columns.status, COMPLETED)
        assert trace.images[taken].sum() <= sum(pool.slices for pool in result.pools) <= trace.images.sum()


@given(image_worlds())
@drawn
def test_a_trace_without_images_changes_no_byte(world: ImageWorld) -> None:
    """Invariant 89: units that encode, and replicas that could, do nothing."""
    pools = world.pools
    bare = replace(pools, trace=pools.trace.with_columns(images=np.zeros_like(pools.trace.images)))
    plain = tuple(replace(pool, limits=replace(pool.limits, encoder=None)) for pool in pools.pools)
    none = simulate_pools(
        bare.trace.with_columns(images=None, visual_tokens=None), plain, pools.links, pools.handover,
        routers=pools.routers, seed=7, concurrency=pools.concurrency, timeline=True,
    )  # fmt: skip
    assert none.same_bytes(run(replace(world, pools=bare)))


# --- textbook -------------------------------------------------------------------------------------------------------

SLICE_S = 0.25


def one_pool(seqs: int = 4, budget: int = 64) -> PoolSetup:
    tables = make_tables(np.random.default_rng(1), stages=1, seqs=seqs, max_tokens=200, window=0, host=False)
    return PoolSetup(tables, ReplicaLimits(400, 4, 1000), Policy("drawn", budget, seqs), 1)


def trace_of(images: list[int], at_s: list[float], tokens: int = 2) -> Trace:
    n = len(images)
    bare = Trace("hand", np.array(at_s), np.full(n, 5), np.full(n, 3), images=np.array(images))
    return with_visual_tokens(bare, tokens, "hand")


def encoded_by(
    units: int, trace: Trace, *, irp: bool, most: int = 1, batch: list[float] | None = None
) -> SimulationResult:
    n = len(trace)
    images = ImageSetup(
        np.zeros(n), units, Encoder(SLICE_S / 3, np.array(batch or [1.0, 1.0])), np.full(n, 8.0), irp, most
    )
    ways = np.zeros((units + 1, units + 1, 1), np.int64)
    return simulate_pools(
        trace, [one_pool()], Links(np.array([80.0]), ((0,),), np.zeros(1), ways), Handover(np.zeros(n)), images=images
    )


@pytest.mark.parametrize("units", [1, 3, 4])
@pytest.mark.parametrize("slices", [1, 8, 12])
def test_slices_of_one_request_on_many_units(units: int, slices: int) -> None:
    """ceil(F / n) · t_e on an idle fleet; then 8 bytes of each slice over a link of 80 B/s that all share."""
    encoded = encoded_by(units, trace_of([slices], [0.0]), irp=True).encoded
    assert encoded is not None
    assert encoded.encoded_s[0] - encoded.prepared_s[0] == pytest.approx(-(-slices // units) * SLICE_S)
    assert encoded.landed_s[0] - encoded.encoded_s[0] == pytest.approx(slices * 8 / 80)


def test_one_unit_encodes_all_slices_of_a_request_without_irp() -> None:
    encoded = encoded_by(3, trace_of([6, 6], [0.0, 0.0]), irp=False).encoded
    assert encoded is not None
    np.testing.assert_allclose(encoded.encoded_s - encoded.prepared_s, 6 * SLICE_S)


def test_a_batch_takes_slices_of_whoever_waits() -> None:
    """Five slices of two requests in batches of up to four, each at 0.6 of its slices alone: four, then one."""
    encoded = encoded_by(1, trace_of([2, 3], [0.0, 0.0]), irp=False, most=4, batch=[1.0, 1.0, 0.6, 0.6, 0.6]).encoded
    assert encoded is not None
    np.testing.assert_allclose(encoded.encoded_s, [4 * 0.6 * SLICE_S, 4 * 0.6 * SLICE_S + SLICE_S])
    assert encoded.batches == 2


def test_a_replica_encodes_in_the_iteration_that_needs_it() -> None:
    """Six slices of 2 tokens before 5 of text, chunks of 8: four slices in the first, the rest in the second; and a
    request that decodes waits for them."""
    pool = one_pool(budget=8)
    sees = replace(pool, limits=replace(pool.limits, encoder=Encoder(SLICE_S / 3, np.ones(2))))
    trace, ways = trace_of([6], [0.0]), Links(np.ones(1), (), np.zeros(0), np.zeros((1, 1, 1), np.int64))
    made = simulate_pools(
        trace, [sees], ways, Handover(np.zeros(1)), images=ImageSetup(np.array([0.5])), timeline=True
    )
    plain = simulate_pools(trace, [pool], ways, Handover(np.zeros(1)), timeline=True)
    assert made.timeline is not None
    assert plain.timeline is not None
    longer = (made.timeline.end_s - made.timeline.begin_s) - (plain.timeline.end_s - plain.timeline.begin_s)
    np.testing.assert_allclose(longer[:3], [4 * SLICE_S, 2 * SLICE_S, 0.0], atol=1e-12)
    assert made.requests.start_s[0] == pytest.approx(0.5)
    assert made.pools[0].encode_s == pytest.approx(6 * SLICE_S)


def test_text_overtakes_images_that_are_being_fetched() -> None:
    trace = trace_of([1, 0], [0.0, 0.1])
    pool = one_pool()
    sees = replace(pool, limits=replace(pool.limits, encoder=Encoder(SLICE_S / 3, np.ones(2))))
    ways = Links(np.ones(1), (), np.zeros(0), np.zeros((1, 1, 1), np.int64))
    made = simulate_pools(trace, [sees], ways, Handover(np.zeros(2)), images=ImageSetup(np.array([3.0, 0.0])))
    assert made.requests.finish_s[1] < made.requests.start_s[0] == pytest.approx(3.0)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_encoder_has_no_prefixes() -> None:
    trace = trace_of([1], [0.0])
    images = ImageSetup(np.zeros(1), 1, Encoder(0.1, np.ones(2)), np.ones(1), router="prefix-aware")
    with pytest.raises(UsageError, match="an encoder has no prefixes"):
        simulate_pools(
            trace, [one_pool()], Links(np.ones(1), ((0,),), np.zeros(1), np.zeros((2, 2, 1), np.int64)),
            Handover(np.zeros(1)), images=images,
        )  # fmt: skip


def test_visual_tokens_are_added_before_the_engine() -> None:
    bare = Trace("hand", np.zeros(1), np.full(1, 5), np.full(1, 3), images=np.array([1]))
    pool = one_pool()
    with pytest.raises(ValueError, match="with_visual_tokens"):
        simulate_pool(bare, pool.tables, pool.limits, pool.policy)
