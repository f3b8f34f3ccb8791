"""What a model is called."""

# Where no parameter file says it.
MODEL = "movie-recommender"
# What it can be: no signs of MLflow's URIs and filters, and nothing that a terminal obeys.
MODEL_NAME = r"[^/:.'\"\s\x00-\x1f\x7f-\x9f]+"
