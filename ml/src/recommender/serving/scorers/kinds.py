"""All kinds of scorers by name, as a stored model names its own."""

from recommender.serving.scorers.base import Scorer
from recommender.serving.scorers.factors import Factors
from recommender.serving.scorers.neighbours import Neighbours
from recommender.serving.scorers.peers import Peers
from recommender.serving.scorers.slopes import Slopes
from recommender.serving.scorers.weights import Weights

KINDS: dict[str, type[Scorer]] = {
    kind.__name__: kind for kind in (Factors, Neighbours, Peers, Slopes, Weights)
}
