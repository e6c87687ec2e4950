"""Every error that a user can cause, and the exit code that it ends the program with.

    ApexsimError
    ├── UsageError        2   a flag, a name, an SLO, an output that cannot be written
    ├── NoFeasiblePlan    3   nothing fits, or no plan meets the SLO
    ├── Regression        4   a plan got worse, or an error bound was exceeded
    └── InputError        5   a file that cannot be read, or that says something impossible

A message is one line: which file, which key, which value, what is allowed.
Anything else that is raised is a bug (exit code 1) and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ApexsimError(Exception):
    """A mistake that the user can mend. ``exit_code`` is what the command line ends with."""

    exit_code = 1


class UsageError(ApexsimError):
    """A flag, a name or an SLO that cannot be understood, or an output that cannot be written."""

    exit_code = 2


class NoFeasiblePlan(ApexsimError):
    """No plan fits the devices or meets the SLO; the message holds the nearest miss and what binds."""

    exit_code = 3


class Regression(ApexsimError):
    """A chosen plan or a validation error is worse than its bound."""

    exit_code = 4


class InputError(ApexsimError):
    """An input file that is missing, truncated or holds an impossible value."""

    exit_code = 5


def unknown_name(kind: str, name: str, allowed: Iterable[str], hints: Iterable[str] = ()) -> str:
    """One line for a name that nobody knows: what it was, the nearest valid name, what is allowed.

    Args:
        hints: other valid names, which may be the nearest one but are not listed.
    """
    names = sorted(allowed)
    valid = [*names, *sorted(hints)]
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in valid], n=1, cutoff=0.5)
    nearest = next((n for n in valid if close and n.lower() == close[0]), None)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    listed = ", ".join(names) if len(names) <= 12 else ", ".join(names[:12]) + f", … ({len(names)} in all)"
    return f"unknown {kind} {name!r}{hint} (known: {listed})"
