"""How good a model is: folds, metrics, the leaderboard, the search for parameters."""
