"""The tables of README.md and docs/ that are made from data, so that they cannot go stale: a test compares them.

    python benchmarks/doc_tables.py            print all of them
    python benchmarks/doc_tables.py --write    put them between their marks
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from apexsim.cost.coefficients import KernelFile, load
from apexsim.engine.schedulers import PRESETS, Policy
from apexsim.spec.catalog import device_names, profile_folder
from benchmarks import attention_tables, host_tables, loop_tables, network_tables, power_tables, precision_tables

ROOT = Path(__file__).parents[1]
MARKED = r"(<!-- table: {name} -->\n)(.*?)(<!-- end of table -->)"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    cells = [tuple(header), *map(tuple, rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]]) + "\n"


def held_out() -> str:
    """Errors of the committed coefficient files on rows that their fits did not see: one line a file, by device."""
    header = ("operator", "dtype", "engine", "fits", "rows", "held out", "median", "p90", "worst", "left out")
    parts = []
    for device in device_names():
        files = kernel_files(device)
        if files:
            parts.append(f"### {device}\n\n{table(header, map(_errors, files))}")
    return "\n".join(parts)


def kernel_files(device: str, pattern: str = "*") -> list[KernelFile]:
    """Its coefficient files, by name."""
    return [load(path) for path in sorted((profile_folder(device) / "kernels").glob(f"{pattern}.json"))]


def _errors(file: KernelFile) -> tuple[str, ...]:
    fits = file.fits
    return (
        file.operator.replace("_", " "), file.dtype, f"{file.engine} {file.engine_version}", str(len(fits)),
        f"{sum(fit.rows for fit in fits):,}", f"{sum(fit.held_out['n'] for fit in fits):,}",
        _range([fit.held_out["median"] for fit in fits]), _range([fit.held_out["p90"] for fit in fits]),
        _range([max(fit.held_out["worst"] for fit in fits)]), str(sum(fit.beyond_roofline for fit in fits)),
    )  # fmt: skip


def _range(shares: list[float]) -> str:
    """``3.0 %``, or ``2.3–4.3 %`` where fits differ."""
    low, high = (f"{100 * value:.1f}" for value in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low}–{high} %"


def accuracy(device: str = "h100-sxm", engine: str = "vllm") -> str:
    """The short form for one engine."""
    files = kernel_files(device, f"*.{engine}")
    header = ("operator", "dtype", "held out", "median", "p90", "worst")
    return table(header, ([row[0], row[1], *row[5:9]] for row in map(_errors, files)))


def schedulers() -> str:
    """Knobs of the scheduler presets."""
    header = (
        "preset", "`max_num_batched_tokens`", "`max_num_seqs`", "prefill and decode in one iteration",
        "prompts are cut", "budget counts decodes", "whole length reserved", "of a pipeline, it limits",
        "chunks follow", "about",
    )  # fmt: skip
    return table(header, (_rules(PRESETS[name]) for name in sorted(PRESETS)))


LIMITED = {"replica": "the replica", "batch": "each batch", "share": "the replica, with equal shares"}
"""What ``max_num_seqs`` limits."""


def _rules(policy: Policy) -> tuple[str, ...]:
    counted = policy.mix and not policy.free_decodes
    rules = (policy.mix, policy.chunked, counted, policy.reserve)
    return (
        f"`{policy.preset}`", str(policy.max_num_batched_tokens), str(policy.max_num_seqs),
        *("yes" if rule else "no" for rule in rules), LIMITED[policy.seqs_of],
        "yes" if policy.chunked and policy.follow else "no", policy.about,
    )  # fmt: skip


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "accuracy": ("README.md", accuracy),
    "kernels": ("docs/kernels.md", held_out),
    "scheduler presets": ("docs/engine.md", schedulers),
    **host_tables.TABLES,
    **power_tables.TABLES,
    **loop_tables.TABLES,
    **attention_tables.TABLES,
    **precision_tables.TABLES,
    **network_tables.TABLES,
}
"""Name in the mark -> file, and what makes the table."""


def written(name: str) -> str:
    """The table as it stands in its file."""
    file, _ = TABLES[name]
    found = re.search(MARKED.format(name=re.escape(name)), (ROOT / file).read_text("utf-8"), re.DOTALL)
    assert found is not None, f"{file} has no mark for the table of {name}"
    return found.group(2).strip() + "\n"


def write(name: str) -> None:
    """Put the table into its file."""
    file, make = TABLES[name]
    text = (ROOT / file).read_text("utf-8")
    pattern = MARKED.format(name=re.escape(name))
    path = ROOT / file
    path.write_text(re.sub(pattern, lambda m: f"{m.group(1)}\n{make()}\n{m.group(3)}", text, flags=re.DOTALL), "utf-8")


def main() -> None:
    for name, (file, make) in TABLES.items():
        if "--write" in sys.argv[1:]:
            write(name)
        print(f"## {name} ({file})\n\n{make()}")


if __name__ == "__main__":
    main()
