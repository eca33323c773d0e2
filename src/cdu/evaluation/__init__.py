"""Evaluation: accuracy, relearn time, attacks, audits, timings, checks of the theory and of the official code."""
