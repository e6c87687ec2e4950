"""ServeGen's client tables: no log of requests but statistics per client, from which a trace is drawn.

``read_trace`` of such a table draws the first ten minutes of its first workload with seed 0, and says so;
``apexsim trace synthesize servegen`` chooses workload, time, share and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from apexsim.workload.formats.base import has_columns
from apexsim.workload.servegen import servegen
from apexsim.workload.trace import Trace


class ServeGen:
    """ServeGen table of client windows (lengths beside it); requests are drawn from it."""

    name = "servegen"
    header = "category,model,client,window_start_s,rate_rps,interarrival_cv,family,shape,scale"
    is_log = False

    def matches(self, header: str, path: Path) -> bool:
        return has_columns(header, "client", "window_start_s", "rate_rps", "family", "shape")

    def read(self, path: Path) -> Trace:
        return servegen(path)

    def example(self) -> Mapping[str, str]:
        percentiles = "".join(
            f",{part}_tokens_{which}" for part in ("input", "output") for which in ("mean", "p50", "p90", "p99")
        )
        return {
            "servegen_client_windows.csv": (
                "category,model,client,window_start_s,rate_rps,interarrival_cv,family,shape,scale\n"
                "language,m-tiny,0,0,0.05,1.4,Gamma,0.5,40\n"
                "language,m-tiny,1,0,0.02,1.2,Weibull,0.8,44\n"
            ),
            "servegen_client_lengths.csv": (
                f"category,model,client,window_start_s{percentiles}\n"
                "language,m-tiny,0,0,400,300,500,4000,150,80,200,1500\n"
                "language,m-tiny,1,0,,,,,,,,\n"
            ),
        }
