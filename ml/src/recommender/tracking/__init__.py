"""Talk to MLflow: stores, runs, logged artifacts, the registry."""
