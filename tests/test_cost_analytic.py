"""Analytic kernels: few rows cost the read of their weights, on every device and for every dtype that it runs."""

from __future__ import annotations

import numpy as np
import pytest

from apexsim.cost.kernels import AnalyticKernels, CalibratedKernels
from apexsim.spec import catalog
from apexsim.spec.dtypes import WeightDtype
from apexsim.spec.formats import weight_bytes

DTYPES: tuple[WeightDtype, ...] = (
    "bf16", "fp16", "fp8", "fp8-block", "int8", "w8a16", "w4a16", "w4a8", "nvfp4", "mxfp4",
)  # fmt: skip
WIDE, DEEP = 28672, 8192
FEW_INT8_UNITS = ("b300-sxm", "gb300")
"""Blackwell Ultra multiplies int8 at 19 operations a byte of bandwidth: eight padded rows are bound by that."""


@pytest.mark.parametrize("device", catalog.device_names())
def test_one_row_costs_the_read_of_the_weights(device: str) -> None:
    """Decode is bound by memory on every device; padding to whole tiles must not make it compute bound."""
    kernels = AnalyticKernels(catalog.device(device))
    reached = kernels.profile.efficiency
    for dtype in filter(kernels.profile.supports, DTYPES):
        if device in FEW_INT8_UNITS and kernels.profile.executes(dtype) == "int8":
            continue
        read = weight_bytes(dtype) * WIDE * DEEP / (kernels.profile.memory_bandwidth * reached.memory)
        seconds = float(kernels.gemm(1, WIDE, DEEP, dtype).seconds) - reached.launch_s
        assert read <= seconds * (1 + 1e-9), dtype
        assert seconds <= 1.25 * read, (dtype, seconds / read)


@pytest.mark.parametrize("device", catalog.device_names())
@pytest.mark.parametrize(("n", "k"), [(WIDE, DEEP), (8192, 8192), (2560, 8192)])
def test_fewer_bits_are_never_slower_at_one_row(device: str, n: int, k: int) -> None:
    kernels = AnalyticKernels(catalog.device(device))
    sixteen = "bf16" if kernels.profile.supports("bf16") else "fp16"
    plain = kernels.gemm(1, n, k, sixteen).seconds
    for dtype in filter(kernels.profile.supports, DTYPES):
        assert kernels.gemm(1, n, k, dtype).seconds <= plain, dtype


@pytest.mark.parametrize("device", ["h20-sxm", "mi300x", "h100-sxm"])
def test_more_rows_never_cost_less_across_the_tiles(device: str) -> None:
    kernels = AnalyticKernels(catalog.device(device))
    rows = np.arange(1, 130)
    for n in (1280, 8192):
        for dtype in ("bf16", "fp8", "w4a16"):
            assert (np.diff(kernels.gemm(rows, n, DEEP, dtype).seconds) >= 0).all(), (n, dtype)


@pytest.mark.parametrize("rows", [1, 8, 16, 32, 64])
def test_few_rows_cost_what_an_h100_measured(rows: int) -> None:
    """bf16, one rank's shapes of 8B to 70B models: from four fifths to five fourths of the calibrated price."""
    profile = catalog.device("h100-sxm")
    n, k = np.array([[1280, 8192], [8192, 1024], [7168, 8192], [8192, 8192], [57344, 8192], [4096, 4096]]).T
    ratio = AnalyticKernels(profile).gemm(rows, n, k, "bf16").seconds
    ratio = ratio / CalibratedKernels(profile).gemm(rows, n, k, "bf16").seconds
    assert (np.abs(np.log(ratio)) < np.log(5 / 4) + 1e-3).all(), ratio
