"""Traces written, cached and described: nothing is lost, nothing depends on the cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.errors import InputError, UsageError
from apexsim.testing.trace_format import columns
from apexsim.workload import cache
from apexsim.workload.bundled import bundled_names, bundled_trace
from apexsim.workload.read import read_trace
from apexsim.workload.stats import describe, window_cvs
from apexsim.workload.trace import Trace
from apexsim.workload.write import write_trace


@st.composite
def traces(draw):
    """Small traces with every optional column."""
    n = draw(st.integers(1, 12))
    arrivals = sorted(draw(st.lists(st.floats(0, 1e7, allow_subnormal=False), min_size=n, max_size=n)))
    inputs = draw(st.lists(st.integers(1, 200), min_size=n, max_size=n))
    # One hash a started block of 16 tokens.
    counts = [-(-tokens // 16) for tokens in inputs]
    hashes = draw(st.lists(st.integers(0, 2**62), min_size=sum(counts), max_size=sum(counts)))
    names = ("chat", "code, quoted", "API log")
    codes = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return Trace(
        name="t",
        arrival_s=np.array(arrivals),
        input_tokens=np.array(inputs),
        output_tokens=np.array(draw(st.lists(st.integers(1, 9000), min_size=n, max_size=n))),
        session=np.array(draw(st.lists(st.integers(-1, 5), min_size=n, max_size=n))),
        shared_prefix_tokens=np.array([draw(st.integers(0, tokens)) for tokens in inputs]),
        hash_ids=np.array(hashes, np.int64),
        hash_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        hash_block_tokens=16,
        classes=names,
        class_code=np.array(codes),
    )


def content(trace: Trace) -> dict[str, object]:
    """What a file can hold: classes by name, their order may change."""
    found = columns(trace)
    found["class_code"] = [trace.classes[code] for code in trace.class_code]
    del found["classes"]
    return found


@settings(max_examples=30, deadline=None)
@given(traces(), st.sampled_from(["t.csv", "t.csv.gz", "t.parquet"]))
def test_what_is_written_is_read_back_exactly(tmp_path_factory, trace, name):
    path = tmp_path_factory.mktemp("round") / name
    write_trace(trace, path)
    assert content(read_trace(path)) == content(trace)


def simple(**columns: object) -> Trace:
    base = {"arrival_s": np.array([0.0, 1.5]), "input_tokens": np.array([600, 20]), "output_tokens": np.array([3, 4])}
    return Trace(name="t", **(base | columns))  # type: ignore[arg-type]  # columns by name


def test_json_lines_of_others_are_read_back(tmp_path):
    trace = simple(hash_ids=np.array([1, 2, 9]), hash_offsets=np.array([0, 2, 3]), hash_block_tokens=512)
    for format in ("mooncake", "apex"):
        write_trace(trace, tmp_path / f"{format}.jsonl", format)
        again = read_trace(tmp_path / f"{format}.jsonl")
        assert again.arrival_s.tolist() == [0.0, 1.5]
        assert again.input_tokens.tolist() == [600, 20]
    assert read_trace(tmp_path / "mooncake.jsonl").hash_ids.tolist() == [1, 2, 9]


def test_equal_traces_give_equal_bytes(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        write_trace(simple(), tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_files_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"ending '.xlsx' does not say the format"):
        write_trace(simple(), tmp_path / "t.xlsx")
    with pytest.raises(UsageError, match="did you mean 'parquet'"):
        write_trace(simple(), tmp_path / "t", "parket")
    with pytest.raises(UsageError, match="needs hashes of 512-token blocks"):
        write_trace(simple(), tmp_path / "t.jsonl", "mooncake")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        write_trace(simple(), tmp_path / "file" / "t.csv")


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A log that is large enough to be cached, with an empty cache."""
    monkeypatch.setenv("APEXSIM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("APEXSIM_NO_CACHE", raising=False)
    path = tmp_path / "log.csv"
    write_log(path, outputs=5)
    return path


def write_log(path: Path, outputs: int) -> None:
    rows = (f"{i},GPT-4,{i % 900 + 1},{0 if i % 50 == 0 else outputs},9,{i % 3} log\n" for i in range(20_000))
    path.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "".join(rows))
    assert path.stat().st_size > cache.SMALLEST_BYTES


def entries(path: Path) -> list[Path]:
    return sorted((path.parent / "cache").glob("*"))


def test_a_cached_trace_is_the_same_trace(log):
    first = read_trace(log)
    assert len(entries(log)) == 1
    assert columns(read_trace(log)) == columns(first)
    assert read_trace(log).dropped == {"failed (0 response tokens)": 400}
    assert cache.load(log, "burstgpt") is not None


def test_a_changed_file_is_read_anew_and_its_old_entry_goes(log):
    read_trace(log)
    before = entries(log)
    write_log(log, outputs=6)
    os.utime(log, ns=(1, 1))
    assert set(read_trace(log).output_tokens.tolist()) == {6}
    assert len(entries(log)) == 1
    assert entries(log) != before


def test_a_broken_or_unwritable_cache_never_fails_a_read(log, monkeypatch):
    first = read_trace(log)
    entries(log)[0].write_bytes(b"PAR1 and then nothing")
    assert columns(read_trace(log)) == columns(first)
    monkeypatch.setenv("APEXSIM_CACHE_DIR", str(log / "no-folder"))
    assert columns(read_trace(log)) == columns(first)


def test_the_cache_can_be_turned_off_and_leaves_small_files_alone(log, tmp_path, monkeypatch):
    small = tmp_path / "small.csv"
    small.write_text("arrival_s,input_tokens,output_tokens\n0,1,1\n", encoding="utf-8")
    read_trace(small)
    monkeypatch.setenv("APEXSIM_NO_CACHE", "1")
    read_trace(log)
    assert entries(log) == []


def test_the_cache_lies_where_xdg_says(log, tmp_path, monkeypatch):
    monkeypatch.delenv("APEXSIM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    read_trace(log)
    assert len(list((tmp_path / "xdg" / "apexsim" / "traces").glob("*.parquet"))) == 1


def test_a_bundled_trace_has_a_name_and_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    assert "burstgpt-day" in bundled_names()
    assert bundled_trace("burstgpt-day").is_file()
    with pytest.raises(InputError, match="did you mean 'burstgpt-day'"):
        bundled_trace("burstgpt-dya")
    monkeypatch.chdir(tmp_path)
    assert len(read_trace("burstgpt-day")) > 20_000
    Path("burstgpt-day").write_text("arrival_s,input_tokens,output_tokens\n0,1,1\n", encoding="utf-8")
    assert len(read_trace("burstgpt-day")) == 1


def test_describe_of_a_trace_worked_by_hand():
    trace = Trace(
        name="hand",
        arrival_s=np.array([0.0, 1.0, 4.0]),
        input_tokens=np.array([10, 20, 60]),
        output_tokens=np.array([1, 1, 4]),
        session=np.array([3, -1, 3]),
        hash_ids=np.array([1, 2, 1, 5]),
        hash_offsets=np.array([0, 1, 2, 4]),
        hash_block_tokens=16,
        classes=("a", "b"),
        class_code=np.array([0, 0, 1]),
        dropped={"failed": 2},
    )
    found = describe(trace)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rate_rps"] == 0.5
    assert found["iat_cv"] == pytest.approx(0.5)  # gaps 1 and 3: mean 2, deviation 1
    assert found["dispersion_1s"] == pytest.approx(0.24 / 0.6)  # counts 1 1 0 0 1
    assert found["input_tokens"]["mean"] == 30
    assert found["input_tokens"]["p90"] == pytest.approx(52)
    assert found["output_tokens_per_s"] == 1.5
    assert found["sessions"] == {
        "sessions": 1,
        "requests": 2,
        "turns_mean": 2.0,
        "turns_p50": 2.0,
        "turns_max": 2,
        "single_turn_share": 0.0,
    }
    assert found["prefix"] == {"block_tokens": 16, "blocks": 4, "distinct_blocks": 3, "ideal_reuse": 0.25}
    assert {name: part["requests"] for name, part in found["classes"].items()} == {"a": 2, "b": 1}
    assert found["dropped"] == {"failed": 2}


def test_what_is_undefined_offline_is_none():
    found = describe(simple(arrival_s=np.array([2.0, 2.0])))
    undefined = ("rate_rps", "iat_cv", "iat_cv_5min_median", "dispersion_1s", "input_tokens_per_s")
    assert all(found[key] is None for key in undefined)
    assert found["sessions"] is None
    assert found["prefix"] is None


def test_variation_of_windows_leaves_out_gaps_that_cross_them_and_thin_windows():
    regular = np.arange(40) * 1.0
    bursty = 1000 + np.concatenate([[0.0], np.cumsum(np.tile([0.1, 1.9], 20))])
    thin = 2000 + np.arange(5)
    found = window_cvs(np.concatenate([regular, bursty, thin]), 500.0)
    assert found[0] == pytest.approx(0.0, abs=1e-9)
    assert found[1] == pytest.approx(0.9)
    assert len(found) == 2
