"""Answer requests: a model's arrays, its formulas, the served contract. Stored models import only this."""

from recommender.serving.answer import answer
from recommender.serving.recommender import Recommender

__all__ = ["Recommender", "answer"]
