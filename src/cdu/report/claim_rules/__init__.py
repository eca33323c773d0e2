"""The rules that decide the claims, by the claims' subject."""
