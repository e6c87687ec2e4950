"""Fit the laws of the synthetic BurstGPT: published statistics in, ``traces/burstgpt-laws.json`` out.

    python benchmarks/fit_burstgpt.py ../shared/data/traces [--out traces/burstgpt-laws.json]

The folder holds what others published about BurstGPT_1 (60 days of real calls): histograms of the lengths of
its conversations, requests per hour of day and per day, and medians, means and shares. None of its rows are
requests, and none of them are copied: what is written are coefficients and knots, with the error of each fit
beside them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq, linprog, minimize_scalar
from scipy.special import ndtr, ndtri

from apexsim.spec.files import write_atomically

Floats = NDArray[np.float64]

HARMONICS = 10
"""Fewest that keep every hour of the table within about 5 % (8 % at 8, 9 % at 5): the day is jagged."""

KNOT_TOLERANCE = 0.003
"""Largest distance in probability between a histogram and the line between two knots."""

TAIL_TOLERANCE = 0.15
"""… and no more than this share of what lies above, so that the far tail (and with it the mean) is kept."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("traces/burstgpt-laws.json"))
    arguments = parser.parse_args()
    laws = fit(arguments.folder)
    write_atomically(arguments.out, json.dumps(laws, indent=1) + "\n")
    print(json.dumps(laws["fit_errors"], indent=1))


def fit(folder: Path) -> dict[str, Any]:
    """All laws, in the order in which the generator uses them."""
    targets = json.loads((folder / "burstgpt_generator_targets.json").read_text())
    hours, hour_error = hour_of_day(folder, targets)
    weekly, day_noise = days(pd.read_csv(folder / "burstgpt1_daily.csv")["requests"].to_numpy(float))
    lengths, length_errors = conversation_lengths(folder, targets)
    api, api_errors = api_lengths(targets)
    return {
        "provenance": {
            "what": "laws of a synthetic BurstGPT, fitted to published statistics of BurstGPT_1",
            "source": "HPMLL/BurstGPT (Wang et al., KDD 2025), CC-BY-4.0; statistics by readers of the files",
            "command": "python benchmarks/fit_burstgpt.py ../shared/data/traces",
            "date": "2026-11-20",
        },
        "rate_rps": round(targets["files"]["BurstGPT_1"]["mean_req_per_h"] / 3600.0, 6),
        "api_share": targets["api_1"]["share"],
        "hours": hours,
        "weekly": weekly,
        "api_day_noise": day_noise,
        "gaps": gaps(targets),
        "conversation": lengths,
        "api": api,
        "sessions": sessions(targets),
        "fit_errors": {"hour_of_day": hour_error} | length_errors | api_errors,
    }


def hour_of_day(folder: Path, targets: dict[str, Any]) -> tuple[dict[str, list[float]], float]:
    """Fourier coefficients of log(share of the hour), for all requests and for conversations."""
    table = pd.read_csv(folder / "burstgpt1_hour_of_day.csv")["mean_requests_per_hour"].to_numpy(float)
    figure = targets["figure_read_medians_requests_per_hour"]
    conversations = np.array(figure["chatgpt_conv"], float) + np.array(figure["gpt4_conv"], float)
    total, error = fourier(table)
    conversation, _ = fourier(conversations)
    return {"all": total, "conversation": conversation}, error


def fourier(per_hour: Floats) -> tuple[list[float], float]:
    """Coefficients c0, c1 cos, c1 sin, … with the smallest largest error in log, and that error.

    The mean over the day is left to the generator: c0 only centres the others.
    """
    basis = harmonics(24, HARMONICS)
    log = np.log(per_hour / per_hour.mean())
    # Linear program: minimise t subject to |basis · c - log| <= t, tighter where fewer requests make more
    # noise.
    slack = np.clip(np.sqrt(per_hour / per_hour.mean()), 0.4, 1.0)[:, None]
    rows = np.vstack([np.hstack([basis, -slack]), np.hstack([-basis, -slack])])
    coefficients = basis.shape[1]
    bounds = [(None, None)] * coefficients + [(0, None)]
    best = linprog(np.r_[np.zeros(coefficients), 1.0], A_ub=rows, b_ub=np.r_[log, -log], bounds=bounds)
    found = np.round(best.x[:-1], 4)
    fitted = np.exp(basis @ found)
    error = float(np.max(np.abs(fitted / fitted.mean() / np.exp(log) - 1.0)))
    return found.tolist(), round(error, 4)


def harmonics(points: int, count: int) -> Floats:
    """[points, 2 count + 1]: 1, cos, sin, cos 2, sin 2, … at the middles of equal parts of a day."""
    angle = 2.0 * np.pi * (np.arange(points) + 0.5) / points
    columns = [np.ones(points)]
    for k in range(1, count + 1):
        columns += [np.cos(k * angle), np.sin(k * angle)]
    return np.stack(columns, axis=1)


def days(requests: Floats) -> tuple[list[float], dict[str, float]]:
    """Seven factors by day modulo 7 (mean 1), and the log-normal AR(1) noise that is left from day to day."""
    log = np.log(requests)
    weekday = np.arange(len(log)) % 7
    mean = np.array([log[weekday == day].mean() for day in range(7)])
    left = log - mean[weekday]
    factors = np.exp(mean) / np.exp(mean).mean()
    noise = {
        "sigma": round(float(left.std()), 3),
        "correlation": round(float(np.corrcoef(left[:-1], left[1:])[0, 1]), 3),
    }
    return np.round(factors, 3).tolist(), noise


def gaps(targets: dict[str, Any]) -> dict[str, float]:
    """Gamma shapes by window: around the 0.5 of the authors' generator (CV = shape^-1/2 = 1.41).

    The spread over windows is chosen (no figures are published): two thirds of the windows have CV 1.25 to
    1.6.
    """
    assert "alpha(shape)=0.5" in targets["arrivals"]["model"]
    return {"window_s": 1200.0, "shape_median": 0.5, "shape_sigma": 0.25}


def conversation_lengths(folder: Path, targets: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Quantile knots of input and output, and the correlation of a Gaussian copula between them."""
    laws: dict[str, Any] = {}
    errors: dict[str, float] = {}
    for part in ("input", "output"):
        table = pd.read_csv(folder / f"burstgpt1_conversation_{part}_hist.csv")
        value, share = staircase(table)
        chosen = knots(value, share)
        laws[part] = {
            "u": np.round(share[chosen], 5).tolist(),
            "tokens": value[chosen].tolist(),
        }
        line = np.interp(value, value[chosen], share[chosen])
        errors[f"conversation_{part}_distance"] = round(float(np.abs(line - share).max()), 5)
    curve = np.array(targets["response_given_request"]["chatgpt_conv_mean"], float)
    laws["correlation"], errors["response_given_request_rms_tokens"] = copula(laws, curve)
    return laws, errors


def staircase(table: pd.DataFrame) -> tuple[Floats, Floats]:
    """Tokens at the edges of the bins and the share of requests below them; gaps between bins are flat."""
    value = table[["bin_start", "bin_end"]].to_numpy(float).ravel()
    upto = np.cumsum(table["probability"].to_numpy(float))
    share = np.stack([np.r_[0.0, upto[:-1]], upto], axis=1).ravel() / upto[-1]
    keep = np.r_[True, np.diff(value) > 0]
    return value[keep], share[keep]


def knots(value: Floats, share: Floats) -> list[int]:
    """Fewest points, found greedily, between which a line stays within the tolerances everywhere."""
    allowed = np.minimum(KNOT_TOLERANCE, np.maximum(TAIL_TOLERANCE * (1.0 - share), 1e-4))
    chosen = [0, len(value) - 1]
    while True:
        error = np.abs(np.interp(value, value[chosen], share[chosen]) - share) / allowed
        worst = int(error.argmax())
        if error[worst] <= 1.0:
            return chosen
        chosen = sorted([*chosen, worst])


def copula(laws: dict[str, Any], curve: Floats) -> tuple[float, float]:
    """Correlation that best gives the published mean response at each request length (25 to 2,000 tokens)."""
    z = ndtri((np.arange(400) + 0.5) / 400)
    at = ndtri(np.clip(np.interp(curve[:, 0], laws["input"]["tokens"], laws["input"]["u"]), 1e-4, 1 - 1e-4))

    def rms(correlation: float) -> float:
        u = ndtr(correlation * at[:, None] + np.sqrt(1.0 - correlation**2) * z[None, :])
        mean = np.interp(u, laws["output"]["u"], laws["output"]["tokens"]).mean(axis=1)
        return float(np.sqrt(np.mean((mean - curve[:, 1]) ** 2)))

    best = minimize_scalar(rms, bounds=(0.0, 0.9), method="bounded")
    return round(float(best.x), 3), round(float(best.fun), 1)


def api_lengths(targets: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Log-normal inputs and outputs by median and mean, with responses of exactly 2 and 7 tokens apart.

    The log-normal of the outputs is that of the other responses: its own mass at 2 and 7 is taken from the
    spikes.
    """
    api = targets["api_1"]
    files = targets["files"]["BurstGPT_1"]
    most_in, most_out = files["max_request"], files["max_response"]
    median_in, mean_in = api["input_median"], api["derived_mean_request"]
    sigma_in = brentq(lambda s: rounded_mean(np.log(median_in), s, most_in) - mean_in, 0.5, 3.0)
    spikes = {2: api["frac_response_eq_2"], 7: api["frac_response_eq_7"]}
    mu, sigma, weights = spiked(spikes, api["output_median"], api["derived_mean_response"], most_out)
    laws = {
        "input": {
            "mu": round(float(np.log(median_in)), 4),
            "sigma": round(float(sigma_in), 4),
            "most": most_in,
        },
        "output": {
            "mu": round(mu, 4),
            "sigma": round(sigma, 4),
            "most": most_out,
            "spikes": {str(tokens): round(weight, 5) for tokens, weight in weights.items()},
        },
    }
    body = 1.0 - sum(weights.values())
    mean = body * rounded_mean(mu, sigma, most_out) + sum(t * w for t, w in weights.items())
    median = sum(weights.values()) + body * ndtr((np.log(api["output_median"] - 0.5) - mu) / sigma)
    return laws, {
        "api_output_mean": round(float(mean / api["derived_mean_response"] - 1.0), 5),
        "api_output_share_below_median": round(float(median), 4),
    }


def spiked(
    spikes: dict[int, float], median: float, mean: float, most: int
) -> tuple[float, float, dict[int, float]]:
    """mu, sigma of the body and the weights of the spikes that together give the median, the mean and the
    shares."""
    weights = dict(spikes)
    mu = sigma = 0.0
    for _ in range(50):
        body = 1.0 - sum(weights.values())
        # Half of the responses are below the median: the spikes, and this share of the body.
        z = ndtri((0.5 - sum(weights.values())) / body)
        rest = (mean - sum(tokens * weight for tokens, weight in weights.items())) / body
        sigma = float(
            brentq(lambda s, z=z, rest=rest: rounded_mean(np.log(median) - z * s, s, most) - rest, 0.3, 3.0)
        )
        mu = float(np.log(median) - z * sigma)
        weights = {t: share - body * rounded_share(mu, sigma, t) for t, share in spikes.items()}
    return mu, sigma, weights


def rounded_mean(mu: float, sigma: float, most: int) -> float:
    """Mean of a log-normal rounded to whole numbers from 1 to ``most``."""
    tokens = np.arange(1, most)
    above = 1.0 - ndtr((np.log(tokens + 0.5) - mu) / sigma)
    return float(1.0 + above.sum())


def rounded_share(mu: float, sigma: float, tokens: int) -> float:
    high, low = (np.log(tokens + half) for half in (0.5, -0.5))
    return float(ndtr((high - mu) / sigma) - ndtr((low - mu) / sigma))


def sessions(targets: dict[str, Any]) -> dict[str, float]:
    """Turns = ceil(log-normal) from P(1) and P(<= 4), cut where the mean is right; gaps from median and p90.

    Published: over 35 % of conversations have one request, the median is 2, 75 % have at most 4; gaps from
        version 3.
    """
    single, upto_four = 0.37, 0.755
    sigma = np.log(4.0) / (ndtri(upto_four) - ndtri(single))
    mu = -ndtri(single) * sigma
    third = targets["files"]["BurstGPT_3"]
    spread = np.log(third["interturn_gap_p90_s"] / third["interturn_gap_p50_s"]) / ndtri(0.9)
    return {
        "turns_mu": round(float(mu), 4),
        "turns_sigma": round(float(sigma), 4),
        "turns_most": cut_for_mean(float(mu), float(sigma), third["turns_mean"]),
        "gap_mu": round(float(np.log(third["interturn_gap_p50_s"])), 4),
        "gap_sigma": round(float(spread), 4),
    }


def cut_for_mean(mu: float, sigma: float, mean: float) -> int:
    """The largest number of turns for which the mean of min(ceil(log-normal), most) does not pass ``mean``."""
    more_than = 1.0 - ndtr((np.log(np.arange(1, 1000)) - mu) / sigma)
    means = 1.0 + np.cumsum(more_than)
    return int(np.searchsorted(means, mean)) + 1


if __name__ == "__main__":
    main()
