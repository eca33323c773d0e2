"""Models: networks, the objective L(w, S), training."""
