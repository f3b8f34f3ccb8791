"""Keep the module path of models stored by version 1.0.0; the code is in `recommender.serving`."""

from recommender.serving.recommender import Recommender

__all__ = ["Recommender"]
