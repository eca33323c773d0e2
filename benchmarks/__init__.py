"""What no batch measures: timings against peers, and how much of a start's accuracy is its draw.

Timings are ratios of programs run in turns on one machine, used by ``notebooks/08_efficiency.py``.
"""
