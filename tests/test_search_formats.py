"""Formats by layer: the optimum of brute force, sums against simulations, laws, and one line where none will do."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import apexsim as ax
from apexsim.errors import InputError, NoFeasiblePlan
from apexsim.search.formats import (
    Cost,
    FormatsLimits,
    FormatsProblem,
    FormatsQuestion,
    Item,
    read_formats,
    with_formats,
)
from apexsim.search.precision_ilp import Formats, best_formats, total
from apexsim.spec.plan import Plan
from tests.test_docs_keys import rows

PLAN = {"model": "Llama-3.1-8B", "cluster": "1xl40s", "pools": [{"tp": 1, "max_model_len": 4096}]}
WORDS = ("bf16", "fp8", "w4a16")


class Counted(FormatsQuestion):
    """A question whose costs are made up: nothing is simulated."""

    def simulated(self, chosen):
        return None


def made_up(objective, limits, losses, costs, most) -> Counted:
    problem = FormatsProblem(plan={}, sensitivity="", objective=objective, limits=FormatsLimits(**limits))
    items = tuple(Item(layer, "all", dict(zip(WORDS, row, strict=True))) for layer, row in enumerate(losses))
    added = {
        (layer, word): Cost(*cost) for layer, row in enumerate(costs) for word, cost in zip(WORDS, row, strict=True)
    }
    return Counted(problem, Plan.model_validate(PLAN), items, Cost(5.0, 100.0, 2e9), added, {}, most)


amounts = st.sampled_from((0.0, 0.1, 0.25, 0.7))
layers = st.lists(
    st.tuples(
        st.tuples(amounts, amounts, amounts),
        st.tuples(*(st.tuples(amounts, amounts.map(lambda x: 10 * x), amounts.map(lambda x: 1e9 * x)) for _ in WORDS)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(("time", "energy", "memory", "loss")), layers, st.sampled_from((2.0e9, 2.6e9, 9e9)),
    st.fixed_dictionaries({}, optional={"loss": st.sampled_from((0.0, 0.4, 1.0)), "time": st.sampled_from((5.1, 5.6))}),
)  # fmt: skip
def test_small_models_have_the_optimum_of_brute_force(objective, drawn, most, limits):
    question = made_up(objective, limits, [row for row, _ in drawn], [row for _, row in drawn], most)
    near = 1 + 1e-9
    found = []
    for words in itertools.product(WORDS, repeat=len(drawn)):
        loss, cost = total(question, {(layer, "all"): word for layer, word in enumerate(words)})
        kept = loss <= limits.get("loss", 99) * near and cost.time_s <= limits.get("time", 99) * near
        if kept and cost.weights_bytes <= most * near:
            values = {"time": cost.time_s, "energy": cost.energy_j, "memory": cost.weights_bytes, "loss": loss}
            found.append(values[objective])
    if not found:
        with pytest.raises(NoFeasiblePlan, match="it takes"):
            best_formats(question)
        return
    best = best_formats(question)
    assert best.value == pytest.approx(min(found), rel=1e-6, abs=1e-6)
    assert best.loss <= limits.get("loss", 99) + 1e-6
    assert best.predicted.time_s <= limits.get("time", 99) + 1e-6
    assert best.predicted.weights_bytes <= most * (1 + 1e-6)
    assert set(best.chosen) == {(layer, "all") for layer in range(len(drawn))}


def test_ties_go_to_less_loss_and_then_to_what_stands_first():
    same = (0.1, 1.0, 1e8)
    best = best_formats(made_up("time", {}, [(0.3, 0.1, 0.1)], [(same, same, same)], 9e9))
    assert best.chosen == {(0, "all"): "fp8"}


@pytest.mark.parametrize(
    ("limits", "most", "said"),
    [
        ({"loss": -0.5}, 9e9, "limits.loss 0.2 of loss instead of -0.5 (short by 0.7)"),
        ({"time": 4.0}, 9e9, "limits.time 5.1 s instead of 4 (short by 1.1)"),
        ({}, 1.5e9, "memory for weights beside the KV of the batch 2.1 GB a device instead of 1.5 (short by 0.6)"),
        ({"loss": -0.5, "time": 4.0}, 9e9, "it takes all of: limits.loss"),
    ],
)
def test_what_stands_in_the_way_is_said_with_how_much_is_missing(limits, most, said):
    question = made_up("time", limits, [(0.2, 0.3, 0.4)], [((0.2, 1.0, 3e8), (0.1, 1.0, 2e8), (0.3, 1.0, 1e8))], most)
    with pytest.raises(NoFeasiblePlan, match=re.escape(said)):
        best_formats(question)


# --- with a model ---------------------------------------------------------------------------------------------


def table(tmp_path: Path, text: str) -> dict:
    (tmp_path / "losses.csv").write_text(text)
    return {"plan": PLAN, "sensitivity": str(tmp_path / "losses.csv"), "batch": 4, "input_tokens": 200,
            "output_tokens": 20}  # fmt: skip


def losses(layers=range(32), words=(("bf16", 0.0), ("fp8", 0.01), ("w4a16", 0.1)), part="") -> str:
    head = "layer,format,loss" + (",part" if part else "")
    return "\n".join([head, *(f"{n},{w},{x * (1 + n)}{f',{part}' if part else ''}" for n in layers for w, x in words)])


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Formats:
    folder = tmp_path_factory.mktemp("formats")
    return best_formats(read_formats({**table(folder, losses()), "limits": {"loss": 12.0}}))


def test_uniform_formats_cost_what_a_uniform_plan_costs(best):
    for word, (_, predicted) in best.uniform.items():
        simulated = best.question.simulated({(n, "all"): word for n in range(32)})
        assert predicted == pytest.approx(simulated, rel=1e-9)


def test_a_mixed_choice_costs_about_its_sum(best):
    assert len(set(best.chosen.values())) > 1
    assert best.simulated == pytest.approx(best.predicted, rel=0.02)


def test_the_answer_keeps_the_budget_and_lies_between_uniform_formats(best):
    assert best.loss <= 12.0
    assert best.uniform["w4a16"][1].time_s <= best.predicted.time_s <= best.uniform["bf16"][1].time_s
    assert best.chosen[31, "all"] != "w4a16"  # its loss is the largest


def test_rules_name_runs_of_layers():
    chosen = {(n, "all"): "fp8" if n in (0, 1, 2, 7) else "w4a16/int8" for n in range(8)}
    rules = with_formats(Plan.model_validate(PLAN), chosen).pools[0].precision
    assert [(r.layers, r.weights, r.activations) for r in rules] == [("0-2,7", "fp8", None), ("3-6", "w4a16", "int8")]


def test_parts_of_layers_have_formats_of_their_own(tmp_path):
    text = losses(range(2), (("bf16", 0.0), ("w4a16", 0.1)), "attention") + "\n" + "\n".join(
        losses(range(2), (("bf16", 0.0), ("w4a16", 0.5)), "mlp").splitlines()[1:]
    )
    found = best_formats(read_formats({**table(tmp_path, text), "objective": "memory", "limits": {"loss": 0.7}}))
    assert found.chosen == {
        (0, "attention"): "w4a16", (0, "mlp"): "w4a16", (1, "attention"): "bf16", (1, "mlp"): "bf16",
    }  # the MLP of a layer saves more than attention, and that of layer 1 loses too much


def test_what_the_device_cannot_run_is_not_to_be_had(tmp_path):
    text = losses(range(32), (("bf16", 0.0), ("nvfp4", 0.01), ("w4a16", 0.02)))
    found = best_formats(read_formats(table(tmp_path, text)))
    assert set(found.chosen.values()) == {"w4a16"}
    assert "nvfp4" in found.question.closed


def test_the_plan_that_is_written_is_the_plan(tmp_path, best):
    report = ax.plan_precision({**table(tmp_path, losses()), "limits": {"loss": 12.0}})
    report.save(tmp_path / "plan.yaml")
    assert Plan.model_validate(yaml.safe_load((tmp_path / "plan.yaml").read_text())) == report.plan
    data = report.to_dict()
    assert data["value"] == pytest.approx(data["predicted"]["time_s"])
    assert len(report.to_pandas()) == len(data["formats"]) == 32
    assert "the optimum" in report.heading
    assert "Rules" in report._repr_html_()
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "change", "said"),
    [
        ("layer,format,loss\n40,fp8,0\n", {}, "row 1: layer = 40: the model has layers 0 to 31"),
        ("layer,format,loss\n0,fp9,0\n", {}, "did you mean 'fp8'"),
        ("layer,format,loss\n0,fp8,x\n", {}, "loss = x: must be a number"),
        ("layer,format,loss,part\n0,fp8,0,head\n", {}, "part = head: allowed: all, attention"),
        ("layer,format,loss\n0,fp8,0\n0,fp8,1\n", {}, "fp8 stands twice for layer 0"),
        ("layer,format,loss,part\n0,fp8,0,all\n0,fp8,0,mlp\n", {}, "rows for part all and for mlp"),
        ("layer,format\n0,fp8\n", {}, "expected layer, format, loss"),
        ("layer,format,loss\n", {}, "no rows"),
        ("layer,format,loss\n0,fp8,0\n", {"plan": {**PLAN, "pools": [{"pp": 2}]}}, "without pipeline stages"),
        ("layer,format,loss\n0,fp8,0\n", {"limits": {"los": 1}}, "did you mean 'loss'"),
    ],
)
def test_a_question_that_cannot_be_is_one_line(text, change, said, tmp_path):
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read_formats({**table(tmp_path, text), **change})
    assert "\n" not in str(caught.value)


def test_a_plan_that_does_not_fit_at_all_is_said(tmp_path):
    plan = {**PLAN, "model": "Llama-3.1-70B"}
    with pytest.raises(NoFeasiblePlan, match="the leanest format of every layer cannot be had: Llama-3"):
        read_formats({**table(tmp_path, losses()), "plan": plan})


@pytest.mark.parametrize("cls", [FormatsProblem, FormatsLimits], ids=lambda cls: cls.__name__)
def test_every_key_has_a_row_with_its_default(cls):
    explained = rows("ilp.md", "Formats of layers")
    for name, about in cls.model_fields.items():
        assert name in explained, name
        assert ("–" in explained[name]) >= about.is_required(), name
