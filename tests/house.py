"""Where the repository is and what belongs to it, for the tests of the house rules."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def sources(*folders: str) -> Iterator[Path]:
    """Python files of some top-level folders, sorted."""
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def tracked() -> list[Path]:
    """Every text file that git tracks; the test is skipped where there is no checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout here")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    binary = {".gz", ".png", ".parquet"}
    files = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in files if path.suffix not in binary and path.is_file()]
