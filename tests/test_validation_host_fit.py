"""Host terms are found again where they are known; sets count alike; files keep what was not fitted."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import yaml

from apexsim.cost.host import HostModel, host_model
from apexsim.spec import catalog
from apexsim.spec.engine import EngineProfile
from apexsim.validation import host_fit
from apexsim.validation.errors import ErrorStatistics
from apexsim.validation.host_files import ERRORS, write_errors, write_terms
from apexsim.validation.host_fit import Fitted, fit_group, groups, loss, runs_of, thinned, with_terms
from apexsim.validation.simulate import Compared, Outcome

TRUTH = {"iteration": 2.1e-3, "sequence": 40e-6, "eager_kernel": 12e-6}
GROUP = "vllm-0.6"


@dataclass(frozen=True)
class Run:
    """A case as the fit sees one: a set, an engine's version, and a batch that its times depend on."""

    set: str
    batch: int
    engine: str = "vllm"
    version: str = "0.6.0"
    guessed: tuple[str, ...] = ()

    @property
    def plan(self) -> SimpleNamespace:
        return SimpleNamespace(engine=self.engine, engine_version=self.version)


def seconds(host: HostModel, batch: int) -> tuple[float, float]:
    """(TPOT, TTFT) of a device that needs 20 ms a token and 900 kernels a prompt."""
    return 20e-3 + host.iteration_s + batch * host.sequence_s, 30e-3 + host.iteration_s + 900 * host.eager_kernel_s


def simulated(run: Run, host: HostModel) -> Outcome:
    """Against a machine whose terms are TRUTH."""
    found, known = seconds(host, run.batch), seconds(with_terms(host, TRUTH, tuple(TRUTH)), run.batch)
    return Outcome(run.set, f"{run.set} {run.batch}", None, metrics={
        name: Compared(measured, value)
        for name, measured, value in zip(("tpot_mean_s", "ttft_mean_s"), known, found, strict=True)
    })  # fmt: skip


def test_known_terms_are_found_again(monkeypatch):
    monkeypatch.setattr(host_fit, "simulate_case", simulated)
    monkeypatch.setattr(host_fit, "EVALUATIONS", 400)
    fit = fit_group(GROUP, [Run("apex-h100-llama70b", batch) for batch in (1, 2, 4, 8, 16, 64, 128)], workers=1)
    assert {term: pytest.approx(value, rel=0.05) for term, value in TRUTH.items()} == dict(fit.terms)
    assert fit.errors["apex-h100-llama70b"]["tpot_mean_s"].worst_abs_error < 0.01
    assert fit.left_out == {}  # the group has no second set


def test_a_set_left_out_takes_no_part(monkeypatch):
    """Of two sets that disagree, each is explained worse by the other's terms than by the common ones."""
    def torn(run: Run, host: HostModel) -> Outcome:
        shift = {"closed-loop-grid": 0.0, "mlenergy-h100-dense": 6e-3}[run.set]
        return Outcome(run.set, str(run.batch), None, metrics={
            "tpot_mean_s": Compared(20e-3 + shift, 19e-3 + host.iteration_s)
        })  # fmt: skip

    monkeypatch.setattr(host_fit, "simulate_case", torn)
    runs = [Run(name, n, version="0.11.0") for name in ("closed-loop-grid", "mlenergy-h100-dense") for n in range(5)]
    fit = fit_group("vllm-0.11", runs, workers=1)
    for name in fit.errors:
        without, fitted = (side[name]["tpot_mean_s"].median_abs_error for side in (fit.left_out, fit.errors))
        assert without > fitted + 0.01


def test_runs_are_those_of_the_groups_sets_and_versions():
    mine, other_set, newer, other_engine, guess = (
        Run("apex-h100-llama70b", 1), Run("closed-loop-grid", 1), Run("apex-h100-llama70b", 1, version="0.15.1"),
        Run("apex-h100-llama70b", 1, engine="sglang"), Run("apex-h100-llama70b", 1, guessed=("speculative = none",)),
    )  # fmt: skip
    assert runs_of(groups()[GROUP], [mine, other_set, newer, other_engine, guess]) == [mine]


def test_a_set_is_thinned_evenly_from_end_to_end():
    assert thinned(list(range(100)), 3) == [0, 50, 99]
    assert thinned([1, 2], 16) == [1, 2]
    assert thinned([], 16) == []


def test_every_set_counts_alike_and_a_run_far_off_linearly():
    def outcome(name: str, error: float) -> Outcome:
        return Outcome(name, "r", None, metrics={"tpot_mean_s": Compared(1.0, 1.0 + error)})

    assert loss([outcome("a", 0.1)] * 9 + [outcome("b", 0.0)]) == pytest.approx(loss([outcome("a", 0.1)]) / 2)
    assert loss([outcome("a", 3.0)]) < 3 * loss([outcome("a", 1.0)])
    assert loss([outcome("a", 0.0)]) == 0.0


def test_only_terms_that_a_preset_has_fitted_are_replaced():
    host = host_model("vllm", "0.6.0")
    assert with_terms(host, {"iteration": 1.0, "entry": 2.0}, ("iteration",)) == replace(host, iteration_s=1.0)


def test_files_hold_the_new_terms_and_keep_all_else(tmp_path):
    figures = ErrorStatistics(3, 0.1, 0.1, 0.2, 0.3, 0.0)
    fit = Fitted(GROUP, {**TRUTH}, {"apex-h100-llama70b": {"itl_mean_s": figures}}, {})
    write_terms([fit], tmp_path)
    for profile in catalog.engine_profiles():
        written = EngineProfile.model_validate(
            yaml.safe_load((tmp_path / f"{profile.engine}.yaml").read_text()), context={"units": True}
        )
        for before, after in zip(profile.presets, written.presets, strict=True):
            changed = TRUTH if before.group == GROUP else {}
            assert after == before.model_copy(update=changed)
    write_errors([fit], tmp_path, "2026-01-01", "1")
    write_errors([replace(fit, group="another")], tmp_path, "2026-01-02", "1")
    found = json.loads((tmp_path / ERRORS).read_text())
    assert [row["group"] for row in found["rows"]] == ["another", GROUP]
    assert found["date"] == "2026-01-02"
    assert found["rows"][0]["left_out"] is None
