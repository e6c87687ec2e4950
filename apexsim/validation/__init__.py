"""Measured serving runs against simulated ones."""
