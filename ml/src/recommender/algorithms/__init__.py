"""The algorithms that are ours, each a `surprise.AlgoBase`; `recommender.algorithm` has all by name."""
