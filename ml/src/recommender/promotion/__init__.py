"""How a version moves between environments: archive, gate, trial, aliases."""
