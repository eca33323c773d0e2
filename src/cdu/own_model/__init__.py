"""A module of one's own, its data and its ids: what is asked of them before rows are deleted."""
