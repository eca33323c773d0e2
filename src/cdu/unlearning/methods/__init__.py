"""The unlearning methods, one for each module."""
