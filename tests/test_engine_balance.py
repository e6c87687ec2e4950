"""Ranks that wait for each other with their prompts: against the oracle, by hand, and at the ends of its knobs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexsim.engine.schedulers import Policy, resolve
from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Plan, Pool, Scheduler
from tests.lockstep_worlds import lockstep_worlds
from tests.test_engine_differential import BUILT_IN, check_iterations, check_requests
from tests.test_engine_invariants import run
from tests.test_engine_lockstep import together
from tests.test_engine_tiny import serve
from tests.worlds import World, drawn


@st.composite
def balanced_worlds(draw: st.DrawFn, **options: object) -> World:
    """Worlds of ranks that hold prompts back, for a few iterations or for many."""
    world: World = draw(lockstep_worlds(**options))
    rule = {
        "balance": True, "mix": True, "timeout_iters": draw(st.sampled_from([0, 1, 2, 3, 7, 50])),
        "batching_wait_iters": draw(st.sampled_from([0, 0, 1, 4])), "reserve": draw(st.booleans()),
    }  # fmt: skip
    return replace(world, policy=replace(world.policy, **rule))


@given(balanced_worlds(routers=BUILT_IN))
@drawn
def test_ranks_that_hold_prompts_agree_with_the_oracle(world: World) -> None:
    check_requests(world)


@given(balanced_worlds(routers=BUILT_IN))
@drawn
def test_every_iteration_of_ranks_that_hold_prompts_agrees(world: World) -> None:
    check_iterations(world)


@given(lockstep_worlds(routers=BUILT_IN))
@drawn
def test_a_timeout_of_one_iteration_holds_nobody(world: World) -> None:
    """The first iteration without a prompt on some rank is then also the last."""
    policy = replace(world.policy, mix=True)
    rule = {"balance": True, "timeout_iters": 1, "batching_wait_iters": 0}
    plain, held = (run(replace(world, policy=p)) for p in (policy, replace(policy, **rule)))
    for name in ("start_s", "first_token_s", "finish_s", "itl_max_s", "preemptions"):
        np.testing.assert_allclose(getattr(held.requests, name), getattr(plain.requests, name), rtol=1e-9, atol=1e-9)


@given(balanced_worlds(routers=BUILT_IN))
@drawn
def test_a_prompt_has_company_or_a_reason(world: World) -> None:
    """All ranks compute one, or some rank decodes nothing, or ``timeout_iters`` iterations are over.

    Where blocks are plenty: else a rank's decodes may take those that its prompt was counted on.
    """
    world = replace(world, limits=replace(world.limits, kv_blocks=100_000))
    line = run(world, timeline=True).timeline
    assert line is not None
    ranks, timeout = world.tables.group.ranks, world.policy.timeout_iters
    for first in range(0, world.replicas * ranks, ranks):
        own = [line.replica == rank for rank in range(first, first + ranks)]
        prefills = np.stack([line.prefill_tokens[rank] for rank in own])
        decodes = np.stack([line.decoding[rank] for rank in own])
        steps, since = line.steps[own[0]], 0
        for k in range(len(steps)):
            since += int(steps[k])
            if prefills[:, k].any():
                assert prefills[:, k].all() or decodes[:, k].min() == 0 or since >= timeout
            if prefills[:, k].any():
                since = 0


def served(timeout: int, arrivals: list[float], outputs: list[int]) -> np.ndarray:
    """First tokens of two ranks, by ``test_engine_lockstep``'s law: 11 + 100 + 1000 s where each decodes one."""
    policy = Policy("hand", 64, 4, balance=True, timeout_iters=timeout, batching_wait_iters=0)
    result = serve(
        arrivals, [5] * len(arrivals), outputs, law=together(), router="round-robin", policy=policy
    )
    return result.requests.first_token_s


def test_a_prompt_waits_for_another_ranks_or_for_the_timeout() -> None:
    """Both ranks decode from 5115 s on, 1111 s an iteration. A third request comes to rank 0 in the first of them."""
    begin = 15.0 + 100.0 + 5000.0
    assert served(50, [0.0, 0.0], [20, 20]).tolist() == [begin, begin]
    alone = 16.0 + 100.0 + 3500.0  # 6 tokens on rank 0, 1 on rank 1
    both = 16.0 + 100.0 + 6000.0
    for timeout in (3, 6):
        first = served(timeout, [0.0, 0.0, begin + 1.0], [20, 20, 2])[2]
        assert first == begin + (timeout - 1) * 1111.0 + alone
    # a fourth comes to rank 1 in the third iteration
    found = served(50, [0.0, 0.0, begin + 1.0, begin + 2 * 1111.0 + 1.0], [20, 20, 2, 2])[2:]
    assert found.tolist() == [begin + 3 * 1111.0 + both] * 2


def test_plans_say_it_in_tensorrt_llms_words() -> None:
    rule = {"enable_balance": True, "timeout_iters": 60, "batching_wait_iters": 0}
    scheduler = parse(Scheduler, {"preset": "tensorrt-llm", "attention_dp_config": rule}, source="test")
    policy = resolve(scheduler)
    assert (policy.balance, policy.timeout_iters, policy.batching_wait_iters) == (True, 60, 0)
    assert scheduler.id == ["balance60:0"]
    assert resolve(Scheduler(preset="tensorrt-llm")).balance is False


def test_without_ranks_there_is_nobody_to_wait_for() -> None:
    scheduler = {"preset": "tensorrt-llm", "attention_dp_config": {"enable_balance": True}}
    pool = parse(Pool, {"ep": 1, "scheduler": scheduler}, source="test")
    assert "no ranks that could wait" in str(check_pool(catalog.model("DeepSeek-V3"), pool, "tensorrt-llm"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"preset": "vllm"}, "preset vllm has no such rule"), ({"policy": "fair"}, "no policy but fcfs")],
)
def test_who_has_no_such_rule_is_refused(more: dict[str, object], reason: str) -> None:
    scheduler = {"preset": "tensorrt-llm", "attention_dp_config": {"enable_balance": True}} | more
    with pytest.raises(InputError, match=reason):
        parse(Plan, {"model": "DeepSeek-V3", "cluster": "8xh200-sxm", "pools": [{"scheduler": scheduler}]}, source="t")
