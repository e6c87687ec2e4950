"""Shares of unmeasured devices: from the nearest measured one, by a command, and nothing typed."""

from __future__ import annotations

import pytest

from apexsim.calibration.rows import SYSTEMS
from apexsim.calibration.shares import as_yaml, shares, unmeasured, with_shares
from apexsim.spec import catalog
from apexsim.spec.base import load_yaml

OWN_SOURCE = {"ascend-910c-die", "mi300x", "mi325x", "mi355x"}
"""Devices with figures of their own, from a published benchmark."""


def test_every_device_is_measured_or_names_the_nearest_that_is() -> None:
    named = {profile.name for profile in unmeasured()}
    assert named | set(SYSTEMS) | OWN_SOURCE == set(catalog.device_names())
    assert not named & set(SYSTEMS)
    for profile in unmeasured():
        assert profile.efficiency.nearest in SYSTEMS
        assert profile.efficiency.basis == "estimated"
        assert not profile.kernels


@pytest.mark.parametrize("profile", unmeasured(), ids=lambda profile: profile.name)
def test_the_profiles_hold_what_the_command_derives(profile) -> None:
    """`apexsim calibrate shares --write` mends this."""
    derived = shares(profile)
    assert profile.efficiency == derived
    assert set(derived.gemm) == set(profile.peak_flops)


def test_only_the_section_changes() -> None:
    path = catalog.profile_folder("l4") / "profile.yaml"
    profile = catalog.device("l4")
    changed = with_shares(path.read_text(), profile.efficiency.model_copy(update={"attention": 0.12}))
    assert "  attention: 0.12\n" in changed
    kept = [line for line in path.read_text().splitlines() if not line.startswith("  attention")]
    assert [line for line in changed.splitlines() if not line.startswith("  attention")] == kept


def test_the_section_reads_as_it_was_written(tmp_path) -> None:
    profile = catalog.device("h20-sxm")
    path = tmp_path / "x.yaml"
    path.write_text(as_yaml(profile.efficiency))
    found = load_yaml(path)["efficiency"]
    assert found["nearest"] == "h100-sxm"
    assert found["gemm"] == profile.efficiency.gemm
