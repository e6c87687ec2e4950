"""Reading tables of measured runs: what is kept, and what is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from apexsim.errors import InputError
from apexsim.validation.sets import columns_without_meaning, find_sets, read_table
from tests.validation_worlds import CLOSED, shared_set, table_of, write_set


def test_cells_have_their_types_and_empty_ones_are_not_there(tmp_path):
    (row,) = table_of(tmp_path, CLOSED | {"concurrency": "2048.0", "cuda_graphs": "True", "pp": ""}).rows
    assert (row.get("concurrency"), row.get("cuda_graphs"), row.get("fixed_lengths")) == (2048, True, True)
    assert row.get("pp") is None
    assert row.measured() == {"ttft_mean_s": 0.05, "tpot_mean_s": 0.01}


def test_a_cell_may_hold_line_breaks(tmp_path):
    notes = "one\ntwo\u2028three\x0cfour"
    rows = table_of(tmp_path, CLOSED | {"notes": notes}, CLOSED | {"run": "b"}).rows
    assert [row.get("notes") for row in rows] == [notes, None]


def test_columns_that_nobody_knows_are_kept_in_silence(tmp_path):
    table = table_of(tmp_path, CLOSED | {"mood": "good", "ttft_p12.5_s": "0.1"})
    assert columns_without_meaning(table) == ("mood",)
    assert table.rows[0].get("mood") == "good"
    assert table.rows[0].measured()["ttft_p12.5_s"] == 0.1


def test_a_byte_order_mark_and_blank_lines_are_no_matter(tmp_path):
    write_set(tmp_path, CLOSED)
    text = (tmp_path / "runs.csv").read_text()
    (tmp_path / "runs.csv").write_text("\ufeff" + text + "\n,,\n", encoding="utf-8")
    assert [row.name for row in read_table(tmp_path / "runs.csv").rows] == ["a"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp": "0"}, "row 1 (a): column 'tp' is '0' (allowed: a whole number, 1 to 100,000)"),
        ({"max_num_seqs": "1e12"}, "column 'max_num_seqs' is '1e12' (allowed: a whole number, 1 to 100,000)"),
        ({"requests": "1.5"}, "column 'requests' is '1.5' (allowed: a whole number, 1 or more)"),
        ({"rate_rps": "1e300"}, "column 'rate_rps' is '1e300' (allowed: a number from 1e-09 to 1e+09)"),
        ({"burstiness_cv": "1e-9"}, "column 'burstiness_cv' is '1e-9' (allowed: 0, or a number from 0.001 to 1000)"),
        ({"tp": "1.5"}, "column 'tp' is '1.5'"),
        ({"tp": "nan"}, "column 'tp' is 'nan'"),
        ({"tp": "inf"}, "column 'tp' is 'inf'"),
        ({"ttft_mean_s": "-1"}, "column 'ttft_mean_s' is '-1' (allowed: a number above 0)"),
        ({"ttft_mean_s": "fast"}, "column 'ttft_mean_s' is 'fast'"),
        ({"gpu_memory_utilization": "90"}, "(allowed: a number above 0, at most 1)"),
        ({"fixed_lengths": "maybe"}, "column 'fixed_lengths' is 'maybe' (allowed: true or false)"),
        ({"load": "closed"}, "column 'load' is 'closed' (allowed: trace, rate, concurrency, offline, static)"),
        ({"engine": "vlm"}, "column 'engine' is 'vlm'; did you mean 'vllm'?"),
        ({"weights": "fp9"}, "column 'weights' is 'fp9'; did you mean 'fp"),
        ({"run": ""}, "row 1: column 'run' is empty"),
    ],
)
def test_a_wrong_cell_is_one_line_with_its_place(tmp_path, changes, words):
    write_set(tmp_path, CLOSED | changes)
    with pytest.raises(InputError) as caught:
        find_sets(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / "runs.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the table is empty"),
        ("run,model,device,load,tpot_mean_s\n", "the table has no run"),
        ("run,model,device,tpot_mean_s\na,b,c,1\n", "column 'load' is missing"),
        ("run,run,model,device,load\n", "column 'run' is there twice"),
        ("run,model,device,load\na,b,c,rate\n", "no column holds a measured value"),
        ("run,model,device,load,tpot_mean_s\na,b,c\n", "row 1: 3 cells (allowed: 5, as in the header)"),
        ('run,model,device,load,tpot_mean_s\na,b,c,rate,"1\n', "not CSV"),
        ("run,model,device,load,tpot_mean_s\na,b,c,rate,1\na,b,c,rate,1\n", "row 2: column 'run' is 'a', as in row 1"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, text, words):
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        find_sets(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00run")
    with pytest.raises(InputError, match="not a text file"):
        find_sets(tmp_path)


def test_a_folder_of_sets_says_which_folders_are_none(tmp_path):
    write_set(tmp_path / "second", CLOSED)
    write_set(tmp_path / "first", CLOSED)
    (tmp_path / "steps").mkdir()
    found = find_sets(tmp_path)
    assert [table.name for table in found.sets] == ["first", "second"]
    assert found.no_sets == ("steps",)


def test_a_single_table_is_a_set_of_its_name(tmp_path):
    write_set(tmp_path, CLOSED)
    (tmp_path / "runs.csv").rename(tmp_path / "censored.csv")
    (table,) = find_sets(tmp_path / "censored.csv").sets
    assert (table.name, table.folder) == ("censored", tmp_path)


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: p])
def test_a_folder_without_runs_is_one_line(tmp_path, make):
    with pytest.raises(InputError, match=r"no such folder|no runs\.csv in it"):
        find_sets(make(tmp_path))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("apex-h100-llama70b", 30), ("closed-loop-disaggregated", 103), ("closed-loop-grid", 1143),
        ("llmservingsim-rtxpro6000", 3), ("mlenergy-h100-dense", 101), ("mlperf51-sample", 55),
        ("trtllm-llama70b", 98), ("vllm-h100-open-loop", 40),
    ],
)  # fmt: skip
def test_published_sets_are_read_whole(name: str, rows: int):
    folder: Path = shared_set(name)
    (table,) = find_sets(folder).sets
    assert len(table.rows) == rows
    assert all(row.measured() for row in table.rows)
