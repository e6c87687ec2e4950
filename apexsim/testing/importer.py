"""The contract of an importer of result files, as tests. A plug-in inherits it:

    from apexsim.testing.importer import ImporterContract

    class TestMine(ImporterContract):
        importers = ("mine",)          # names in the registry; all registered ones where left out

An importer must: know its own example and nobody else's; give cells that the format of a validation set takes, with a
measured value in SI units; agree with itself about its requests; and meet a cut file with an error of one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from apexsim import registry
from apexsim.errors import InputError
from apexsim.validation.columns import is_metric, kind_of, read_cell
from apexsim.validation.importers.base import ImportedRun, Importer
from apexsim.validation.imports import import_file
from apexsim.validation.sets import read_table

GIVEN = {
    "model": "meta-llama/Llama-3.1-8B-Instruct", "device": "h100-sxm", "load": "offline", "requests": "2",
    "input_tokens": "100", "output_tokens": "5",
}  # fmt: skip
"""What makes a row whole, whatever its file leaves open."""


class ImporterContract:
    """What ``apexsim import`` relies on."""

    importers: ClassVar[tuple[str, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.importers or registry.names("importers"))

    def test_it_says_what_it_is(self, name: str) -> None:
        reader = load(name)
        assert reader.name == name
        assert reader.about

    def test_it_knows_its_example_and_no_other(self, name: str, tmp_path: Path) -> None:
        for other in registry.names("importers"):
            text = written(other, tmp_path / other).read_text("utf-8")
            assert load(name).matches(text) == (other == name)

    @pytest.mark.parametrize("text", ["", "{}", "[]", "{", "run,model\n", "no such file\n", '{"benchmarks": []}'])
    def test_it_does_not_take_anything_else(self, name: str, text: str) -> None:
        assert not load(name).matches(text)

    def test_cells_are_columns_with_values_that_they_take(self, name: str, tmp_path: Path) -> None:
        for run in read(name, tmp_path):
            assert any(is_metric(column) for column in run.cells)
            for column, value in run.cells.items():
                assert kind_of(column) is not None, column
                if column != "engine":  # a backend is an engine's name or dropped
                    read_cell(column, str(value))

    def test_times_are_seconds(self, name: str, tmp_path: Path) -> None:
        for run in read(name, tmp_path):
            times = [value for column, value in run.cells.items() if column.endswith("_s") and "tokens" not in column]
            assert all(0 < value < 1e3 for value in times)

    def test_requests_are_sorted_and_as_many_as_it_says(self, name: str, tmp_path: Path) -> None:
        for run in read(name, tmp_path):
            if run.requests is None:
                continue
            assert run.cells["requests"] == len(run.requests)
            assert run.requests.arrival_s[0] == 0
            assert (np.diff(run.requests.arrival_s) >= 0).all()
            assert (run.requests.input_tokens >= 1).all()
            assert (run.requests.output_tokens >= 1).all()

    def test_its_runs_make_a_set_that_can_be_read_back(self, name: str, tmp_path: Path) -> None:
        example = written(name, tmp_path / "in")
        done = import_file(example, tmp_path / "out", name="mine", cells=GIVEN)
        table = read_table(tmp_path / "out" / "runs.csv")
        assert [row.name for row in table.rows] == list(done.runs)
        assert done.missing == {}
        for row, run in zip(table.rows, read(name, tmp_path / "again"), strict=True):
            for column in filter(is_metric, run.cells):
                assert row.get(column) == pytest.approx(run.cells[column], rel=1e-6)

    def test_a_cut_file_is_an_error_of_one_line(self, name: str, tmp_path: Path) -> None:
        example = written(name, tmp_path)
        text = example.read_text("utf-8")
        example.write_text(text[: len(text) // 2])
        said = complaint(example, tmp_path / "out", name)
        # half of a text of lines may still be one
        assert said is None or (str(example) in said and "\n" not in said)


def load(name: str) -> Importer:
    """An importer by its name in the registry."""
    reader: Importer = registry.load("importers", name)()
    return reader


def complaint(file: Path, folder: Path, name: str) -> str | None:
    """What an import of ``file`` says against it; None where it takes it."""
    try:
        import_file(file, folder, format=name, cells=GIVEN)
    except InputError as problem:
        return str(problem)
    return None


def written(name: str, folder: Path) -> Path:
    """The example of an importer as files in a folder; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    files = load(name).example()
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return folder / next(iter(files))


def read(name: str, folder: Path) -> list[ImportedRun]:
    """The runs of an importer's example."""
    path = written(name, folder)
    return load(name).read(path, path.read_text("utf-8"))
