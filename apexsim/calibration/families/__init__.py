"""The families of operators that are fitted, and the tables that are reported; one file a family."""

from __future__ import annotations

from apexsim.calibration.families import collectives, exchanges
from apexsim.calibration.families.attention import DECODE, PREFILL
from apexsim.calibration.families.collectives import COLLECTIVES
from apexsim.calibration.families.exchanges import EXCHANGES
from apexsim.calibration.families.experts import EXPERTS
from apexsim.calibration.families.family import Family, Table
from apexsim.calibration.families.gemm import GEMM
from apexsim.calibration.families.mla import MLA_DECODE, MLA_PREFILL

FAMILIES: dict[str, Family] = {
    family.operator: family
    for family in (GEMM, PREFILL, DECODE, MLA_PREFILL, MLA_DECODE, EXPERTS, *COLLECTIVES.values(), *EXCHANGES)
}
"""Operator -> its family."""

TABLES: dict[str, Table] = {
    **{name: table for family in FAMILIES.values() for name, table in family.tables.items()},
    **collectives.TABLES,
    **exchanges.TABLES,
}
"""Name of a Parquet table, without its suffix -> how the report prices it."""
