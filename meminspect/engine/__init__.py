"""Running strategies: a supervisor process that spawns, samples and explains a worker; the session that starts it."""
