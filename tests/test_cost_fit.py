"""Calibration: it finds what generated the rows, its files are whole, and the committed ones keep their word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from apexsim.calibration.families import FAMILIES
from apexsim.calibration.families.gemm import GEMM
from apexsim.calibration.fit import fit_device, fit_problem, write_fits
from apexsim.calibration.problem import Problem
from apexsim.calibration.regression import error_summary, fit_grids
from apexsim.calibration.rows import Rows, held_out, read_rows
from apexsim.cli.main import app
from apexsim.cost.coefficients import KernelFile, load
from apexsim.cost.floor import floor_s
from apexsim.cost.kernels import AnalyticKernels, CalibratedKernels
from apexsim.cost.laws import GemmLaw
from apexsim.cost.operators import AttentionOp
from apexsim.cost.shapes import gemm_work
from apexsim.errors import InputError, UsageError
from apexsim.spec import catalog
from apexsim.spec.cluster import Cluster

H100 = catalog.device("h100-sxm")
KERNELS = catalog.profile_folder("h100-sxm") / "kernels"
RECIPES = [recipe for family in FAMILIES.values() for recipe in family.recipes]
TRUE = GemmLaw(0.72, 0.81, 3.0, 4e-6, 0.4, 90.0, 128, 128, 132)


def gemm_rows(law: GemmLaw = TRUE, noise: float = 0.0, seed: int = 1) -> Rows:
    """Rows that ``law`` would measure on an H100, a grid of shapes, sorted as ``read_rows`` sorts them."""
    m, n, k = (axis.ravel() for axis in np.meshgrid(
        2.0 ** np.arange(15), [256.0, 1024, 3072, 4096, 8192, 16384], [256.0, 1024, 4096, 8192, 14336], indexing="ij",
    ))  # fmt: skip
    profile = catalog.device("h100-sxm")
    sizes = {"m": m, "n": n, "k": k}
    seconds = law.seconds(gemm_work(m, n, k, 2.0, 2.0), sizes, profile.peak_flops["bf16"], profile.memory_bandwidth)
    return Rows(sizes, seconds * np.exp(noise * np.random.default_rng(seed).standard_normal(m.size)), "1.0")


def gemm_problem(rows: Rows) -> Problem:
    (problem,) = GEMM.problems(GEMM.recipes[0], rows, H100)
    return problem


def test_a_fit_finds_the_law_that_made_the_rows() -> None:
    fit = fit_problem(GEMM, gemm_problem(gemm_rows()), H100)
    assert isinstance(fit.law, GemmLaw)
    assert fit.law.compute == pytest.approx(TRUE.compute, rel=0.02)
    assert fit.law.memory == pytest.approx(TRUE.memory, rel=0.02)
    assert fit.law.latency_s == pytest.approx(TRUE.latency_s, rel=0.02)
    assert (fit.law.tile_m, fit.law.tile_n) == (128, 128)
    assert fit.held_out["p90"] < 0.01


def test_noise_is_not_learnt() -> None:
    """With 5 % of noise no fit can be better than 3.4 % in the median; the bias stays away."""
    fit = fit_problem(GEMM, gemm_problem(gemm_rows(noise=0.05)), H100)
    assert 0.02 < fit.held_out["median"] < 0.05
    assert abs(fit.held_out["bias"]) < 0.02


def test_rows_that_beat_the_roofline_take_no_part_and_are_counted() -> None:
    rows = gemm_rows()
    impossible = rows.seconds.copy()
    impossible[::50] *= 0.05
    problem = gemm_problem(Rows(rows.sizes, impossible, "1.0"))
    below = int((problem.seconds < problem.floor).sum())
    fit = fit_problem(GEMM, problem, H100)
    assert fit.beyond_roofline == below > 0
    assert fit.held_out["p90"] < 0.01
    predicted = fit.seconds(problem.work, problem.sizes, problem.peak, problem.bandwidth)
    assert (predicted > 3 * problem.seconds)[problem.seconds < problem.floor].all()


def test_a_grid_takes_what_the_law_misses() -> None:
    size = 2.0 ** np.linspace(0, 12, 400)
    wave = 0.3 * np.sin(np.log2(size))
    (grid,) = fit_grids([{"m": np.linspace(0, 12, 25)}], {"m": size}, wave, 0.05)
    assert np.abs(np.log(grid.factor([size])) - wave).max() < 0.03
    outside = grid.factor([np.array([1e-3, 1.0, 2.0**12, 1e9])])
    assert outside[0] == outside[1]  # the roofline's slope is all that is left beyond the outer knots
    assert outside[2] == outside[3]


def test_a_fifth_of_the_shapes_is_held_out_always_the_same() -> None:
    chosen = held_out(30_000)
    assert chosen.mean() == pytest.approx(0.2, abs=0.01)
    assert (chosen == held_out(30_000)).all()


def test_error_summary_by_hand() -> None:
    found = error_summary(np.array([1.1, 0.9, 1.0, 2.0, 1.3]), np.ones(5))
    assert found["n"] == 5
    assert found["median"] == pytest.approx(0.1)
    assert found["worst"] == pytest.approx(1.0)
    assert found["bias"] == pytest.approx(0.1)


def test_repeated_shapes_are_merged_into_their_median_and_only_the_newest_version_counts(tmp_path: Path) -> None:
    columns = {
        "system": ["h100_sxm"] * 5, "backend_version": ["1.0.0rc9", "1.0.0rc10", "1.0.0rc10", "1.0.0rc10", "1.0.0rc10"],
        "dtype": ["bfloat16"] * 5, "m": [1, 1, 1, 1, 2], "n": [32] * 5, "k": [32] * 5,
        "latency_ms": [9.0, 1.0, 3.0, 2.0, 7.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "gemm.parquet")
    rows = read_rows(tmp_path, RECIPES[0], "h100_sxm")
    assert rows is not None
    assert rows.version == "1.0.0rc10"
    np.testing.assert_allclose(rows.seconds, [2e-3, 7e-3])
    assert read_rows(tmp_path, RECIPES[0], "l40s") is None
    assert read_rows(tmp_path, RECIPES[-1], "h100_sxm") is None


def test_bad_tables_and_unknown_devices_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "gemm.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(InputError, match=r"gemm\.parquet"):
        read_rows(tmp_path, RECIPES[0], "h100_sxm")
    with pytest.raises(UsageError, match="did you mean 'h100-sxm'"):
        fit_device(tmp_path, "h100sxm", "2026-11-20")
    with pytest.raises(UsageError, match=r"holds no kernel tables .*gemm\.parquet"):
        fit_device(tmp_path / "nowhere", "h100-sxm", "2026-11-20")


@pytest.mark.parametrize("time", [-1.0, 0.0, float("nan")])
def test_a_table_without_one_possible_time_is_one_line(time: float, tmp_path: Path) -> None:
    sizes = [1 << size for size in range(10, 24)]
    many = len(sizes)
    words = {
        "system": "h100_sxm", "backend": "vllm", "backend_version": "0.24.0", "kernel": "x", "variant": "vllm_graph",
        "op": "all_reduce", "dtype": "bfloat16",
    }  # fmt: skip
    table = pa.table({
        **{name: [word] * many for name, word in words.items()}, "gpus": [2] * many, "elements": sizes,
        "bytes": [2 * size for size in sizes], "latency_ms": [time] * many,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "allreduce.parquet")
    with pytest.raises(InputError, match=r"allreduce\.parquet: no row of .* all_reduce bf16 on h100_sxm has a time"):
        fit_device(tmp_path, "h100-sxm", "2026-01-01")


def test_the_command_fits_writes_and_prints(tmp_path: Path) -> None:
    rows = gemm_rows(noise=0.02)
    columns = {name: size.astype(np.int32) for name, size in rows.sizes.items()}
    count = rows.seconds.size
    table = pa.table({
        "system": ["h100_sxm"] * count, "backend_version": ["0.24.0"] * count, "dtype": ["bfloat16"] * count,
        **columns, "latency_ms": rows.seconds * 1e3,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "gemm.parquet")
    arguments = ["calibrate", "fit", "--data", str(tmp_path), "--device", "h100-sxm", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--date", "2026-11-20"])
    assert done.exit_code == 0, done.output
    assert "gemm.bf16.vllm" in done.output
    file = load(tmp_path / "out" / "gemm.bf16.vllm.json")
    assert (file.engine_version, file.fitted, file.fits[0].rows) == ("0.24.0", "2026-11-20", count)


@pytest.mark.parametrize("damage", ["cut", "key", "grid", "word"])
def test_a_damaged_kernel_file_is_one_line(damage: str, tmp_path: Path) -> None:
    text = (KERNELS / "all_reduce.bf16.vllm.json").read_text()
    data = json.loads(text)
    if damage == "key":
        del data["fits"][0]["law"]["latency_s"]
    elif damage == "grid":
        data["fits"][0]["grids"][0]["values"] += "A"
    elif damage == "word":
        data["operator"] = "alltoall"
    path = tmp_path / "x.json"
    path.write_text(text[: len(text) // 2] if damage == "cut" else json.dumps(data))
    with pytest.raises(InputError, match=r"x\.json") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_engines_take_their_own_measurements_first() -> None:
    """An engine without its own takes vLLM's; blockwise fp8 under vLLM, set aside, takes SGLang's, the same kernel."""
    vllm, trtllm, sglang, other = (
        CalibratedKernels(H100, engine) for engine in ("vllm", "tensorrt-llm", "sglang", "another")
    )
    own = [float(kernels.gemm(64, 8192, 8192, "bf16").seconds) for kernels in (vllm, trtllm, sglang)]
    assert len(set(own)) == 3
    assert other.gemm(64, 8192, 8192, "bf16").seconds == own[0]
    assert vllm.gemm(64, 8192, 8192, "fp16").seconds == own[0]
    assert vllm.gemm(64, 8192, 8192, "fp8-block").seconds == sglang.gemm(64, 8192, 8192, "fp8-block").seconds
    op = AttentionOp("attention", 32, 8, 128, 128, 0, "bf16", 1)
    assert sglang.decode_attention(32, 2048, op).seconds == vllm.decode_attention(32, 2048, op).seconds


def test_what_was_set_aside_prices_no_serving_step() -> None:
    """vLLM's blockwise fp8 was timed with its launches: 59 us for a product that takes 12 us in a CUDA graph."""
    report, serving = CalibratedKernels(H100, "vllm+eager"), CalibratedKernels(H100, "vllm")
    assert float(report.gemm(1, 4096, 4096, "fp8-block").seconds) > 50e-6
    assert float(serving.gemm(1, 4096, 4096, "fp8-block").seconds) < 15e-6
    assert report.gemm(64, 8192, 8192, "bf16").seconds == serving.gemm(64, 8192, 8192, "bf16").seconds
    a100 = catalog.device("a100-sxm-80gb")
    op = AttentionOp("attention", 32, 8, 128, 128, 0, "bf16", 1)
    trtllm, vllm = (CalibratedKernels(a100, engine) for engine in ("tensorrt-llm", "vllm"))
    assert trtllm.decode_attention(64, 4096, op).seconds == vllm.decode_attention(64, 4096, op).seconds


def test_outside_the_measured_range_the_roofline_goes_on_and_says_so() -> None:
    kernels = CalibratedKernels(catalog.device("h100-sxm"))
    inside, outside = kernels.gemm(4096, 8192, 8192, "bf16"), kernels.gemm(65_536, 8192, 8192, "bf16")
    assert not inside.extrapolated
    assert outside.extrapolated
    assert outside.seconds == pytest.approx(2 * kernels.gemm(32_768, 8192, 8192, "bf16").seconds, rel=0.03)
    odd = AttentionOp("attention", 8, 8, 80, 80, 0, "bf16", 1)
    assert kernels.decode_attention(8, 500, odd).extrapolated
    assert kernels.prefill_past(512, replace(odd, qk_dim=128, v_dim=128)).extrapolated


def test_what_nobody_measured_is_analytic_and_says_so() -> None:
    profile = catalog.device("h100-sxm")
    analytic, calibrated = AnalyticKernels(profile), CalibratedKernels(profile)
    price = calibrated.gemm(64, 4096, 4096, "w4a16")
    assert not price.calibrated
    assert price.seconds == analytic.gemm(64, 4096, 4096, "w4a16").seconds
    assert not CalibratedKernels(catalog.device("mi300x")).gemm(64, 4096, 4096, "bf16").calibrated


def test_gemm_floor_by_hand() -> None:
    """m = 8: 2 · 8192² bytes of weights at 3.35 TB/s are 40 us; m = 8192: 1.1 TFLOP at 989.4 TFLOP/s are 1.11 ms."""
    profile = catalog.device("h100-sxm")
    small = floor_s(profile, "bf16", 2.0 * 8 * 8192**2, 2.0 * (8192**2 + 2 * 8 * 8192))
    large = floor_s(profile, "bf16", 2.0 * 8192**3, 2.0 * 3 * 8192**2)
    assert small == pytest.approx(0.95 * 40.14e-6, rel=1e-3)
    assert large == pytest.approx(0.95 * 1.1113e-3, rel=1e-3)


def test_files_are_written_where_asked(tmp_path: Path) -> None:
    file = load(KERNELS / "all_reduce.bf16.vllm.json")
    (path,) = write_fits([file], tmp_path / "deep" / "kernels")
    assert path.read_text() == file.to_json()


def dream(file: KernelFile) -> KernelFile:
    """The same file, with seconds 5e8 times too small."""
    fits = tuple(replace(fit, grid=replace(fit.grid, values=fit.grid.values - 20.0)) for fit in file.fits)
    return replace(file, fits=fits)


def test_a_fit_that_beats_the_roofline_is_stopped_by_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be wrong; a price may not be impossible."""
    kernels = CalibratedKernels(catalog.device("h100-sxm"))
    monkeypatch.setattr(kernels, "load", lambda name: dream(load(KERNELS / f"{name}.json")))
    profile = kernels.profile
    gemm = kernels.gemm(4096, 8192, 8192, "bf16")
    assert gemm.calibrated
    assert gemm.seconds == pytest.approx(0.95 * 2 * 4096 * 8192**2 / profile.peak_flops["bf16"])
    op = AttentionOp("attention", 8, 1, 128, 128, 0, "bf16", 1)
    read = 64 * (4096 * op.kv_token_bytes + 2 * 8 * 128 * 2)  # and queries and outputs
    assert kernels.decode_attention(64, 4096, op).seconds == pytest.approx(0.95 * read / profile.memory_bandwidth)
    link = Cluster.model_validate("8xh100-sxm").link(profile, 8)
    assert kernels.collective("all_reduce", 1e9, 8, link).seconds == pytest.approx(0.95 * 1e9 / link.bandwidth)


def test_a_profile_in_a_folder_of_its_own_brings_its_own_kernels(tmp_path: Path) -> None:
    folder = tmp_path / "my-gpu"
    (folder / "kernels").mkdir(parents=True)
    text = (KERNELS.parent / "profile.yaml").read_text()
    (folder / "profile.yaml").write_text(text.replace("name: h100-sxm", "name: my-gpu", 1))
    (folder / "kernels" / "all_reduce.bf16.vllm.json").write_text((KERNELS / "all_reduce.bf16.vllm.json").read_text())
    kernels = CalibratedKernels(catalog.device(folder))
    link = Cluster.model_validate("8xh100-sxm").link(kernels.profile, 8)
    assert kernels.collective("all_reduce", 1e6, 8, link).calibrated
    assert not kernels.gemm(64, 4096, 4096, "bf16").calibrated
