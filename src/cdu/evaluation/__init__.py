"""Evaluation: accuracy, relearn time, attacks, audits, checks of the theory and of the official code."""
