"""The contract of a router, as tests. A plug-in inherits it:

    from apexsim.testing.router import RouterContract

    class TestMine(RouterContract):
        routers = ("mine",)          # names in the registry; all registered ones where left out

A router must: choose among the replicas there are; send everything to the only one; do the same again for the
same seed; and leave what it is shown alone. A router that hands over data (candidates and what decides among them) is
run by a compiled loop; its choices must be those that the data mean in plain Python. That no router can know how long
an answer gets holds by construction: what it is shown (``Offered``, ``RequestView``) has no such field.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from apexsim import registry
from apexsim.cost.tables import StepTables
from apexsim.engine import routers as seam
from apexsim.engine.pool import BY_LORA, BY_PLACE, BY_PREFIX, BY_PROMPT_TOKENS, BY_REQUESTS
from apexsim.engine.result import COMPLETED
from apexsim.engine.routers import Choice, Offered, PlugInRouter, ReplicaView, RequestView, Router
from apexsim.engine.schedulers import Policy
from apexsim.engine.simulate import ReplicaLimits, simulate_pool
from apexsim.workload.trace import Trace

Ints = NDArray[np.int64]

SEED = 7
SEQS, KNOTS = 4, 33


class RouterContract:
    """What the compiled loop and the SimPy fleet rely on."""

    routers: ClassVar[tuple[str, ...]] = ()
    replicas: ClassVar[tuple[int, ...]] = (1, 2, 3, 8)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.routers or registry.names("routers"))
        if "replicas" in metafunc.fixturenames:
            metafunc.parametrize("replicas", self.replicas)

    def test_it_is_one_of_the_two_kinds(self, name: str) -> None:
        assert isinstance(seam.router(name), Router) != isinstance(seam.router(name), PlugInRouter)

    def test_it_chooses_among_the_replicas_there_are(self, name: str, replicas: int) -> None:
        trace = requests()
        served = serve(trace, seam.router(name), replicas)
        assert served.shape == (len(trace),)
        assert ((served >= 0) & (served < replicas)).all()

    def test_the_same_seed_gives_the_same_choices(self, name: str, replicas: int) -> None:
        first, again = (serve(requests(), seam.router(name), replicas) for _ in range(2))
        assert (first == again).all()

    def test_its_data_are_candidates_in_range_and_a_known_load(self, name: str, replicas: int) -> None:
        choice = candidates(name, replicas)
        rows, columns = choice.candidates.shape
        assert rows in (1, len(requests()))
        assert 1 <= columns <= replicas
        assert choice.candidates.dtype == np.int64
        assert ((choice.candidates >= 0) & (choice.candidates < replicas)).all()
        assert choice.load in (BY_PLACE, BY_REQUESTS, BY_PROMPT_TOKENS, BY_PREFIX, BY_LORA)
        assert all(len(set(row)) == columns for row in choice.candidates.tolist())

    def test_the_compiled_loop_chooses_what_the_data_mean(self, name: str, replicas: int) -> None:
        choice = candidates(name, replicas)
        compiled = serve(requests(), seam.router(name), replicas)
        assert (compiled == serve(requests(), InPlainPython(choice), replicas)).all()

    def test_it_leaves_what_it_is_shown_alone(self, name: str, replicas: int) -> None:
        trace = requests()
        assert trace.session is not None
        trace.session.flags.writeable = False
        router = seam.router(name)
        serve(trace, Guarded(router) if isinstance(router, PlugInRouter) else router, replicas)


class InPlainPython:
    """A built-in router's data, applied at each arrival as its documentation reads: least load, first on a tie."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def start(self, offered: Offered, replicas: int, seed: int) -> None:
        """All is in the data."""

    def choose(self, request: RequestView, replicas: ReplicaView) -> int:
        rows, load = self._choice
        row: list[int] = rows[request.index if len(rows) > 1 else 0].tolist()
        if load == BY_PLACE:
            return row[0]
        unfinished = replicas.waiting + replicas.running
        if load in (BY_PREFIX, BY_LORA):
            calm = [replica for replica in row if unfinished[replica] <= 8 + 1.5 * min(unfinished[row])]
            # The contract's requests ask for no adapter: no replica has more of them than another.
            found = replicas.prefix_tokens if load == BY_PREFIX else np.zeros_like(unfinished)
            return min(calm, key=lambda replica: (-int(found[replica]), int(unfinished[replica])))
        burden = replicas.prompt_tokens if load == BY_PROMPT_TOKENS else unfinished
        return min(row, key=lambda replica: int(burden[replica]))


class Guarded:
    """A plug-in router whose views cannot be written."""

    def __init__(self, router: PlugInRouter) -> None:
        self._router = router

    def start(self, offered: Offered, replicas: int, seed: int) -> None:
        self._router.start(offered, replicas, seed)

    def choose(self, request: RequestView, replicas: ReplicaView) -> int:
        for view in (
            replicas.waiting, replicas.running, replicas.prompt_tokens, replicas.used_blocks, replicas.prefix_tokens,
        ):
            view.flags.writeable = False
        return self._router.choose(request, replicas)


def candidates(name: str, replicas: int) -> Choice:
    """The data of a built-in router for ``requests()``; a plug-in has none, and its test is skipped."""
    router = seam.router(name)
    if isinstance(router, PlugInRouter):
        pytest.skip(f"{name} is asked at each arrival: it hands over no data")
    trace = requests()
    assert trace.session is not None
    return router.candidates(Offered(len(trace), trace.session), replicas, SEED)


def serve(trace: Trace, router: Router | PlugInRouter, replicas: int) -> Ints:
    """The replica that served each request [n], in a small fleet that is busy enough for queues to form."""
    law, limits = step_tables(), ReplicaLimits(200, 1, 100)
    policy = Policy("contract", 16, SEQS, prefix_caching=True)
    result = simulate_pool(trace, law, limits, policy, replicas=replicas, router=router, seed=SEED)
    assert (result.requests.status == COMPLETED).all()
    return np.asarray(result.requests.replica, dtype=np.int64)


def requests() -> Trace:
    """80 requests, about as many as 3 replicas can serve in the time; a third of them go on with a session's prompt."""
    random = np.random.default_rng(SEED)
    session = np.where(random.random(80) < 1 / 3, random.integers(0, 9, 80), -1)
    arrival_s = np.cumsum(random.exponential(20.0, 80))
    trace = Trace("contract", arrival_s, random.integers(1, 40, 80), random.integers(1, 12, 80), session=session)
    shared, before = np.zeros(80, np.int64), dict[int, int]()
    for i in np.flatnonzero(session >= 0):
        shared[i] = min(before.get(int(session[i]), 0), int(trace.input_tokens[i]))
        before[int(session[i])] = int(trace.input_tokens[i])
    return trace.with_columns(shared_prefix_tokens=shared)


def step_tables() -> StepTables:
    """10 s an iteration and 1 s a token of it: a law that needs no device."""
    tokens, seqs = np.arange(float(KNOTS)), np.arange(SEQS + 1.0)
    nothing = np.zeros(SEQS + 1)
    return StepTables(
        token_dense=KNOTS - 1, token_stride=1, mixed_s=10.0 + tokens[None, :], decode_s=10.0 + seqs[None, :],
        context_knots=np.array([0.0, 64.0]), decode_attention_s=np.zeros((1, 2, SEQS + 1, 2)),
        prefill_s=np.zeros((1, 2, KNOTS)), prefill_past_s=np.zeros((1, 2, KNOTS)), head_s=nothing,
        host_floor_s=nothing, host_serial_s=nothing, transfer_s=np.zeros(KNOTS), window=0,
    )  # fmt: skip
