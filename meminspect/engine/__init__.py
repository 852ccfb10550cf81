"""Running strategies: a supervisor process that spawns, samples and explains a worker, and the session that starts it."""
