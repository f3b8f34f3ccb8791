"""Measure models: folds, metrics, the leaderboard, the search for parameters."""
