"""Experiments: settings, set-ups, runs and their records."""
