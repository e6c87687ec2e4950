"""What the questions of ``apexsim plan`` have in common: a file or its mapping, and the files that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from apexsim.errors import InputError
from apexsim.spec.base import Strict, load_yaml, parse

Problem = TypeVar("Problem", bound=Strict)


def read_question(
    kind: type[Problem], source: Problem | Mapping[str, Any] | Path | str, name: str
) -> tuple[Problem, Path, str]:
    """(the question, the folder that its paths are seen from, what errors call it: the file, or ``name``).

    Raises:
        InputError: the file, a key or a value that cannot be.
    """
    if isinstance(source, str | Path):
        return parse(kind, load_yaml(source), source=str(source)), Path(source).parent, str(source)
    return source if isinstance(source, kind) else parse(kind, source, source=name), Path(), name


def beside(folder: Path, path: str) -> Path:
    """A path of a file, as seen from that file's folder where it is there, else from the working folder."""
    return folder / path if (folder / path).exists() else Path(path)


def read_csv(path: Path) -> pd.DataFrame:
    """The table of a CSV file; ``#`` begins a comment.

    Raises:
        InputError: it is not there, or no CSV.
    """
    try:
        return pd.read_csv(path, comment="#", skipinitialspace=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: cannot be read as CSV: {' '.join(str(problem).split())}") from None
