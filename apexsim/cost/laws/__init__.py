"""Rooflines with few parameters, one file a family of operators.

Each law is smooth: ``latency + (work^p + memory^p)^(1/p)``, work and memory being FLOP and bytes over the *reached*
fraction of the device's peak. The same laws serve devices that nobody measured (parameters from the profile's
stated efficiencies) and calibrated ones (parameters fitted, times a correction grid).

A new law: one file here, one line in ``LAWS``, and a family in ``apexsim/calibration/families/`` that fits it.
"""

from __future__ import annotations

from collections.abc import Callable

from apexsim.cost.laws.attention import DecodeLaw, PrefillLaw
from apexsim.cost.laws.base import Law, Sizes
from apexsim.cost.laws.collectives import CollectiveLaw
from apexsim.cost.laws.experts import ExchangeLaw, ExpertLaw
from apexsim.cost.laws.gemm import GemmLaw

__all__ = ["LAWS", "CollectiveLaw", "DecodeLaw", "ExchangeLaw", "ExpertLaw", "GemmLaw", "Law", "PrefillLaw", "Sizes"]

LAWS: dict[str, Callable[..., Law]] = {
    "gemm": GemmLaw,
    "prefill_attention": PrefillLaw,
    "decode_attention": DecodeLaw,
    "mla_prefill": PrefillLaw,
    "mla_decode": DecodeLaw,
    "grouped_gemm": ExpertLaw,
    "all_reduce": CollectiveLaw,
    "all_gather": CollectiveLaw,
    "reduce_scatter": CollectiveLaw,
    "all_to_all": CollectiveLaw,
    "dispatch": ExchangeLaw,
    "combine": ExchangeLaw,
    "prepare": ExchangeLaw,
}
"""Operator of a kernel file -> its law, made from the file's parameters by name."""
