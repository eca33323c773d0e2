"""Curvature: Hessians as operators, and solvers of (H + λI) x = b."""
