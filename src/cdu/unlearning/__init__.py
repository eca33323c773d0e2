"""Unlearning: ``Problem → method → Release``."""
