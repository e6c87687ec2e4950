"""Limits of the disaggregated runs of a known harness, which the rows of its results leave out.

The runs of DeepSeek-R1 under Dynamo with TensorRT-LLM are InferenceX's. Its sweep (``.github/configs/
nvidia-master.yaml`` at commits 525079ad and 0004cf5f) gives each number of clients a recipe, whose name says how many
requests a rank that decodes runs at once; the recipes themselves (srt-slurm, ``recipes/trtllm``, the single-token ones)
also say what a rank that prefills takes. Nothing here was fitted.
"""

from __future__ import annotations

from typing import Any

from apexsim.validation.columns import Row

Shape = tuple[str, str, int, int]
"""Device, weights, input and output tokens."""

SEATS: dict[Shape, tuple[tuple[str, int, tuple[int, ...]], ...]] = {
    ("b200-sxm", "nvfp4", 1024, 1024): (
        ("1p1dep8", 512, (4096,)), ("1p2dep8", 128, (2192,)), ("1p5dep8", 32, (1365,)), ("1p5tep8", 1, (6,)),
        ("1p5tep8", 32, (10, 15, 25, 45, 90, 180)), ("1p6tep8", 64, (450,)),
    ),
    ("b200-sxm", "nvfp4", 8192, 1024): (
        ("1p5tep8", 1, (6,)), ("1p5tep8", 16, (10, 15, 25, 50, 100)), ("2p5tep8", 64, (370,)),
        ("4p1dep8", 192, (1606,)), ("4p3dep8", 32, (837,)), ("7p2dep8", 128, (2222,)),
    ),
    ("b200-sxm", "fp8", 1024, 1024): (
        ("1p1dep8", 512, (4096,)), ("1p3tp8", 1024, (4, 32, 128)), ("1p5dep8", 48, (1920,)), ("2p5dep8", 128, (5152,)),
    ),
    ("b200-sxm", "fp8", 8192, 1024): (
        ("1p1dep8", 128, (128,)), ("1p1dep8", 256, (256,)), ("1p1tp8", 1, (1,)), ("1p2dep8", 64, (128,)),
        ("1p4tp8", 32, (32, 128)), ("1p6tp8", 16, (96,)), ("2p1dep8", 640, (640,)),
    ),
    ("gb200", "nvfp4", 1024, 1024): (
        ("1p1dep8", 512, (4300, 4301)), ("1p1dep32", 16, (666,)), ("1p2dep4", 768, (6144,)), ("1p4tep8", 1, (5,)),
        ("1p4tep8", 32, (12, 24, 48, 96, 192)), ("2p1dep16", 256, (2048, 4300, 4301)), ("2p1dep32", 64, (2253,)),
        ("1p4tep8", 128, (4, 8, 16, 32, 64, 128, 256, 564)), ("1p1dep32", 32, (1075,)), ("1p1dep16", 64, (1075,)),
    ),
    ("gb200", "nvfp4", 1024, 8192): (
        ("1p7tep8", 1, (5, 7)), ("1p15tep4", 4, (60,)), ("1p15tep4", 8, (135,)), ("1p1dep32", 16, (563,)),
        ("1p1dep32", 64, (2048,)), ("1p1dep32", 128, (4096,)), ("1p1dep32", 256, (8192,)),
    ),
    ("gb200", "nvfp4", 8192, 1024): (
        ("1p4tep8", 16, (12, 44, 76)), ("1p4tep8", 1, (5,)), ("2p1dep32", 8, (333,)), ("7p1dep32", 32, (1229,)),
        ("8p1dep16", 128, (2150, 2253)), ("10p1dep16", 256, (4096,)), ("1p3tep8", 32, (3, 6, 12, 24, 48, 102)),
        ("4p1dep32", 16, (256, 538)), ("6p1dep16", 64, (1075,)), ("5p1dep8", 256, (2150,)),
    ),
    ("gb200", "fp8", 1024, 1024): (
        ("1p1dep8", 768, (6144,)), ("1p1dep8", 512, (4301,)), ("1p1dep16", 128, (2151,)), ("1p1dep32", 32, (1127,)),
        ("1p1dep32", 8, (256,)), ("1p3tep8", 8, (27,)), ("1p3tep8", 1, (3,)),
    ),
    ("gb200", "fp8", 1024, 8192): (
        ("1p2dep16", 256, (8192,)), ("1p1dep32", 64, (2048,)), ("1p1dep32", 16, (564,)), ("1p4tep8", 8, (36,)),
        ("1p4tep8", 1, (4,)),
    ),
    ("gb200", "fp8", 8192, 1024): (
        ("5p1dep16", 64, (1229,)), ("4p1dep32", 16, (666,)), ("3p1dep16", 32, (615,)), ("2p1dep32", 8, (333,)),
        ("1p3tep8", 16, (63,)), ("1p3tep8", 4, (18,)), ("1p3tep8", 1, (6,)),
    ),
    ("h200-sxm", "fp8", 1024, 1024): (
        ("1p9tep8", 256, (36, 72, 144, 288, 576)), ("1p9dep8", 512, (1152,)), ("1p6dep8", 512, (1536,)),
        ("2p7dep8", 512, (3584,)),
    ),
    ("h200-sxm", "fp8", 8192, 1024): (
        ("1p7tep8", 32, (28,)), ("1p6tep8", 16, (48,)), ("1p3tep8", 32, (48,)), ("2p5tep8", 128, (160,)),
        ("2p3dep8", 128, (192,)), ("1p1dep8", 256, (128,)), ("5p3dep8", 256, (768,)), ("3p1dep8", 512, (512,)),
    ),
}  # fmt: skip
"""Workers that prefill and decode -> requests that a decode rank runs at once, by the number of clients."""

PREFILL_TOKENS = {
    ("b200-sxm", "nvfp4", 1024): 10240, ("b200-sxm", "nvfp4", 8192): 16896,
    ("b200-sxm", "fp8", 1024): 16384, ("b200-sxm", "fp8", 8192): 8320,
    ("gb200", "nvfp4", 1024): 16384, ("gb200", "nvfp4", 8192): 16640, ("gb200", "fp8", 1024): 16384,
    ("gb200", "fp8", 8192): 16384, ("h200-sxm", "fp8", 1024): 8192, ("h200-sxm", "fp8", 8192): 16640,
}  # fmt: skip
"""Device, weights and input tokens -> tokens that a prefill rank computes in an iteration."""

OLDEST, OLDEST_TOKENS = "0.5.1", {1024: 4608, 8192: 8448}
"""The first image, which ran on GB200 with nvfp4 and one front end, and the same of it."""

ONE_FRONT_END = (("h200-sxm", "fp8"), ("b200-sxm", "fp8"))
"""Device and weights whose recipes have one front end of Dynamo; the others have ten of them behind nginx."""

HARNESS = "silicon_sample.csv (db-dump/"


def workers_of(row: Row) -> str:
    """``1p4tep8``: one worker that prefills, and four that decode, tensor and expert parallel over eight devices."""
    wide = row.get("decode_dp") or 1
    ranks = (row.get("decode_tp") or 1) * wide
    kind = "dep" if wide > 1 else "tep" if (row.get("decode_ep") or 1) > 1 else "tp"
    return f"{row.get('prefill_workers')}p{row.get('decode_workers')}{kind}{ranks}"


def is_of_harness(row: Row) -> bool:
    """Whether the run is one of the harness's."""
    return HARNESS in str(row.get("source") or "")


def is_known(row: Row) -> bool:
    """Whether it is, and its recipe is public."""
    return is_of_harness(row) and row.get("engine") == "tensorrt-llm"


def has_front_ends(row: Row) -> bool:
    """Whether several front ends handed out the requests."""
    oldest = str(row.get("engine_version") or "").startswith(OLDEST)
    return is_known(row) and not oldest and (row.get("device"), row.get("weights")) not in ONE_FRONT_END


def recipe_of(row: Row) -> dict[str, Any]:
    """Column -> value of what the recipe of a row says and the row does not; empty where nobody knows the recipe."""
    if not is_known(row):
        return {}
    device, weights = str(row.get("device")), str(row.get("weights"))
    inputs, outputs = (int(row.get(name) or 0) for name in ("input_tokens", "output_tokens"))
    oldest = str(row.get("engine_version") or "").startswith(OLDEST)
    tokens = OLDEST_TOKENS.get(inputs) if oldest else PREFILL_TOKENS.get((device, weights, inputs))
    found: dict[str, Any] = {} if tokens is None else {"prefill_tokens": tokens}
    for workers, seats, clients in SEATS.get((device, weights, inputs, outputs), ()):
        if workers == workers_of(row) and row.get("concurrency") in clients:
            found["decode_batch"] = seats
    return found
