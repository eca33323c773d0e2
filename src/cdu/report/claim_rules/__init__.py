"""The rules that decide the claims, one module for each subject."""
