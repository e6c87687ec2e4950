"""Hardware profiles: complete, sane, and equal to the figures they were taken from."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from apexsim.errors import InputError
from apexsim.spec import catalog
from apexsim.spec.base import load_file, load_yaml
from apexsim.spec.hardware import HardwareProfile

SPECS = Path(__file__).parents[2] / "shared" / "data" / "hardware_specs.csv"


@pytest.mark.parametrize("name", catalog.device_names())
def test_every_profile_is_sane(name: str) -> None:
    """Ranges that catch a wrong power of ten, a sparse peak, or both directions of a link."""
    profile = catalog.device(name)
    peaks = profile.peak_flops
    assert profile.name == name
    assert 50e12 < peaks["fp16"] < 5e15
    assert peaks.get("bf16", peaks["fp16"]) == peaks["fp16"]
    assert 1 <= peaks.get("fp8", peaks["fp16"]) / peaks["fp16"] <= 2.05
    assert 2 <= peaks.get("fp4", 2 * peaks["fp16"]) / peaks["fp16"] <= 6.1
    assert 15e9 < profile.memory_bytes < 320e9
    assert 0.2e12 < profile.memory_bandwidth < 9e12
    assert profile.scaleup is None or 50e9 < profile.scaleup.bandwidth <= 900e9
    assert profile.pcie_bandwidth is None or 15e9 < profile.pcie_bandwidth <= 450e9
    assert profile.idle_w is None or profile.tdp_w is None or 0.1 < profile.idle_w / profile.tdp_w < 0.3
    assert profile.memory_bytes_source
    assert profile.idle_source
    assert profile.links_source
    assert profile.efficiency.source
    assert profile.provenance.source
    assert (profile.price_usd_per_hour is None) == (profile.price_source == "")


def test_driver_memory_is_taken_where_it_is_known() -> None:
    assert catalog.device("h100-sxm").memory_bytes == 81_559 * 2**20
    assert catalog.device("h200-sxm").memory_bytes == 143_771 * 2**20
    assert catalog.device("gb200").memory_bytes == 185 * 2**30


def test_dtypes_that_a_device_runs() -> None:
    h100, a100, b200, v100 = (
        catalog.device(name) for name in ("h100-sxm", "a100-sxm-80gb", "b200-sxm", "v100-sxm2-32gb")
    )
    assert (h100.executes("fp8-block"), a100.executes("fp8"), b200.executes("nvfp4")) == ("fp8", None, "fp4")
    assert h100.executes("mxfp4") == "bf16"  # weight-only where there are no fp4 units
    assert (b200.executes("mxfp4"), catalog.device("mi355x").executes("mxfp4")) == ("fp8", "fp8")  # times mxfp8
    assert (catalog.device("mi300x").executes("mxfp4"), v100.executes("mxfp4")) == ("bf16", None)
    assert (v100.supports("bf16"), v100.supports("fp16"), v100.executes("w4a16")) == (False, True, "fp16")
    assert (h100.supports_kv("fp8"), a100.supports_kv("fp8"), v100.supports_kv("bf16")) == (True, False, True)


def test_profiles_are_values() -> None:
    first = catalog.device("h100-sxm")
    again = load_file(HardwareProfile, catalog.profile_folder("h100-sxm") / "profile.yaml")
    assert first.model_copy(update={"kernels": ()}) == again
    assert hash(first) == hash(again)
    dumped = first.model_dump(mode="json")
    assert HardwareProfile.model_validate(dumped) == first


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"memory_bandwith": "1TB/s"}, "memory_bandwith: unknown key; did you mean 'memory_bandwidth'?"),
        ({"memory_bandwidth": 3350}, "memory_bandwidth = 3350: 3350 has no unit"),
        ({"peak_flops": {"bf15": "1TFLOP/s"}}, "peak_flops.bf15: unknown key; did you mean 'bf16'?"),
        ({"peak_flops": {}}, "peak_flops = {}"),
        ({"idle_w": 900}, "idle_w = 900"),
        ({"tdp_w": -1}, "tdp_w = -1"),
        ({"provenance": None}, "provenance"),
    ],
)
def test_a_bad_profile_is_one_line(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    data = load_yaml(catalog.profile_folder("h100-sxm") / "profile.yaml")
    (folder / "profile.yaml").write_text(yaml.safe_dump({**data, "name": "mine", **changes}))
    with pytest.raises(InputError) as error:
        catalog.device(folder)
    assert says in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_outside_profile_is_loaded_by_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    data = load_yaml(catalog.profile_folder("h100-sxm") / "profile.yaml")
    (folder / "profile.yaml").write_text(yaml.safe_dump({**data, "name": "mine"}))
    assert catalog.device(folder).name == "mine"
    (folder / "profile.yaml").write_text(yaml.safe_dump({**data, "name": "other"}))
    catalog._load_profile.cache_clear()
    with pytest.raises(InputError, match="must be its folder's"):
        catalog.device(folder)


@pytest.mark.skipif(not SPECS.is_file(), reason="the shared hardware figures are not here")
def test_profiles_hold_the_shared_figures() -> None:
    rows = {row["profile"]: row for row in csv.DictReader(SPECS.open(encoding="utf-8"))}
    assert set(rows) <= set(catalog.device_names())
    columns = {"fp16": "fp16_bf16_tflops", "fp8": "fp8_tflops", "fp4": "fp4_tflops", "int8": "int8_tops"}
    for name, row in rows.items():
        profile = catalog.device(name)
        for dtype, column in columns.items():
            known = bool(row[column]) and "DP4A" not in row[column]
            assert profile.peak_flops.get(dtype) == (  # type: ignore[call-overload]  # a plain str from the table
                pytest.approx(float(row[column]) * 1e12) if known else None
            )
        assert profile.memory_bandwidth == pytest.approx(float(row["mem_bw_gbs"]) * 1e9)
        assert profile.memory_bytes == pytest.approx(float(row["mem_gb"]) * 1e9, rel=0.08)
        assert profile.tdp_w == (float(row["tdp_w"]) if row["tdp_w"] else None)
        assert profile.provenance.confidence == row["confidence"]
