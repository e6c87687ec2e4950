"""Dispatch and combine: fitted by transport and nodes, priced as an operator, never faster than the links."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.calibration.families import FAMILIES
from apexsim.calibration.fit import fit_problem
from apexsim.cost.experts import exchange_links, exchange_work
from apexsim.cost.floor import FLOOR
from apexsim.cost.kernels import AnalyticKernels, CalibratedKernels
from apexsim.cost.laws import ExchangeLaw
from apexsim.cost.operators import ExpertExchange, Phase
from apexsim.spec import catalog
from tests.kernel_tables import recipe_of, report, rows_of, timed

H100 = catalog.device("h100-sxm")
TRUE = ExchangeLaw(2e-5, 0.6, 0.8, 2e10, 1e-9, 1e-12, 3.0)
NORMAL = ExpertExchange("exchange", 7168, 256, 8, 8, 1, "deepep_normal", "fp8", 20)
MEASURED = ("deepep_normal", "deepep_low_latency")


def normal_rows() -> dict[str, list[float]]:
    return {
        "tokens": [4.0**i for i in range(9)], "nodes": [1, 2], "hidden_size": [2048, 4096, 7168], "experts": [64, 256],
        "experts_per_token": [8], "dispatch_sms": [4, 12, 24],
    }  # fmt: skip


def test_a_fit_finds_the_law_that_made_the_rows() -> None:
    problems = timed(recipe_of("dispatch.fp8.deepep-normal"), rows_of(normal_rows()), H100, TRUE)
    assert [(problem.label, problem.variant) for problem in problems] == [("deepep_normal", 1), ("deepep_normal", 2)]
    for problem in problems:
        fit = fit_problem(FAMILIES["dispatch"], problem, H100)
        assert isinstance(fit.law, ExchangeLaw)
        assert fit.law.latency_s == pytest.approx(TRUE.latency_s, rel=0.05)
        assert fit.held_out["p90"] < 0.03
        rate = "network" if problem.variant == 2 else "link"
        assert getattr(fit.law, rate) == pytest.approx(getattr(TRUE, rate), rel=0.1)


def test_transports_of_a_table_are_fitted_apart() -> None:
    rows = rows_of({
        "comm_backend": ["deepep_ht", "deepep_ll"], "tokens": [2.0**i for i in range(9)], "ep_size": [8], "sms": [0],
        "hidden_size": [4096, 7168], "experts": [256], "experts_per_token": [6, 8],
    })  # fmt: skip
    problems = timed(recipe_of("dispatch.bf16.vllm"), rows, H100, TRUE)
    assert [problem.label for problem in problems] == ["deepep_ht", "deepep_ll"]


def test_bytes_by_hand() -> None:
    """Two ranks, one expert each, two a token: every token goes once to the other rank, in bf16 2 bytes a value."""
    op = ExpertExchange("exchange", 1000, 2, 2, 2, 1, "deepep_normal", "bf16")
    work, sizes = exchange_work("dispatch", np.array([10.0]), op)
    assert work.moved[0] == 10 * 1000 * 2  # met ranks: 2, of which 1 is the own one
    assert sizes["least_near"][0] == work.moved[0]
    assert sizes["far"][0] == 0
    spread = ExpertExchange("exchange", 1000, 256, 8, 16, 2, "deepep_low_latency", "fp8")
    work, sizes = exchange_work("dispatch", np.array([10.0]), spread)
    pair = 10 * 8 * 1000 * (1 + 4 / 128)
    assert work.moved[0] == pytest.approx(pair * 7 / 16)
    assert sizes["far"][0] == pytest.approx(pair / 2)
    back, _ = exchange_work("combine", np.array([10.0]), spread)
    assert back.moved[0] == pytest.approx(work.moved[0] * 2 / (1 + 4 / 128))  # fp8 out, bf16 back


@settings(max_examples=150, deadline=None)
@given(
    device=st.sampled_from(["h100-sxm", "b200-sxm", "gb200", "l40s", "mi300x"]), tokens=st.integers(1, 200_000),
    phase=st.sampled_from(["dispatch", "combine"]), transport=st.sampled_from([*MEASURED, "deepep_ht", "nobody's"]),
    nodes=st.sampled_from([1, 2, 8]), hidden=st.sampled_from([512, 4096, 7168]), per_token=st.integers(1, 10),
    dtype=st.sampled_from(["bf16", "fp8", "nvfp4"]), sms=st.sampled_from([0, 4, 24]),
)  # fmt: skip
def test_no_exchange_beats_its_links(
    device: str, tokens: int, phase: Phase, transport: str, nodes: int, hidden: int, per_token: int, dtype: str,
    sms: int,
) -> None:
    profile = catalog.device(device)
    op = ExpertExchange("exchange", hidden, 256, per_token, 8 * nodes, nodes, transport, dtype, sms)
    near, far = exchange_links(profile)
    _, sizes = exchange_work(phase, np.array([float(tokens)]), op)
    least = FLOOR * max(float(sizes["least_near"][0]) / near, float(sizes["least_far"][0]) / far)
    for kernels in (CalibratedKernels(profile), AnalyticKernels(profile)):
        assert float(kernels.exchange(phase, tokens, op).seconds) >= least * (1 - 1e-12)


@pytest.mark.parametrize("transport", MEASURED)
def test_more_costs_more(transport: str) -> None:
    kernels = CalibratedKernels(H100)
    op = replace(NORMAL, transport=transport)
    tokens = 8.0 ** np.arange(1, 6)
    seconds = kernels.exchange("dispatch", tokens, op).seconds
    assert (seconds[1:] > 0.95 * seconds[:-1]).all()
    assert seconds[-1] > 10 * seconds[0]
    wide, narrow = (float(kernels.exchange("dispatch", 512, replace(op, hidden_size=size)).seconds)
                    for size in (7168, 2048))  # fmt: skip
    assert wide > narrow
    far = replace(op, nodes=2, ranks=16)
    assert kernels.exchange("combine", 128, far).seconds > kernels.exchange("combine", 128, op).seconds


def test_few_multiprocessors_copy_slowly() -> None:
    few, many = (float(CalibratedKernels(H100).exchange("dispatch", 16384, replace(NORMAL, multiprocessors=n)).seconds)
                 for n in (4, 24))  # fmt: skip
    assert few > 3 * many


def test_what_nobody_measured_is_analytic_and_within_reach_of_what_was() -> None:
    tokens = np.array([256.0, 4096, 65_536])
    assert not CalibratedKernels(H100).exchange("dispatch", tokens, replace(NORMAL, transport="mine")).calibrated
    assert not CalibratedKernels(H100).exchange("dispatch", tokens, replace(NORMAL, nodes=3, ranks=24)).calibrated
    measured = CalibratedKernels(H100).exchange("dispatch", tokens, NORMAL)
    assert measured.calibrated
    ratio = AnalyticKernels(H100).exchange("dispatch", tokens, NORMAL).seconds / measured.seconds
    assert (ratio > 0.25).all()
    assert (ratio < 2.0).all()


def test_the_report_prices_both_ways(tmp_path: Path) -> None:
    kernels = CalibratedKernels(H100)
    out = float(kernels.exchange("dispatch", 1024, NORMAL).seconds)
    back = float(kernels.exchange("combine", 1024, replace(NORMAL, dtype="bf16")).seconds)
    columns = {
        "system": ["h100_sxm"], "nodes": [1], "hidden_size": [7168], "experts": [256], "experts_per_token": [8],
        "tokens": [1024], "dispatch_sms": [20], "combine_sms": [20], "dispatch_transmit_us": [1e6 * out],
        "combine_transmit_us": [2e6 * back],
    }  # fmt: skip
    lines = report(tmp_path, "moe_alltoall_deepep_normal", columns)
    assert lines["dispatch fp8"].worst_abs_error == pytest.approx(0.0, abs=1e-9)
    assert lines["combine bf16"].worst_abs_error == pytest.approx(0.5)


def test_the_report_prices_a_rack(tmp_path: Path) -> None:
    gb200 = catalog.device("gb200")
    op = ExpertExchange("exchange", 7168, 256, 8, 32, 1, "NVLinkTwoSided", "nvfp4", balanced=True)
    phases: tuple[Phase, ...] = ("dispatch", "prepare")
    seconds = [float(CalibratedKernels(gb200).exchange(phase, 512, op).seconds) for phase in phases]
    columns = {
        "system": ["gb200"] * 2, "kernel": ["NVLinkTwoSided"] * 2, "op_name": ["alltoall_dispatch", "alltoall_prepare"],
        "dtype": ["nvfp4"] * 2, "moe_ep": [32] * 2, "hidden_size": [7168] * 2, "experts": [256] * 2,
        "experts_per_token": [8] * 2, "tokens": [512] * 2, "latency_ms": [1e3 * value for value in seconds],
    }  # fmt: skip
    line = report(tmp_path, "moe_alltoall_trtllm_mnnvl", columns)["nvfp4"]
    assert (line.n, line.worst_abs_error) == (2, pytest.approx(0.0, abs=1e-9))
    assert line.calibrated
