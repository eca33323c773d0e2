"""Timings against peers, as ratios of programs run in turns on one machine. Used by ``notebooks/08_efficiency.py``."""
