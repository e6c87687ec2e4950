"""The table of flags: which flag of which release realises which key of a plan, and which names a release knows.

Data: ``flags.yaml`` (the mapping) and ``known/`` (names of flags as they were read in the released packages).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter

from apexsim.errors import UsageError, unknown_name
from apexsim.spec.base import Strict, load_file, load_yaml

FOLDER = Path(__file__).parent


class Row(Strict):
    """One flag for one key of a plan; the head of ``flags.yaml`` explains the fields."""

    field: str
    flag: str = ""
    since: str | None = None
    until: str | None = None
    only: tuple[str, ...] = Field((), strict=False)
    words: dict[str, str | bool | None] = Field({})
    default: str | int | bool | None = None
    value: str = ""
    note: str = ""
    cannot: str = ""

    def holds_in(self, version: str) -> bool:
        """Whether a release has the flag."""
        number = numbers(version)
        return (self.since is None or numbers(self.since) <= number) and (
            self.until is None or number < numbers(self.until)
        )

    def is_about(self, value: str) -> bool:
        return not self.only or value in self.only


class _Release(Strict):
    version: str
    read_from: str


class _Names(Strict):
    inside: tuple[str, ...] = Field(alias="in", strict=False)
    names: tuple[str, ...] = Field(strict=False)


class _Known(Strict):
    engine: str
    releases: tuple[_Release, ...] = Field(strict=False)
    flags: tuple[_Names, ...] = Field(strict=False)


@dataclass(frozen=True)
class Release:
    """A release of an engine, with the names of all its flags that were read there."""

    engine: str
    version: str
    flags: frozenset[str]
    read_from: str

    def has(self, flag: str) -> bool:
        """Whether it knows a flag; keys of a flag's JSON go by the flag, environment variables are not listed."""
        if flag.isupper():
            return True
        return (flag.partition(".")[0] if flag.startswith("--") else flag) in self.flags


def numbers(version: str) -> tuple[int, ...]:
    """``0.8.5.post1`` as (0, 8, 5, 1), which orders releases."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


@cache
def _mapping() -> dict[str, Any]:
    return load_yaml(FOLDER / "flags.yaml")


@cache
def rows(engine: str) -> tuple[Row, ...]:
    """Every row of an engine, in the order in which a command is written."""
    mapping = _mapping()
    return TypeAdapter(tuple[Row, ...]).validate_python((*mapping[engine], *mapping["any"]))


def not_a_flag() -> dict[str, str]:
    """Keys of a plan that no flag is about → what they are about."""
    found: dict[str, str] = _mapping()["not_a_flag"]
    return found


def engines() -> tuple[str, ...]:
    """Engines that have a column of the table, sorted."""
    return tuple(sorted(set(_mapping()) - {"any", "not_a_flag"}))


@cache
def releases(engine: str) -> tuple[Release, ...]:
    """The releases of an engine whose flags were read, the oldest first."""
    known = load_file(_Known, FOLDER / "known" / f"{engine}.yaml")
    found = (
        Release(
            engine,
            release.version,
            frozenset(name for names in known.flags if release.version in names.inside for name in names.names),
            release.read_from,
        )
        for release in known.releases
    )
    return tuple(sorted(found, key=lambda release: numbers(release.version)))


def release_for(engine: str, version: str | None) -> Release:
    """The release whose flags a command is written in: the newest known, or the newest up to ``version``.

    Where every known release of the version's own series (0.15 of 0.15.0) is newer, it is the oldest of that series.

    Raises:
        UsageError: an engine that has no launch command here, or a version older than all that are known.
    """
    if engine not in engines():
        raise UsageError(unknown_name("engine to launch", engine, engines()))
    known = releases(engine)
    if version is None:
        return known[-1]
    if re.match(r"\d+\.\d+", version) is None:
        raise UsageError(f"engine version {version!r}: must be a version, as {known[-1].version} is")
    asked = numbers(version)
    series = [release for release in known if numbers(release.version)[:2] == asked[:2]]
    fitting = [release for release in series or known if numbers(release.version) <= asked] or series[:1]
    if not fitting:
        listed = ", ".join(release.version for release in known)
        raise UsageError(f"{engine} {version}: its flags are not known (known: {listed}; --engine-version picks one)")
    return fitting[-1]
