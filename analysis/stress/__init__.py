"""Files from strangers: mutated without end, and read."""
