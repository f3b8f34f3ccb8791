"""MLflow's edge: stores, runs, what a run logs, the registry."""
