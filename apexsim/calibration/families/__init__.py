"""The families of operators that are fitted, and the tables that are reported; one file a family."""

from __future__ import annotations

from apexsim.calibration.families.attention import DECODE, PREFILL
from apexsim.calibration.families.collectives import ALL_GATHER, ALL_REDUCE
from apexsim.calibration.families.experts import EXPERTS
from apexsim.calibration.families.family import Family, Table
from apexsim.calibration.families.gemm import GEMM

FAMILIES: dict[str, Family] = {
    family.operator: family for family in (GEMM, PREFILL, DECODE, EXPERTS, ALL_REDUCE, ALL_GATHER)
}
"""Operator -> its family."""

TABLES: dict[str, Table] = {name: table for family in FAMILIES.values() for name, table in family.tables.items()}
"""Name of a Parquet table, without its suffix -> how the report prices it."""
