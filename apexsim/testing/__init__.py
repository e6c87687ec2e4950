"""Contract suites: what every entry of a seam must keep, as pytest classes that a plug-in inherits.

A suite tests all names that the registry knows of its seam, so a new entry is held to it without being named. An
outside package inherits the suite in its own tests and names its own entries; ``pytest`` must be installed.
"""

SUITES = {
    "routers": "apexsim.testing.router:RouterContract",
    "formats": "apexsim.testing.trace_format:TraceFormatContract",
    "metrics": "apexsim.testing.metric:MetricContract",
    "techniques": "apexsim.testing.technique:TechniqueContract",
    "costs": "apexsim.testing.cost_model:CostModelContract",
    "strategies": "apexsim.testing.strategy:StrategyContract",
    "importers": "apexsim.testing.importer:ImporterContract",
    "machines": "apexsim.testing.machine:MachineContract",
}
"""Seam -> "module:Class" of its suite."""
