"""One pool of a plan as a launch of an engine's release: flags, environment, files, and what is left unsaid by them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from apexsim.report.launch.settings import VALUES, Context, Setting, settings
from apexsim.report.launch.table import Release, Row, not_a_flag, rows
from apexsim.spec.plan import Plan, Pool

Argument = str | int | float | list[str] | None


MOOT = {
    "speculative.method": (
        "speculative.num_speculative_tokens", "speculative.draft_model", "speculative.draft_tensor_parallel_size"
    ),
    "kv_tiers.tier": ("kv_tiers.write",),
}  # fmt: skip
"""Key that an engine refuses → keys that say nothing without it."""


@dataclass(frozen=True)
class Launch:
    """How one replica of a pool is started.

    Attributes:
        name: of the pool: its role, with its place where several have it.
        model: the checkpoint that is served.
        flags: flag → its argument; None: the flag alone. JSON flags hold a mapping's text.
        environment: variables that must be set.
        options: what goes into the YAML file of trtllm-serve.
        defaults: keys that are as the engine does unless it is told, ``pp=1``.
        notes: what a reader must know.
        cannot: what the plan asks and the engine cannot do, one line each.
    """

    plan: Plan
    index: int
    name: str
    release: Release
    model: str
    flags: dict[str, Argument] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()

    @property
    def pool(self) -> Pool:
        return self.plan.pools[self.index]


def realise(plan: Plan, release: Release) -> tuple[Launch, ...]:
    """The launches of a plan's pools, in the plan's order, in the flags of one release."""
    roles = [pool.role for pool in plan.pools]
    return tuple(
        _Writer(plan, index, role if roles.count(role) == 1 else f"{role}{roles[:index].count(role)}", release).launch()
        for index, role in enumerate(roles)
    )


class _Writer:
    """Goes through the settings of a pool and writes down what each of them comes to."""

    def __init__(self, plan: Plan, index: int, name: str, release: Release) -> None:
        self._context = Context.of(plan, plan.pools[index])
        self._release = release
        self._rows = rows(release.engine)
        self._json: dict[str, dict[str, Any]] = {}
        self._defaults: list[str] = []
        self._notes: list[str] = []
        self._cannot: list[str] = []
        self._moot: tuple[str, ...] = ()  # keys that mean nothing, because the one that switches them on was refused
        self._launch = Launch(plan, index, name, release, self._context.checkpoint.name)

    def launch(self) -> Launch:
        silent = not_a_flag()
        for setting in settings(self._context):
            if setting.value is None or setting.field in silent or setting.field in self._moot:
                continue
            self._set(setting)
        flags = self._launch.flags | {flag: json.dumps(keys) for flag, keys in self._json.items()}
        return replace(
            self._launch, flags=flags, defaults=tuple(dict.fromkeys(self._defaults)),
            notes=tuple(dict.fromkeys(self._notes)), cannot=tuple(dict.fromkeys(self._cannot)),
        )  # fmt: skip

    def _set(self, setting: Setting) -> None:
        about = [row for row in self._rows if setting.field == row.field or setting.field.startswith(f"{row.field}.")]
        fitting = [row for row in about if row.is_about(setting.word)]
        there = [row for row in fitting if row.holds_in(self._release.version)]
        if setting.field == "weights" and not any(row.flag for row in there) and self._other_checkpoint(setting):
            return
        for row in there:
            self._apply(row, setting)
        if not there and setting.asked:
            self._refuse(setting, _why_not(about, fitting, self._release))

    def _other_checkpoint(self, setting: Setting) -> bool:
        """Serve a checkpoint that is published in the format, where the engine cannot make it."""
        name = self._context.checkpoint.in_format(setting.word)
        if name is None:
            return False
        self._launch = replace(self._launch, model=name)
        self._notes.append(f"weights={setting.word}: served from {name}, a checkpoint in that format")
        return True

    def _apply(self, row: Row, setting: Setting) -> None:
        value = setting.value
        if row.value:
            value = VALUES[row.value](replace(self._context, setting=setting))
            if value is None:
                return
        if row.cannot:
            if setting.asked or row.only:
                self._refuse(setting, row.cannot)
            return
        if row.words:
            word = str(value).lower() if isinstance(value, bool) else str(value)
            if word not in row.words:
                if setting.asked:
                    self._refuse(setting, f"{row.flag} knows {', '.join(row.words)}", word)
                return
            value = row.words[word]
        if value is None or (row.default is not None and str(value) == str(row.default)):
            self._defaults.append(setting.shown)
            return
        self._write(row.flag, value)
        if row.note:
            self._notes.append(row.note)

    def _refuse(self, setting: Setting, reason: str, shown: str | None = None) -> None:
        asked = f"{setting.field}={shown}" if shown else setting.shown
        self._cannot.append(f"{asked}: {reason}")
        self._moot += MOOT.get(setting.field, ())

    def _write(self, flag: str, value: Any) -> None:
        assert self._release.has(flag), f"{self._release.engine} {self._release.version} has no {flag}"
        if flag.isupper():
            self._launch.environment[flag] = str(value)
        elif flag.startswith("--") and "." in flag:
            name, _, key = flag.partition(".")
            self._json.setdefault(name, {})[key] = value
        elif flag.startswith("--"):
            self._launch.flags[flag] = None if value == "" or value is True else value
        else:
            inner = self._launch.options
            *groups, last = flag.split(".")
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[last] = value


def _why_not(about: list[Row], fitting: list[Row], release: Release) -> str:
    """Why no row holds: another release has the flag, no flag takes the value, or none is about the key."""
    if fitting:
        row = fitting[0]
        reach = f"from {row.since} on" if row.since and not row.holds_in(release.version) else f"before {row.until}"
        return f"{row.flag} is known {reach}, not in {release.version}"
    known = sorted({word for row in about for word in row.only if not row.cannot})
    if known:
        flags = dict.fromkeys(row.flag for row in about if row.flag)
        return f"no flag says so ({', '.join(flags)} for {', '.join(known)})"
    return "no flag says so"
