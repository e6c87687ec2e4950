"""What happens before the first test."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

TOGETHER = pytest.StashKey[TemporaryDirectory[str]]()
"""A folder that all test processes see, for as long as the one that started them lives."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist, in the process that starts the others."""
    folder = node.config.stash.setdefault(TOGETHER, None) or TemporaryDirectory(prefix="apexsim-tests-")
    node.config.stash[TOGETHER] = folder
    node.workerinput["together"] = folder.name


def pytest_sessionstart(session: pytest.Session) -> None:
    """Test processes share the work of compiling the engine; one alone compiles what its tests ask for."""
    given = getattr(session.config, "workerinput", None)
    if given is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0"):
        from tests.compiling import share_compiling  # some seconds, for this alone

        share_compiling(Path(given["together"]))
