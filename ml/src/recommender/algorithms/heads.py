"""One model of two algorithms: one rates, the other orders lists."""

from typing import Any

import surprise


class TwoHeads(surprise.AlgoBase):  # type: ignore[misc]
    """Rates as `rating` does; `ranking` is trained on the same ratings, and orders the lists of serving.

    The most accurate estimates make poor lists: what people pick is another question than how they rate it
    (P. Cremonesi, Y. Koren, R. Turrin, "Performance of recommender algorithms on top-n recommendation tasks",
    RecSys 2010, doi:10.1145/1864708.1864721).

    Args:
        rating: answers `estimate`, as a Surprise algorithm.
        ranking: an algorithm whose estimates order a user's items.

    Attributes after `fit`: both, trained.
    """

    def __init__(self, rating: surprise.AlgoBase, ranking: surprise.AlgoBase) -> None:
        self.rating, self.ranking = rating, ranking
        super().__init__()

    def fit(self, trainset: surprise.Trainset) -> "TwoHeads":
        """Train both."""
        super().fit(trainset)
        self.rating.fit(trainset)
        self.ranking.fit(trainset)
        return self

    def estimate(self, u: Any, i: Any) -> Any:
        """The estimate of the rating head."""
        return self.rating.estimate(u, i)
