"""Micro-benchmarks of the machine at hand: what ``apexsim calibrate run`` times, and how.

    cases.py        which shapes, in which order: the same for every machine and every try
    machine.py      what a machine must offer; the seam ``machines`` of the registry
    timing.py       how one case is timed: warm-up, samples until they agree, what is set aside
    journal.py      one line a timed case, so that an interrupted run goes on
    measure.py      the loop over the cases
    tables.py       the journal as Parquet tables of measured kernels
    profile.py      the tables as a device: profile.yaml and fitted kernels

Only ``torch_*.py`` import PyTorch, and they are loaded through the registry when a machine is asked for.
"""
