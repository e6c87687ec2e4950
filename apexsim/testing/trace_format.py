"""The contract of a trace format, as tests. A plug-in inherits it:

    from apexsim.testing.trace_format import TraceFormatContract

    class TestMine(TraceFormatContract):
        formats = ("mine",)          # names in the registry; all registered ones where left out

A format must: be recognised by its header, by itself alone; give requests sorted by arrival, with at least one token
either way; account for every row (kept, or dropped with a reason); read a zipped file as the plain one; read twice the
same; and meet an empty file with an error of one line. Its own ``example()`` is what it is tried on.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from apexsim import registry
from apexsim.errors import InputError
from apexsim.workload.formats.base import TraceFormat
from apexsim.workload.formats.source import header
from apexsim.workload.read import read_trace
from apexsim.workload.table import from_table, to_table
from apexsim.workload.trace import Trace

COLUMNS = ("arrival_s", "input_tokens", "output_tokens", "session", "shared_prefix_tokens", "class_code")


class TraceFormatContract:
    """What the reader, the cache and the engine rely on."""

    formats: ClassVar[tuple[str, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.formats or registry.names("formats"))

    def test_it_says_what_it_is(self, name: str) -> None:
        reader = load(name)
        assert reader.name == name
        assert reader.header
        assert isinstance(reader.is_log, bool)

    def test_its_example_is_known_by_its_header_and_to_no_other_format(self, name: str, tmp_path: Path) -> None:
        example = written(name, tmp_path)
        known = [other for other in registry.names("formats") if load(other).matches(header(example), example)]
        assert known == [name]
        assert columns(read_trace(example)) == columns(load(name).read(example))

    def test_no_example_of_another_format_is_taken_for_it(self, name: str, tmp_path: Path) -> None:
        for other in registry.names("formats"):
            example = written(other, tmp_path / other)
            assert load(name).matches(header(example), example) == (other == name)

    def test_requests_are_sorted_and_have_tokens(self, name: str, tmp_path: Path) -> None:
        trace = load(name).read(written(name, tmp_path))
        assert np.isfinite(trace.arrival_s).all()
        assert (trace.arrival_s >= 0).all()
        assert (np.diff(trace.arrival_s) >= 0).all()
        assert (trace.input_tokens >= 1).all()
        assert (trace.output_tokens >= 1).all()

    def test_columns_have_their_type_and_one_entry_a_request(self, name: str, tmp_path: Path) -> None:
        trace = load(name).read(written(name, tmp_path))
        for column in COLUMNS:
            values = getattr(trace, column)
            assert values is None or values.shape == (len(trace),)
            assert values is None or values.dtype == (np.float64 if column == "arrival_s" else np.int64)
        if trace.class_code is not None:
            assert set(np.unique(trace.class_code)) <= set(range(len(trace.classes)))
        if trace.hash_ids is not None:
            assert trace.hash_offsets is not None
            assert trace.hash_offsets.shape == (len(trace) + 1,)
            assert trace.hash_offsets[-1] == len(trace.hash_ids)
            assert trace.hash_block_tokens >= 1

    def test_every_row_is_kept_or_dropped_with_a_reason(self, name: str, tmp_path: Path) -> None:
        reader = load(name)
        if not reader.is_log:
            pytest.skip(f"{name} draws requests from statistics: rows are no requests")
        example = written(name, tmp_path)
        lines = [line for line in example.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = len(lines) - (0 if lines[0].startswith("{") else 1)
        trace = reader.read(example)
        assert len(trace) + sum(trace.dropped.values()) == rows
        assert all(reason and count > 0 for reason, count in trace.dropped.items())

    def test_a_zipped_file_reads_as_the_plain_one(self, name: str, tmp_path: Path) -> None:
        plain = written(name, tmp_path)
        zipped = plain.with_name(plain.name + ".gz")
        zipped.write_bytes(gzip.compress(plain.read_bytes()))
        assert columns(read_trace(zipped)) == columns(read_trace(plain))

    def test_reading_twice_gives_the_same(self, name: str, tmp_path: Path) -> None:
        example = written(name, tmp_path)
        assert columns(load(name).read(example)) == columns(load(name).read(example))

    def test_it_survives_the_cache(self, name: str, tmp_path: Path) -> None:
        trace = load(name).read(written(name, tmp_path))
        again = from_table(to_table(trace))
        assert columns(again) == columns(trace)
        assert (again.dropped, again.notes, again.classes) == (trace.dropped, trace.notes, trace.classes)

    def test_an_empty_file_is_an_error_of_one_line(self, name: str, tmp_path: Path) -> None:
        example = written(name, tmp_path)
        example.write_text("", encoding="utf-8")
        with pytest.raises(InputError) as caught:
            load(name).read(example)
        assert "\n" not in str(caught.value)
        assert str(example) in str(caught.value)


def load(name: str) -> TraceFormat:
    """A reader by its name in the registry."""
    reader: TraceFormat = registry.load("formats", name)()
    return reader


def written(name: str, folder: Path) -> Path:
    """The example of a format as files in a folder; the path of the trace itself."""
    folder.mkdir(parents=True, exist_ok=True)
    files = load(name).example()
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return folder / next(iter(files))


def columns(trace: Trace) -> dict[str, object]:
    """Everything that two equal traces share, for comparison; names of files are left out."""
    arrays = (*COLUMNS, "hash_ids", "hash_offsets")
    return {name: None if (value := getattr(trace, name)) is None else value.tolist() for name in arrays} | {
        "classes": trace.classes,
        "dropped": dict(trace.dropped),
        "hash_block_tokens": trace.hash_block_tokens,
    }
