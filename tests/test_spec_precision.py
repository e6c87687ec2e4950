"""Precision rules of a plan: what a file may say, and what no model or kernel has."""

from __future__ import annotations

from typing import Any

import pytest

from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.base import parse
from apexsim.spec.legality import check_pool
from apexsim.spec.plan import Plan, Pool
from apexsim.spec.precision import part_words

DENSE, MOE = "Llama-3.1-8B", "DeepSeek-V3"


def plan(*rules: dict[str, Any], **pool: Any) -> Plan:
    data = {"model": DENSE, "cluster": "8xh100-sxm", "pools": [{**pool, "precision": list(rules)}]}
    return parse(Plan, data, source="p.yaml")


def test_layers_are_single_ones_and_ranges() -> None:
    (rule,) = plan({"layers": "0-3, 30", "weights": "bf16"}).pools[0].precision
    assert [layer for layer in range(32) if rule.covers(layer)] == [0, 1, 2, 3, 30]
    assert plan({"weights": "fp8"}).pools[0].precision[0].covers(10**6)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({}, "a rule needs weights or kv_cache"),
        ({"layers": "0-3"}, "a rule needs weights or kv_cache"),
        ({"activations": "int8", "kv_cache": "int8"}, "activations = int8 needs weights beside it"),
        ({"layers": "3-0", "weights": "fp8"}, "'3-0': the first layer comes first"),
        ({"layers": "0..3", "weights": "fp8"}, "'0..3' is no layer and no range of layers (as in 0-3,60)"),
        ({"layers": "", "weights": "fp8"}, "is no layer"),
        ({"layers": 3, "weights": "fp8"}, "layers = 3"),
        ({"part": "mpl", "weights": "fp8"}, "did you mean 'mlp'?"),
        ({"part": "mlp", "kv_cache": "fp8"}, "kv_cache belongs to part attention (or all), not mlp"),
        ({"part": "lm_head", "layers": "0", "weights": "fp8"}, "the LM head belongs to no layer; leave layers out"),
        ({"weights": "fp9"}, "did you mean 'fp8'?"),
        ({"weight": "fp8"}, "weight: unknown key; did you mean 'weights'?"),
    ],
)
def test_a_bad_rule_is_one_line(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as error:
        plan(rule)
    message = str(error.value)
    assert message.startswith("p.yaml: pools[0].precision")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("model", "pool", "reason"),
    [
        (DENSE, {"precision": [{"layers": "30-32", "weights": "fp8"}]},
         "precision all@30-32=fp8: Llama-3.1-8B has layers 0 to 31"),
        (DENSE, {"precision": [{"part": "experts", "weights": "fp8"}]},
         "precision experts@all=fp8: these layers of Llama-3.1-8B have no experts"),
        (MOE, {"tp": 8, "precision": [{"layers": "0-2", "part": "shared_experts", "weights": "bf16"}]},
         "precision shared_experts@0-2=bf16: these layers of DeepSeek-V3 have no shared experts"),
        (MOE, {"tp": 8, "precision": [{"layers": "3-60", "part": "mlp", "weights": "bf16"}]},
         "precision mlp@3-60=bf16: these layers of DeepSeek-V3 have no mlp"),
        (MOE, {"tp": 8, "precision": [{"part": "attention", "kv_cache": "int8"}]},
         "precision attention@all=kvint8: kv_cache=int8: no MLA kernel reads"),
        (DENSE, {"precision": [{"weights": "bf16", "activations": "fp8"}]},
         "precision all@all=bf16/fp8: activations=fp8: no kernel multiplies bf16 weights by them (known: bf16)"),
        (DENSE, {"weights": "w4a8", "activations": "fp4"},
         "activations=fp4: no kernel multiplies w4a8 weights by them (known: int8, fp8)"),
        ("Qwen2.5-72B", {"tp": 8, "precision": [{"part": "mlp", "layers": "5", "weights": "w4a16"}]},
         "tp=8 splits the feed-forward width 29568 into shares that cut the 128-wide blocks of w4a16 weights"),
    ],
)  # fmt: skip
def test_rules_that_name_nothing_are_refused(model: str, pool: dict[str, Any], reason: str) -> None:
    found = check_pool(catalog.model(model), Pool.model_validate(pool))
    assert found is not None
    assert found.startswith(reason)
    assert "\n" not in found


def test_a_rule_lifts_a_block_that_a_width_would_cut() -> None:
    kept = {"part": "mlp", "weights": "bf16"}
    wide = Pool.model_validate({"tp": 8, "weights": "w4a16", "precision": [kept]})
    assert check_pool(catalog.model("Qwen2.5-72B"), wide) is None


def test_layers_stand_where_the_checkpoint_has_them() -> None:
    """DeepSeek-V3's first three layers are dense; Gemma-3 has a full layer after five with a window."""
    deepseek, gemma = catalog.model(MOE), catalog.model("Gemma-3-27B")
    assert deepseek.order == (0,) * 3 + (1,) * 58
    assert [gemma.groups[g].attention.window > 0 for g in gemma.order[:7]] == [True] * 5 + [False, True]
    assert catalog.model(DENSE).order == (0,) * 32


def test_the_last_rule_holds_and_a_checkpoint_keeps_what_it_left_alone() -> None:
    rules: list[dict[str, Any]] = [
        {"weights": "fp8"}, {"layers": "4-7", "weights": "bf16"}, {"layers": "7", "part": "mlp", "weights": "int8"},
    ]  # fmt: skip
    pool = Pool.model_validate({"weights": "w4a16", "precision": rules})
    model = catalog.model(DENSE)
    assert part_words(model, pool, "mlp", 0) == ("fp8", "bf16", "int8")
    assert part_words(model, pool, "attention", 0) == ("fp8", "bf16")


def test_rules_tell_plans_apart() -> None:
    ids = {
        plan(*rules).id
        for rules in (
            (), ({"weights": "fp8"},), ({"weights": "fp8", "layers": "0"},), ({"weights": "fp8", "part": "mlp"},),
            ({"weights": "fp8", "activations": "bf16"},), ({"kv_cache": "fp8"},),
            ({"weights": "fp8", "kv_cache": "fp8"},),
        )
    }  # fmt: skip
    assert len(ids) == 7
