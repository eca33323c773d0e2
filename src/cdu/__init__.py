"""Certified deep unlearning, reproduced: the code behind the report on Zhang et al. (ICML 2024)."""
