"""Power of kernels and devices: bounds, monotony, transfer between devices, and what an iteration's joules are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexsim.cost.power import ATTENTION, PowerModel, committed_serving, power_model
from apexsim.cost.power_law import PowerLaw, load_power, load_serving
from apexsim.errors import InputError
from apexsim.spec import catalog
from tests.cost_worlds import compiled

SHARES = st.floats(0.0, 1.5)
LAWS = st.builds(
    PowerLaw, compute=st.floats(0.01, 20), compute_power=st.floats(0.25, 1), memory=st.floats(0.01, 10),
    sharpness=st.floats(1, 30), ceiling=st.floats(0.9, 1),
)  # fmt: skip
DEVICES = [name for name in catalog.device_names() if catalog.device(name).tdp_w is not None]
METERED = ("h200-sxm", "b200-sxm", "gb200")


def model_of(name: str) -> PowerModel:
    found = power_model(catalog.device(name))
    assert found is not None
    return found


@given(LAWS, SHARES, SHARES, SHARES)
def test_a_law_lies_between_idle_and_the_limit_and_never_falls(law: PowerLaw, u: float, v: float, more: float) -> None:
    share = float(law.share(u, v))
    assert 0.0 <= share <= law.ceiling
    assert float(law.share(u + more, v)) >= share * (1 - 1e-12)
    assert float(law.share(u, v + more)) >= share * (1 - 1e-12)
    assert float(law.share(0.0, 0.0)) == 0.0


@given(LAWS, st.floats(1e-6, 1e-4))
def test_a_law_counts_bytes_in_proportion_while_little_is_used(law: PowerLaw, v: float) -> None:
    if law.sharpness >= 2:
        assert float(law.share(0.0, 2 * v)) == pytest.approx(2 * float(law.share(0.0, v)), rel=1e-3)


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_that_knows_its_limits_draws_between_them(name: str) -> None:
    power = model_of(name)
    room = power.limit_w - power.idle_w
    compute = "bf16" if "bf16" in catalog.device(name).peak_flops else "fp16"
    for law in power.laws.values():
        uses = np.geomspace(1e-4, 1.0, 9)
        joules = power.running_j(
            law, compute, 2.0, 2.0 * uses[:, None] * catalog.device(name).peak_flops[compute],
            2.0 * uses[None, :] * catalog.device(name).memory_bandwidth,
        )
        assert (joules >= 0).all()
        assert (joules <= 2.0 * room * (1 + 1e-12)).all()
    assert 0 < float(power.communicating_j(1.0)) < room


@given(st.floats(1e-6, 10), st.floats(0, 1e15), st.floats(0, 1e12), st.integers(2, 50))
@settings(max_examples=50)
def test_joules_of_many_equal_kernels_are_the_sum_of_each(s: float, flops: float, moved: float, count: int) -> None:
    power = model_of("h100-sxm")
    law = power.law("gemm", "bf16")
    one = float(power.running_j(law, "bf16", s, flops, moved))
    assert float(power.running_j(law, "bf16", count * s, count * flops, count * moved)) == pytest.approx(count * one)


def test_nothing_that_runs_for_no_time_takes_energy() -> None:
    power = model_of("h100-sxm")
    assert float(power.running_j(power.law("gemm", "bf16"), "bf16", 0.0, 0.0, 0.0)) == 0.0


@pytest.mark.parametrize("name", ["mi300x", "a100-sxm-80gb", "v100-sxm2-32gb", "l40s", "tpu-v5p"])
def test_a_device_nobody_metered_draws_the_same_share_at_what_its_gemms_reach(name: str) -> None:
    """A second of large 16-bit GEMMs at the reached rate, against the metered device's."""
    profile = catalog.device(name)
    if profile.tdp_w is None:
        assert power_model(profile) is None
        return
    assert profile.power_carries == "shares"
    shares = []
    for device in (name, profile.power_from):
        known, power = catalog.device(device), model_of(device)
        dtype = "bf16" if "bf16" in known.peak_flops else "fp16"
        flops = known.peak_flops[dtype] * known.efficiency.gemm[dtype]
        joules = power.running_j(power.law("gemm", "bf16"), dtype, 1.0, flops, 0.0)
        shares.append(float(joules) / (power.limit_w - power.idle_w))
    assert shares[0] == pytest.approx(shares[1])


def test_between_equal_dies_a_byte_costs_equal_joules() -> None:
    """H100 and H200 differ in memory: at the same bytes/s, far from the limit, they draw the same above idle."""
    h100, h200 = model_of("h100-sxm"), model_of("h200-sxm")
    assert h100.metered == h200.metered == "h200-sxm"
    law = h100.law("gemm", "bf16")
    for rate in (1e10, 1e11):
        joules = [float(power.running_j(law, "bf16", 1.0, 0.0, rate)) for power in (h100, h200)]
        assert joules[0] == pytest.approx(joules[1], rel=1e-3)


def test_a_dtype_nobody_metered_takes_the_nearest_law() -> None:
    power = model_of("h200-sxm")
    assert power.law("gemm", "fp8") is power.law("gemm", "fp8-block")
    assert power.law("gemm", "w4a16") is power.law("gemm", "bf16")
    assert power.law("decode_attention", "int4") is power.law("decode_attention", "fp8")
    assert power.law("grouped_gemm", "mxfp4") is power.law("grouped_gemm", "bf16")


def test_a_metered_device_has_its_own_laws_and_any_other_says_whose_it_takes() -> None:
    for name in METERED:
        assert model_of(name).metered == catalog.device(name).power_from == name
    notes = compiled("Llama-3.1-8B", "mi300x").confidence.notes
    assert any("power" in note and "h200-sxm" in note for note in notes)
    assert not any(note.startswith("power") for note in compiled("Llama-3.1-8B", "h200-sxm").confidence.notes)


def test_attention_is_scaled_for_serving_and_capped_by_the_board() -> None:
    factor, power = committed_serving().attention, model_of("h200-sxm")
    for fit in load_power(catalog.profile_folder("h200-sxm") / "power.json").fits:
        ceiling = power.laws[fit.operator, fit.dtype].ceiling
        assert ceiling == pytest.approx(fit.law.ceiling * (factor if fit.operator in ATTENTION else 1.0))
    law = power.law("decode_attention", "bf16")
    joules = power.running_j(law, "bf16", 1.0, 1e14, 4.5e12)
    assert float(joules) <= power.limit_w - power.idle_w


def test_a_larger_batch_takes_more_power_and_fewer_joules_a_token() -> None:
    pool = compiled("Llama-3.1-8B")
    decode, sizes = pool.accounting.decode, np.arange(1, 257)
    seconds = decode[:4, sizes].sum(axis=0)
    watts = decode[5, sizes] / seconds
    per_token = (decode[5, sizes] + pool.accounting.power.idle_w * seconds) / sizes
    assert watts[-1] > watts[0]
    assert per_token[-1] < 0.1 * per_token[0]


def test_collectives_draw_more_than_idle_and_less_than_the_kernels_around_them() -> None:
    pool = compiled("Llama-3.1-70B", tp=8)
    parts = pool.accounting.decode[:, 64]
    sending = float(pool.accounting.power.communicating_j(parts[3])) / parts[3]
    others = (parts[5] - sending * parts[3]) / (parts[0] + parts[1] + parts[2])
    assert 0 < sending < others


@pytest.mark.parametrize("text", ["", "{", "[]", '{"source": 1}', '{"fits": [{"law": {"compute": 1}}]}'])
def test_a_broken_power_file_is_one_line(tmp_path: Path, text: str) -> None:
    for load, name in ((load_power, "power.json"), (load_serving, "serving.json")):
        path = tmp_path / name
        path.write_text(text)
        load.cache_clear()
        with pytest.raises(InputError) as error:
            load(path)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        load_power(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", METERED)
def test_committed_laws_are_whole(name: str) -> None:
    """Every metered operator has a 16-bit law, and a file written back is the same file."""
    file = load_power(catalog.profile_folder(name) / "power.json")
    laws = {(fit.operator, fit.dtype) for fit in file.fits}
    assert {(operator, "bf16") for operator in ("gemm", "grouped_gemm", *ATTENTION)} <= laws
    assert len(laws) == len(file.fits)
    assert all(fit.rows >= 100 and 0 <= fit.held_out["median"] < 1 for fit in file.fits)
    assert file.to_json() == (catalog.profile_folder(name) / "power.json").read_text()
