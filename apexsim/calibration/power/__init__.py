"""Kernel power: laws of watts from measured kernels, what the published meter makes of them, and their report."""
