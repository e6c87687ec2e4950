"""apexsim: a discrete-event simulator and plan optimizer for LLM serving."""

__version__ = "0.1.0"
