"""Collectives: versions and ranks are fitted apart, libraries stand in, and the report asks for what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.calibration.families.collectives import COLLECTIVES, OPS
from apexsim.calibration.fit import fit_problem
from apexsim.calibration.rows import SYSTEMS
from apexsim.cost.collectives import KINDS, collective_floor_s
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.laws import CollectiveLaw
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster, Link
from apexsim.spec.hardware import HardwareProfile
from tests.kernel_tables import recipe_of, report, rows_of, timed

H100, L40S = catalog.device("h100-sxm"), catalog.device("l40s")
TRUE = CollectiveLaw(6e-6, 0.8, 2.0)
SCATTER_S = 5e-6  # of one launch, in the rows
BYTES = [2.0**i for i in range(8, 31)]


def node_link(profile: HardwareProfile, ranks: int) -> Link:
    return Cluster.model_validate(f"8x{profile.name}").link(profile, ranks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_finds_the_law_that_made_the_rows(kind: str) -> None:
    rows = rows_of({"gpus": [2, 8], "bytes": BYTES})
    for problem in timed(recipe_of(f"{kind}.bf16.nccl"), rows, H100, TRUE):
        fit = fit_problem(COLLECTIVES[kind], problem, H100)
        assert isinstance(fit.law, CollectiveLaw)
        assert fit.law.latency_s == pytest.approx(TRUE.latency_s, rel=0.02)
        assert fit.law.link == pytest.approx(TRUE.link, rel=0.02)
        assert fit.held_out["worst"] < 0.02


def test_versions_and_ranks_are_fitted_apart_the_newest_first() -> None:
    rows = rows_of({"backend_version": ["0.9.0", "0.10.0"], "gpus": [2, 4], "bytes": BYTES})
    problems = timed(recipe_of("all_reduce.bf16.vllm"), rows, H100, TRUE)
    assert [(problem.label, problem.variant) for problem in problems] == [
        ("0.10.0", 2), ("0.10.0", 4), ("0.9.0", 2), ("0.9.0", 4),
    ]  # fmt: skip


def test_a_device_without_fast_links_is_fitted_over_pcie() -> None:
    (problem,) = timed(recipe_of("all_reduce.bf16.nccl", "l40s"), rows_of({"gpus": [4], "bytes": BYTES}), L40S, TRUE)
    assert problem.bandwidth == L40S.pcie_bandwidth
    assert CalibratedKernels(L40S).collective("all_reduce", 1e6, 4, node_link(L40S, 4)).calibrated


def test_rows_that_beat_the_link_are_counted() -> None:
    (problem,) = timed(recipe_of("all_gather.bf16.nccl"), rows_of({"gpus": [8], "bytes": BYTES}), H100, TRUE)
    seconds = np.where(problem.sizes["bytes"] > 2.0**29, 0.5 * problem.floor, problem.seconds)
    assert fit_problem(COLLECTIVES["all_gather"], replace(problem, seconds=seconds), H100).beyond_roofline == 1


@settings(max_examples=150, deadline=None)
@given(
    device=st.sampled_from(sorted(SYSTEMS)), kind=st.sampled_from(sorted(KINDS)), ranks=st.sampled_from([2, 3, 4, 8]),
    engine=st.sampled_from(["vllm", "sglang", "tensorrt-llm", "nccl"]), message=st.integers(1, 2**33),
)  # fmt: skip
def test_no_collective_beats_its_link(device: str, kind: str, ranks: int, engine: str, message: int) -> None:
    profile = catalog.device(device)
    link = node_link(profile, ranks)
    price = CalibratedKernels(profile, engine).collective(kind, message, ranks, link)
    assert float(price.seconds) >= float(collective_floor_s(kind, message, ranks, link)) * (1 - 1e-12)


@pytest.mark.parametrize("device", sorted(SYSTEMS))
def test_sixteen_times_the_message_never_costs_less(device: str) -> None:
    profile = catalog.device(device)
    message = 16.0 ** np.arange(1, 9)
    for kind in KINDS:
        for engine in ("vllm", "tensorrt-llm"):
            seconds = CalibratedKernels(profile, engine).collective(kind, message, 4, node_link(profile, 4)).seconds
            assert (seconds[1:] >= 0.95 * seconds[:-1] - SCATTER_S).all(), (kind, engine)


def test_what_an_engine_was_not_measured_at_goes_through_the_library() -> None:
    gb200 = catalog.device("gb200")
    link = node_link(gb200, 2)
    vllm, nccl = (CalibratedKernels(gb200, engine) for engine in ("vllm", "nccl"))
    message = np.array([65_536, 2.0**28])  # vLLM 0.24 was measured on a path of 206 GB/s there, NCCL at 530
    own, library = (kernels.collective("all_reduce", message, 2, link).seconds for kernels in (vllm, nccl))
    assert own[0] < library[0]
    assert own[1] == library[1]
    scattered = [kernels.collective("reduce_scatter", message, 2, link).seconds for kernels in (vllm, nccl)]
    assert (scattered[0] == scattered[1]).all()


def test_a_step_never_takes_eager_launches() -> None:
    """vLLM without CUDA graphs: 20 us of launches for a message that takes 5 in a graph."""
    link = node_link(H100, 8)
    graph, eager = (float(CalibratedKernels(H100, engine).collective("all_reduce", 8192, 8, link).seconds)
                    for engine in ("vllm", "vllm+eager"))  # fmt: skip
    assert eager > 3 * graph
    b60 = catalog.device("b60")  # of vLLM only eager rows are there: oneCCL stands in
    price, library = (CalibratedKernels(b60, engine).collective("all_reduce", 8192, 4, node_link(b60, 4)).seconds
                      for engine in ("vllm", "oneccl"))  # fmt: skip
    assert price == library


def test_a_version_that_is_asked_for_is_priced_as_it_was_measured() -> None:
    link = node_link(H100, 8)
    old, new, newest = (float(CalibratedKernels(H100, "sglang", version).collective("all_reduce", 512, 8, link).seconds)
                        for version in ("0.5.9", "0.5.14", None))  # fmt: skip
    assert old == pytest.approx(4.8e-6, rel=0.1)
    assert new == newest == pytest.approx(3.3e-6, rel=0.1)


def test_the_report_prices_engines_and_libraries(tmp_path: Path) -> None:
    link = node_link(H100, 4)
    own = float(CalibratedKernels(H100, "vllm", "0.24.0").collective("all_reduce", 2**20, 4, link).seconds)
    eager = float(CalibratedKernels(H100, "vllm+eager", "0.24.0").collective("all_reduce", 2**20, 4, link).seconds)
    columns = {
        "system": ["h100_sxm"] * 2, "backend_version": ["0.24.0"] * 2, "variant": ["vllm_graph", "vllm_eager"],
        "dtype": ["bfloat16"] * 2, "gpus": [4] * 2, "bytes": [2**20] * 2, "latency_ms": [1e3 * own, 1e3 * eager / 1.5],
    }  # fmt: skip
    line = report(tmp_path, "allreduce", columns)["bfloat16"]
    assert (line.n, line.worst_abs_error, line.median_abs_error) == (2, pytest.approx(0.5), pytest.approx(0.25))
    library = CalibratedKernels(H100, "nccl").collective("all_to_all", 2**20, 4, link, "int8")
    columns = {
        "system": ["h100_sxm"], "backend_version": ["2.29.2"], "kernel": ["NCCL"], "op": [OPS["all_to_all"]],
        "dtype": ["int8"], "gpus": [4], "bytes": [2**20], "latency_ms": [1e3 * float(library.seconds)],
    }  # fmt: skip
    (folder := tmp_path / "nccl").mkdir()
    assert report(folder, "nccl", columns)["alltoall int8"].worst_abs_error == pytest.approx(0.0, abs=1e-9)
