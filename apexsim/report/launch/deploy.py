"""The files that deploy a plan, in one format or in all that fit it, and what has to be said beside them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from apexsim.errors import UsageError, unknown_name
from apexsim.report.launch.command import arguments, hosts_files, options_file, port_of, script
from apexsim.report.launch.dynamo import dynamo
from apexsim.report.launch.kubernetes import kubernetes
from apexsim.report.launch.llmd import llm_d
from apexsim.report.launch.manifest import NODE_LABEL
from apexsim.report.launch.placement import seats
from apexsim.report.launch.platforms import HTTP_PORT, device_of, plug_in, visible_devices
from apexsim.report.launch.realise import Launch, realise
from apexsim.report.launch.routers import router_files, router_notes
from apexsim.report.launch.shell import wrapped
from apexsim.report.launch.table import Release, release_for
from apexsim.spec.files import write_atomically
from apexsim.spec.plan import Plan

Writer = Callable[[Sequence[Launch], Sequence[str], str | None], str]
_MANIFESTS: dict[str, Writer] = {"kubernetes": kubernetes, "dynamo": dynamo, "llm-d": llm_d}
FORMATS = ("command", *_MANIFESTS)


@dataclass(frozen=True)
class Deployment:
    """A plan in the flags of one release of an engine."""

    plan: Plan
    release: Release
    asked_version: str | None
    launches: tuple[Launch, ...]

    @cached_property
    def cannot(self) -> tuple[str, ...]:
        """What the plan asks and this engine cannot do."""
        found = [(launch, line) for launch in self.launches for line in (*launch.cannot, *self._elsewhere(launch))]
        return tuple(f"{self.release.engine} cannot: {line}" for line in self._by_pool(found))

    def notes(self, form: str = "command") -> tuple[str, ...]:
        """What a reader must know; of the router only where the format has this one."""
        asked = self.asked_version
        nearest = () if asked in (None, self.release.version) else (
            f"{self.release.engine} {asked}: its own flags were not read; these are those of {self.release.version}",
        )  # fmt: skip
        found = [(launch, line) for launch in self.launches for line in (*launch.notes, *self._beside(launch))]
        several = len(self.plan.cluster.groups) > 1 and form == "kubernetes"
        nodes = (f"label the nodes with their device: kubectl label node NAME {NODE_LABEL}=DEVICE",) if several else ()
        router = router_notes(self.launches) if form in ("command", "kubernetes") else ()
        models = sorted({launch.model for launch in self.launches})
        names = (f"pools serve checkpoints of several names, {' and '.join(models)}: give them one",)
        return (*nearest, *self._by_pool(found), *router, *nodes, *(names if len(models) > 1 else ()))

    @cached_property
    def defaults(self) -> str:
        """One line: what is not written because the engine does so by itself; "" where all is written."""
        found = dict.fromkeys(line for launch in self.launches for line in launch.defaults)
        return f"as the engine does by itself: {', '.join(found)}" if found else ""

    def said_in(self, form: str = "command") -> tuple[str, ...]:
        """Everything that goes beside the commands of a format, what is missing first."""
        notes = (f"note: {line}" for line in self.notes(form))
        return (*self.cannot, *notes, *((self.defaults,) if self.defaults else ()))

    def heading(self, form: str = "command") -> tuple[str, ...]:
        """The comment at the top of a file."""
        plan = f"{self.plan.id} on {self.plan.cluster}"
        return plan, f"flags of {self.release.engine} {self.release.version}", *self.said_in(form)

    @property
    def command(self) -> str:
        """What a terminal shows: the command of one replica of each pool, and where the rest is."""
        lines = []
        for launch in self.launches:
            times = f", {launch.pool.replicas} times" if launch.pool.replicas > 1 else ""
            lines.append(f"launch ({self.release.engine} {self.release.version}, {launch.name}{times}):")
            lines += [f"  {line}" for line in wrapped(list(map(shlex.quote, arguments(launch, HTTP_PORT))))]
        return "\n".join(lines)

    def text(self, form: str = "command", image: str | None = None) -> str:
        """The script or the manifest.

        Raises:
            UsageError: an unknown format, or one that the plan or the engine does not fit.
        """
        if form not in FORMATS:
            raise UsageError(unknown_name("format", form, FORMATS))
        if form == "command":
            return script(self.launches, self.heading(form))
        return _MANIFESTS[form](self.launches, self.heading(form), image)

    def files(self, form: str | None = None, image: str | None = None) -> dict[str, str]:
        """Name → text of the files of one format, or of every format that fits."""
        found: dict[str, str] = {}
        left_out = self.left_out if form is None else {}
        for name in FORMATS if form is None else (form,):
            if name in left_out:
                continue
            text = self.text(name, image)
            found["launch.sh" if name == "command" else f"{name}.yaml"] = text
            if name == "command":
                found |= self._beside_the_script()
        return found

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Formats that the plan or the engine does not fit → why."""
        found: dict[str, str] = {}
        for name in FORMATS:
            try:
                self.text(name)
            except UsageError as refused:
                found[name] = str(refused)
        return found

    def save(self, folder: Path | str, form: str | None = None, image: str | None = None) -> tuple[Path, ...]:
        """Write the files; UsageError where the folder cannot be written."""
        written = []
        for name, text in self.files(form, image).items():
            written.append(Path(folder) / name)
            write_atomically(written[-1], text)
        return tuple(written)

    def _beside_the_script(self) -> dict[str, str]:
        places = seats(self.plan)
        options = {
            options_file(launch): yaml.safe_dump(launch.options, sort_keys=False)
            for launch in self.launches
            if launch.options
        }
        return options | hosts_files(self.launches) | router_files(self.launches, places, port_of(places))

    def _elsewhere(self, launch: Launch) -> tuple[str, ...]:
        """The devices that this engine does not run on."""
        device = device_of(launch)
        return (f"device={device}: it does not run there",) if plug_in(self.release.engine, device) is None else ()

    def _beside(self, launch: Launch) -> tuple[str, ...]:
        """What devices of other makers need."""
        device = device_of(launch)
        package = plug_in(self.release.engine, device)
        needs = (f"{self.release.engine} needs its plug-in {package} on {device}",) if package else ()
        if visible_devices(device, (0,)) or launch.pool.devices_per_replica >= launch.plan.cluster.devices_per_node:
            return needs
        return (*needs, f"no variable tells processes on {device} their devices: set that of its cores")

    def _by_pool(self, found: Sequence[tuple[Launch, str]]) -> list[str]:
        """Each line once; with the names of its pools where it is not about all of them."""
        pools: dict[str, list[str]] = {}
        for launch, line in found:
            pools.setdefault(line, []).append(launch.name)
        every = len(self.launches)
        return [line if len(names) == every else f"{line} ({', '.join(names)})" for line, names in pools.items()]


def deploy(plan: Plan, *, engine: str | None = None, version: str | None = None) -> Deployment:
    """The deployment of a plan by an engine: the plan's own and its version where None.

    Raises:
        UsageError: an engine without launch commands here, a version older than those known, a plan that does not
            fit its nodes.
    """
    chosen = engine or plan.engine
    asked = version if version is not None else plan.engine_version if chosen == plan.engine else None
    release = release_for(chosen, asked)
    seats(plan)
    return Deployment(plan, release, asked, realise(plan, release))


def deployed_or_none(plan: Plan) -> Deployment | None:
    """The same; None where the plan's engine has no launch commands here, or none of its version."""
    try:
        return deploy(plan)
    except UsageError:
        return None
