"""What answers: a model's arrays, its formulas and the served contract. A stored model imports this alone."""

from recommender.serving.answer import answer
from recommender.serving.recommender import Recommender

__all__ = ["Recommender", "answer"]
