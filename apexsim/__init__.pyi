from apexsim.errors import ApexsimError as ApexsimError
from apexsim.report.comparison import compare as compare
from apexsim.report.explanation import explain as explain
from apexsim.report.fleet import plan_fleet as plan_fleet
from apexsim.report.layer_formats import plan_precision as plan_precision
from apexsim.report.listing import listing as listing
from apexsim.report.placement import plan_experts as plan_experts
from apexsim.report.pool_nodes import plan_pools as plan_pools
from apexsim.report.search_results import search as search
from apexsim.report.simulation import simulate as simulate
from apexsim.report.validation import validate as validate
from apexsim.report.what_if import what_if as what_if
from apexsim.spec.catalog import device as device
from apexsim.spec.catalog import model as model
from apexsim.spec.cluster import Cluster as Cluster
from apexsim.spec.hardware import HardwareProfile as HardwareProfile
from apexsim.spec.model import ModelSpec as ModelSpec
from apexsim.spec.plan import Plan as Plan
from apexsim.spec.slo import SLO as SLO
from apexsim.spec.slo import parse_slo as parse_slo
from apexsim.workload.read import read_trace as read_trace
from apexsim.workload.trace import Trace as Trace

__version__: str
