"""Prompt and answer lengths of a run whose requests are not listed: from the best description that its set has.

In this order: fixed lengths; a file of samples (``lengths``), which are issued as concatenated random permutations;
a histogram of the answers (``output_histogram``) and percentiles of the prompts (``input_lengths.csv``); else a
spread around the means of the row. Everything is drawn by quantiles, evenly over the law, so that a draw has the
law's mean; only the order is random, seeded by the run's name.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from apexsim.errors import InputError
from apexsim.validation.beside import numbers, read_csv, whole_numbers
from apexsim.validation.columns import Row
from apexsim.workload.lengths import LogNormal
from apexsim.workload.limits import MOST_REQUESTS
from apexsim.workload.trace import Floats, Ints

SIGMA = 0.8
"""Of the log-normal law that stands in where only a mean is known: a coefficient of variation of 0.95, between the
prompts (1.0 to 1.6) and the answers (0.7 to 1.0) of public chat logs."""

LONGEST = 131072

HISTOGRAMS = "output_length_histograms"
PROMPTS = "input_lengths.csv"
SAMPLES = "lengths"
"""Names by which files of lengths are found where no column names them."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of each request in the order of arrival, and what was assumed to get them."""

    inputs: Ints
    outputs: Ints
    assumed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of the lengths of a run without a list of requests.

    Attributes:
        input_tokens, output_tokens: the means.
        fixed: all requests have them; else they spread around them.
        range_ratio: fixed lengths are drawn evenly from this share of the nominal ones up to them.
        repeats: how often each distinct prompt is sent.
    """

    input_tokens: float
    output_tokens: float
    fixed: bool
    range_ratio: float = 1.0
    repeats: int = 1


def draw(row: Row, folder: Path, asked: Asked, n: int, longest: int | None, seed: int) -> Lengths:
    """``n`` requests of a row.

    Args:
        longest: prompt and answer together; answers are cut there.

    Raises:
        InputError: the row names a file that is not there.
    """
    rng = np.random.default_rng(seed)
    samples = samples_of(row, folder)
    if asked.fixed:
        lengths = _fixed(asked, n, rng)
    elif samples is not None:
        lengths = _permuted(asked, samples, n, longest, rng)
    else:
        repeats = min(asked.repeats, n)
        distinct = -(-n // repeats)
        inputs, said = _inputs(row, folder, asked, distinct)
        outputs, more = _outputs(row, folder, asked, n)
        order = permutations(distinct, n, rng)
        lengths = Lengths(inputs[order], rng.permutation(outputs), (*said, *more))
    if longest is None:
        return lengths
    room = np.maximum(longest - lengths.inputs, 1)
    return Lengths(lengths.inputs, np.minimum(lengths.outputs, room), lengths.assumed)


def permutations(size: int, n: int, rng: np.random.Generator) -> Ints:
    """int64[n]: 0 … size − 1 in random order, again and again, each pass in an order of its own."""
    passes = np.tile(np.arange(size), (-(-n // size), 1))
    return rng.permuted(passes, axis=1).ravel()[:n]


def _fixed(asked: Asked, n: int, rng: np.random.Generator) -> Lengths:
    tokens = [max(1, round(mean)) for mean in (asked.input_tokens, asked.output_tokens)]
    inputs, outputs = (rng.integers(max(1, round(asked.range_ratio * most)), most + 1, n) for most in tokens)
    return Lengths(inputs, outputs, ())


def spread(average: float, n: int) -> Ints:
    """``n`` lengths around a mean, in rising order: log-normal, ``SIGMA``."""
    law = LogNormal(float(np.log(average)) - SIGMA**2 / 2, SIGMA, LONGEST)
    return scaled(law.at(_middles(n)).astype(np.float64), average)


def scaled(lengths: Floats, average: float, most: Floats | None = None) -> Ints:
    """Whole lengths of at least 1 with this mean; ``most`` cuts each of them, and the others make up for it."""
    found = lengths
    for _ in range(4):
        found = found * (average / max(float(found.mean()), 1e-9))
        if most is not None:
            found = np.minimum(found, most)
    return np.maximum(np.rint(found), 1).astype(np.int64)


def _middles(n: int) -> Floats:
    return (np.arange(n) + 0.5) / n


# a file of samples


def samples_of(row: Row, folder: Path) -> Path | None:
    """The file of samples that the row names, or the one of ``lengths/`` whose name stands in the run's."""
    named: str | None = row.get("lengths")
    if named is not None:
        for path in (folder / named, folder / SAMPLES / named):
            if path.is_file():
                return path
        raise InputError(f"{row.where('lengths')} is {named!r}: no such file in {folder}")
    found = [path for path in (folder / SAMPLES).glob("*.csv*") if _stem(path) in row.name]
    return max(found, key=lambda path: (len(_stem(path)), path.name), default=None)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def _permuted(asked: Asked, path: Path, n: int, longest: int | None, rng: np.random.Generator) -> Lengths:
    inputs, outputs = _read_samples(path)
    order = permutations(len(inputs), n, rng)
    said = [f"lengths = {path.parent.name}/{path.name}: concatenated random permutations of its samples"]
    if outputs is None:
        answers = _between(asked.output_tokens, n, rng)
        said.append("output lengths: the two whole numbers around the mean (the file has none)")
    else:
        most = None if longest is None else np.maximum(longest - inputs[order], 1).astype(np.float64)
        answers = scaled(outputs[order].astype(np.float64), asked.output_tokens, most)
        said.append("output lengths: the file's, scaled to the run's mean")
    return Lengths(inputs[order], answers, tuple(said))


def _between(average: float, n: int, rng: np.random.Generator) -> Ints:
    """``n`` whole lengths, the one below and the one above the mean, so often that the mean comes out."""
    low = int(average)
    high = round((average - low) * n)
    return rng.permutation(np.concatenate([np.full(n - high, max(low, 1)), np.full(high, low + 1)])).astype(np.int64)


@lru_cache(maxsize=8)
def _read_samples(path: Path) -> tuple[Ints, Ints | None]:
    table = read_csv(path)
    name = next((c for c in ("output_tokens", "reference_output_tokens") if c in table), None)
    inputs = whole_numbers(path, table, "input_tokens")
    outputs = None if name is None or table[name].isna().all() else whole_numbers(path, table, name)
    return inputs, outputs


# a histogram of answers


def _outputs(row: Row, folder: Path, asked: Asked, n: int) -> tuple[Ints, list[str]]:
    average = asked.output_tokens
    bins = _histogram(row, folder)
    if bins is None:
        return spread(average, n), [f"output lengths: log-normal around the mean {average:g}, sigma {SIGMA}"]
    low, high, counts, path = bins
    each = np.repeat(np.arange(len(counts)), counts)
    places = np.concatenate([_middles(count) for count in counts if count])
    values = low[each] + places * (high - low)[each]
    if len(values) != n:
        values = np.quantile(values, _middles(n))
    return scaled(values, average), [f"output lengths: {path.name}, even within its bins"]


def _histogram(row: Row, folder: Path) -> tuple[Floats, Floats, Ints, Path] | None:
    """Edges and counts of the bins of this run, and their file; None where no file has it."""
    named = row.get("output_histogram")
    paths = [folder / named] if named else sorted(folder.glob(f"{HISTOGRAMS}.csv*"))
    for path in paths:
        if not path.is_file():
            raise InputError(f"{row.where('output_histogram')} is {named!r}: no such file in {folder}")
        table = _read_histograms(path)
        mine = table[table["run"] == row.name] if "run" in table else table
        mine = mine[mine["requests"] > 0]
        if mine["requests"].sum() > MOST_REQUESTS:
            raise InputError(f"{path}: {mine['requests'].sum():g} requests of {row.name} (allowed: {MOST_REQUESTS:,})")
        if len(mine):
            low, high = (mine[edge].to_numpy(np.float64) for edge in ("bin_low", "bin_high"))
            return low, high, mine["requests"].to_numpy(np.int64), path
        if named:
            raise InputError(f"{row.where('output_histogram')} is {named!r}: the file has no bins of this run")
    return None


@lru_cache(maxsize=4)
def _read_histograms(path: Path) -> pd.DataFrame:
    table = read_csv(path)
    return table.assign(**{name: numbers(path, table, name) for name in ("bin_low", "bin_high", "requests")})


# percentiles of prompts


def _inputs(row: Row, folder: Path, asked: Asked, n: int) -> tuple[Ints, list[str]]:
    average = asked.input_tokens
    shape = _percentiles(row, folder)
    if shape is None:
        return spread(average, n), [f"input lengths: log-normal around the mean {average:g}, sigma {SIGMA}"]
    u, tokens, source = shape
    return at_percentiles(u, tokens, average, n), [f"input lengths: percentiles of {source}, scaled to the mean"]


def at_percentiles(u: Floats, tokens: Floats, average: float, n: int) -> Ints:
    """``n`` lengths in rising order with these percentiles: log-linear between them, the lower end free for the mean.

    What the lower end cannot mend (it lies between 1 and the first percentile) a factor does.
    """
    quantiles = _middles(n)

    def at(lowest: float) -> Floats:
        logs = np.interp(quantiles, np.append(0.0, u), np.log(np.append(lowest, tokens)))
        return np.asarray(np.exp(logs), np.float64)

    low, high = 1.0, float(tokens[0])
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if at(middle).mean() < average else (low, middle)
    return scaled(at((low * high) ** 0.5), average)


def _percentiles(row: Row, folder: Path) -> tuple[Floats, Floats, str] | None:
    """Quantile levels and tokens of the prompts of the row's task: of its model where known, else of another one."""
    path = folder / PROMPTS
    if not path.is_file():
        return None
    table = read_csv(path)
    if not {"task", "models"} <= set(table.columns):
        return None
    levels = sorted((float(name[1:]) / 100, name) for name in table.columns if re.fullmatch(r"p\d+", name))
    levels += [(1.0, "max")] if "max" in table else []
    columns = [name for _, name in levels]
    known = table[[str(task) in row.name for task in table["task"]]].dropna(subset=columns)
    if known.empty or not columns:
        return None
    mine = known[[_names(str(models), str(row.get("model"))) for models in known["models"]]]
    chosen = (mine if len(mine) else known).iloc[0]
    model = "" if len(mine) else f", {chosen['models']}"
    tokens = np.array([numbers(path, known, column)[known.index.get_loc(chosen.name)] for column in columns])
    if (tokens < 1).any() or (np.diff(tokens) < 0).any():
        shown = ", ".join(f"{tokens_:g}" for tokens_ in tokens)
        raise InputError(f"{path}: percentiles of {chosen['task']} are {shown} (allowed: 1 or more, and never falling)")
    return np.array([u for u, _ in levels]), tokens, f"{PROMPTS} ({chosen['task']}{model})"


def _names(patterns: str, model: str) -> bool:
    return any(fnmatch.fnmatch(model.lower(), part.strip().lower()) for part in re.split(r" and |,|;", patterns))
