"""The report: every row of a folder is priced as a serving step is, or counted with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from apexsim.calibration.report import held_out_lines, price_folder
from apexsim.cli.main import app
from apexsim.cost.kernels import CalibratedKernels
from apexsim.cost.operators import AttentionOp
from apexsim.errors import InputError, UsageError
from apexsim.spec import catalog
from tests.cost_worlds import shared

H100 = catalog.device("h100-sxm")


def gemm_table(**changes: Any) -> pa.Table:
    """Three bf16 rows of an H100, priced 10 % too low, and one fp8 row, exactly right."""
    m, n, k = (np.array(column, dtype=np.float64) for column in ([1, 64, 4096, 64], [4096] * 4, [4096] * 4))
    kernels = CalibratedKernels(H100, "vllm")
    right = kernels.gemm(m, n, k, "bf16").seconds[:3], kernels.gemm(64, 4096, 4096, "fp8").seconds
    seconds = np.append(right[0] / 0.9, right[1])
    columns: dict[str, Any] = {
        "system": ["h100_sxm"] * 4, "backend": ["vllm"] * 4, "backend_version": ["0.24.0"] * 4, "kernel": ["x"] * 4,
        "dtype": ["bfloat16"] * 3 + ["fp8"], "m": m.astype(np.int32), "n": n.astype(np.int32), "k": k.astype(np.int32),
        "latency_ms": seconds * 1e3,
    }
    return pa.table({name: column for name, column in (columns | changes).items() if column is not None})


def written(folder: Path, name: str, table: pa.Table) -> Path:
    pq.write_table(table, folder / f"{name}.parquet")
    return folder


def test_rows_are_priced_as_a_serving_step_is(tmp_path: Path) -> None:
    by_dtype = {line.dtype: line for line in price_folder(written(tmp_path, "gemm", gemm_table()))}
    assert (by_dtype["bfloat16"].n, by_dtype["fp8"].n) == (3, 1)
    assert by_dtype["bfloat16"].median_abs_error == pytest.approx(0.1)
    assert by_dtype["bfloat16"].bias == pytest.approx(-0.1)
    assert by_dtype["fp8"].worst_abs_error == pytest.approx(0.0, abs=1e-12)


def test_attention_is_priced_operator_by_operator(tmp_path: Path) -> None:
    """Two operators in one table: full attention of 32 heads, and a window of 128 with 8 heads, past it."""
    kernels = CalibratedKernels(H100, "vllm")
    full = AttentionOp("attention", 32, 8, 128, 128, 0, "bf16", 1)
    windowed = AttentionOp("attention", 8, 1, 64, 64, 128, "fp8", 1)
    prices = kernels.decode_attention(16, 2048, full), kernels.decode_attention(4, 4096, windowed)
    table = pa.table({
        "system": ["h100_sxm"] * 2, "attn_dtype": ["bfloat16"] * 2, "kv_dtype": ["bfloat16", "fp8"], "batch": [16, 4],
        "kv_tokens": [2048, 4096], "q_heads": [32, 8], "kv_heads": [8, 1], "head_dim": [128, 64],
        "window_tokens": [0, 128], "latency_ms": [1e3 * float(price.seconds) for price in prices],
    })  # fmt: skip
    lines = price_folder(written(tmp_path, "generation_attention", table))
    assert [line.dtype for line in lines] == ["bfloat16 kv, bfloat16 attn", "fp8 kv, bfloat16 attn"]
    assert all(line.worst_abs_error == pytest.approx(0.0, abs=1e-12) for line in lines)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("gemm", {"dtype": ["int2"] * 4}, "int2 is no format"),
        ("gemm", {"dtype": ["nvfp4"] * 4}, "h100-sxm has no matrix units for nvfp4"),
        ("gemm", {"system": ["h900_sxm"] * 4}, "no profile of this device"),
        ("gemm_of_nobody", {}, "no such table"),
        ("gemm", {"m": [0, -1, 0, 0]}, "missing or not positive"),
        ("gemm", {"latency_ms": [None, float("nan"), float("inf"), -1.0]}, "missing or not positive"),
    ],
)
def test_what_cannot_be_priced_is_counted_with_its_reason(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (line,) = price_folder(written(tmp_path, name, gemm_table(**changes)))
    assert (line.n, line.skipped, line.median_abs_error) == (0, 4, None)
    assert reason in line.reasons[0][0]


def test_further_columns_and_dictionaries_are_no_trouble(tmp_path: Path) -> None:
    words = pa.array(["bfloat16", "bfloat16", "bfloat16", "fp8"]).dictionary_encode()
    lines = price_folder(written(tmp_path, "gemm", gemm_table(dtype=words, mood=["fine"] * 4)))
    assert sum(line.n for line in lines) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": None}, "lacks the column 'k'"),
        ({"system": None}, "lacks the column 'system'"),
        ({"m": ["many"] * 4}, "column 'm' holds string"),
        ({"dtype": [1, 2, 3, 4]}, "column 'dtype' holds int64"),
    ],
)
def test_a_table_of_another_form_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        price_folder(written(tmp_path, "gemm", gemm_table(**changes)))
    assert "gemm.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_tables_are_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, "gemm", gemm_table()) / "gemm.parquet"
    path.write_bytes(path.read_bytes()[:400])
    for folder in (tmp_path, tmp_path / "empty"):
        folder.mkdir(exist_ok=True)
        done = CliRunner().invoke(app, ["calibrate", "report", "--data", str(folder)])
        assert done.exit_code == 5
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_only_one_device_where_asked(tmp_path: Path) -> None:
    folder = written(tmp_path, "gemm", gemm_table(system=["h100_sxm", "h100_sxm", "l40s", "l40s"]))
    assert {line.system for line in price_folder(folder)} == {"h100_sxm", "l40s"}
    assert {line.system for line in price_folder(folder, "l40s")} == {"l40s"}
    with pytest.raises(UsageError, match="did you mean 'l40s'"):
        price_folder(folder, "l40ss")


def test_the_command_writes_the_agreed_keys(tmp_path: Path) -> None:
    folder = written(tmp_path, "gemm", gemm_table())
    done = CliRunner().invoke(app, ["calibrate", "report", "--data", str(folder), "--json", "-"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    needed = {"table", "system", "dtype", "n", "skipped", "median_abs_error", "p90_abs_error", "worst_abs_error"}
    assert all(needed <= set(row) for row in rows)
    assert {(row["table"], row["system"], row["dtype"]) for row in rows} == {
        ("gemm", "h100_sxm", "bfloat16"), ("gemm", "h100_sxm", "fp8"),
    }  # fmt: skip


def test_without_a_folder_it_prints_what_the_files_hold() -> None:
    lines = held_out_lines("h100-sxm")
    assert {"gemm", "prefill_attention", "decode_attention"} <= {line.table for line in lines}
    done = CliRunner().invoke(app, ["calibrate", "report", "--device", "h100-sxm"])
    assert done.exit_code == 0, done.output
    assert "decode_attention" in done.stdout
    done = CliRunner().invoke(app, ["calibrate", "report", "--held-out", "--data", "."])
    assert done.exit_code == 2


def test_measured_tables_are_priced_as_well_as_the_files_say(tmp_path: Path) -> None:
    """Two tables on H100, to be quick. Rows that a fit has seen are nearer than those it has not."""
    for name in ("gemm", "generation_attention"):
        (tmp_path / f"{name}.parquet").symlink_to(shared(f"data/kernels/{name}.parquet"))
    lines = price_folder(tmp_path, "h100-sxm")
    assert len(lines) == 5
    for line in lines:
        assert line.calibrated, line
        assert line.skipped == 0, line
        assert line.median_abs_error is not None
        assert line.median_abs_error < 0.05, line


def test_rows_of_unknown_collectives_are_skipped_and_counted(tmp_path):
    """A word that nobody knows is not priced as one that somebody does, and is not lost either."""
    rows = {
        "system": ["h100_sxm"] * 4, "backend": ["vllm"] * 4, "backend_version": ["0.24.0"] * 4,
        "kernel": ["custom"] * 4, "variant": ["vllm_graph", "vllm_graph", "no_such", "vllm_graph"],
        "dtype": ["bfloat16", "fp3", "bfloat16", "bfloat16"], "gpus": [4] * 4, "elements": [1 << 20] * 4,
        "bytes": [2 << 20] * 4, "latency_ms": [0.02] * 4,
    }  # fmt: skip
    pq.write_table(pa.table(rows), tmp_path / "allreduce.parquet")
    library = {**rows, "kernel": ["NCCL", "NCCL", "other", "NCCL"],
               "op": ["all_reduce", "broadcast", "all_gather", "all_to_all"],
               "dtype": ["half", "half", "half", "fp3"]}  # fmt: skip
    del library["variant"]
    pq.write_table(pa.table(library), tmp_path / "nccl.parquet")
    report = CliRunner().invoke(app, ["calibrate", "report", "--data", str(tmp_path), "--json", "-"])
    assert report.exit_code == 0, report.stdout
    found = json.loads(report.stdout)["rows"]
    assert sum(row["n"] for row in found if row["table"] == "allreduce") == 2
    assert sum(row["skipped"] for row in found if row["table"] == "allreduce") == 2
    assert sum(row["n"] for row in found if row["table"] == "nccl") == 1
    assert sum(row["skipped"] for row in found if row["table"] == "nccl") == 3
