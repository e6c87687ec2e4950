"""Limits in plain terms: a flag stands in the place of the space's own key, and one that cannot be is one line."""

from __future__ import annotations

import re

import pytest

from apexsim.errors import UsageError
from apexsim.report.search_tables import defaults_line
from apexsim.search.executors import Serial
from apexsim.search.limits import Limits
from apexsim.search.miss import nearest_miss
from apexsim.search.problem import Problem, make_problem
from apexsim.search.run import search
from apexsim.search.space import Space
from apexsim.spec import catalog
from apexsim.workload.synthetic import poisson

SPACE = {"tp": [1, 2], "pp": [1], "weights": ["fp8"], "max_num_batched_tokens": [8192], "max_num_seqs": [128]}


def question(space: object = None, price: float | None = 2.0, **limits: object) -> Problem:
    return make_problem(
        "Llama-3.1-8B", catalog.cluster("8xh100-sxm"), poisson(2.0, 50, 100, 10, seed=0), catalog.slo("ttft=1s"),
        space=SPACE if space is None else space, price_usd_per_hour=price, limits=Limits(**limits),
    )  # fmt: skip


def sizes(problem: Problem) -> set[int]:
    return {plan.devices for plan in problem.plans()}


def test_the_flag_wins_over_the_space():
    assert sizes(question()) == set(range(1, 9))
    assert sizes(question(max_devices=3)) == {1, 2, 3}
    within = SPACE | {"max_devices": 2, "min_devices": 2}
    assert sizes(question(within)) == {2}
    assert sizes(question(within, min_devices=1)) == {1, 2}
    assert sizes(question(within, max_devices=4)) == {2, 3, 4}
    assert sizes(question(SPACE | {"max_usd_per_hour": 2.0}, max_usd_per_hour=6.5)) == {1, 2, 3}


def test_a_file_and_a_space_of_values_give_way_too(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("tp: [1]\npp: [1]\nmax_devices: 1\n")
    assert sizes(question(file, max_devices=2)) == {1, 2}
    whole = question(file).space
    assert isinstance(whole, Space)
    assert sizes(question(whole, max_devices=3)) == {1, 2, 3}


def test_what_gives_way_is_said():
    within = SPACE | {"max_devices": 2}
    assert "max_devices = 4, --max-devices 4, not max_devices = 2 of the space" in defaults_line(
        question(within, max_devices=4)
    )
    assert "--max-devices" not in defaults_line(question(max_devices=4))
    assert "--max-devices" not in defaults_line(question(within, max_devices=2))
    assert "--engine sglang, not engine = vllm of the space" in defaults_line(question(engine="sglang"))


def test_an_engine_brings_its_preset_and_its_newest_version():
    own = question(SPACE | {"engine": "vllm", "engine_version": "0.11.0"}, engine="sglang").space
    assert (own.engine, own.engine_version, own.preset) == ("sglang", None, ("sglang",))
    same = question(SPACE | {"engine": "vllm", "engine_version": "0.11.0"}, engine="vllm").space
    assert (same.engine, same.engine_version, same.preset) == ("vllm", "0.11.0", ("vllm",))
    other = question(SPACE | {"preset": ["sarathi"]}, engine="sglang").space
    assert other.preset == ("sarathi",)
    assert {plan.engine for plan in question(engine="sglang").plans()} == {"sglang"}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_devices": 0}, "--max-devices 0: must be a whole number from 1"),
        ({"max_devices": 2.5}, "--max-devices 2.5: must be a whole number from 1"),
        ({"min_devices": True}, "--min-devices True: must be a whole number from 1"),
        ({"min_devices": 9}, "--min-devices 9: 8xh100-sxm has 8 devices"),
        ({"min_devices": 4, "max_devices": 2}, "--max-devices 2 is less than --min-devices 4"),
        ({"max_usd_per_hour": 0.0}, "--max-usd-per-hour 0: must be a number of dollars above 0"),
        ({"max_usd_per_hour": float("nan")}, "--max-usd-per-hour nan: must be a number of dollars above 0"),
        ({"engine": "sglng"}, "--engine: unknown engine 'sglng'; did you mean 'sglang'?"),
    ],
)
def test_a_limit_that_cannot_be_is_one_line(limits, words):
    with pytest.raises(UsageError, match=re.escape(words)) as error:
        question(**limits)
    assert "\n" not in str(error.value)


def test_a_limit_that_the_space_contradicts_says_whose_each_is():
    with pytest.raises(UsageError, match="--max-devices 2 is less than min_devices = 4 of the space"):
        question(SPACE | {"min_devices": 4}, max_devices=2)


def test_a_limit_of_dollars_needs_a_price():
    nobody = catalog.device("h100-sxm").model_copy(update={"price_usd_per_hour": None})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "device", lambda name: nobody)
        with pytest.raises(UsageError, match="--max-usd-per-hour 5: h100-sxm has no price; give --price"):
            question(price=None, max_usd_per_hour=5.0)
        assert sizes(question(max_usd_per_hour=5.0)) == {1, 2}


def test_limits_that_leave_no_plan_are_named():
    result = search(question(max_usd_per_hour=1.0), Serial())
    assert "holds no plan for 8 devices within max_usd_per_hour = 1" in nearest_miss(result)
