"""Where models that were stored by version 1.0.0 look for what `recommender.serving` has."""

from recommender.serving.answer import answer

__all__ = ["answer"]
