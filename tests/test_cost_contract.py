"""Every registered cost model keeps the contract of the seam."""

from __future__ import annotations

from apexsim.testing.cost_model import CostModelContract


class TestRegisteredCostModels(CostModelContract):
    pass
