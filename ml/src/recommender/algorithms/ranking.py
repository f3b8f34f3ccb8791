"""Model a person's picks rather than ratings: for lists, where popularity beats rating models.

Source: H. Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019), the closed form.
"""

from typing import Any

import numpy as np
import surprise
from numpy.typing import NDArray
from scipy import linalg, sparse

from recommender.algorithms.parameters import check_number
from recommender.algorithms.trainset import arrays

Floats = NDArray[np.float64]


class EASE(surprise.AlgoBase):  # type: ignore[misc]
    """EASE: each item's score is a weighted sum over the items that the user has rated.

    The weights are the least squares solution, with ridge `reg` and a diagonal of zeros, of finding each item
    of a user from the user's others. An item with fewer than `min_ratings` ratings has no weights: its
    score is its popularity, the share of its users. For a user without ratings of learnt items that is every
    item's score.

    **What `estimate` means.** A score near 1 says that the user picks such an item, near 0 that not. So that
    Surprise's tools take it, it is laid onto the rating scale, 0 at the lowest rating and 1 at the highest:
    within a user, higher is better. It is not a forecast of a rating; its RMSE is meaningless.

    Args:
        reg: ridge, above 0; the more ratings, the higher.
        min_ratings: of a learnt item; the weights take the square of these items' number
            times 4 bytes, and the training a few times that times 8.
        rating_weight: from 0, where only having rated an item counts, to 1, where the lowest rating
            counts as 0.

    Attributes after `fit`, for k learnt items: `position` (n_items,) of an item among them, -1 for others;
    `weights` (k, k), float32, from row to column; `popularity` (n_items,); the learnt items of user u are
    `rated[start[u]:start[u + 1]]`, by position, and `value` is what each counts.

    Raises ValueError for invalid parameters.
    """

    def __init__(self, reg: float = 100.0, min_ratings: int = 5, rating_weight: float = 0.75) -> None:
        self.reg, self.min_ratings, self.rating_weight = reg, min_ratings, rating_weight
        super().__init__()

    def fit(self, trainset: surprise.Trainset) -> "EASE":
        """Solve for the weights."""
        check_number("reg", self.reg, 0, above=True)
        check_number("min_ratings", self.min_ratings, 0)
        check_number("rating_weight", self.rating_weight, 0, most=1)
        super().fit(trainset)
        user, item, rating = arrays(trainset)
        count = np.bincount(item, minlength=trainset.n_items)
        self.popularity = count / trainset.n_users
        learnt = np.flatnonzero(count >= self.min_ratings)
        self.position = np.full(trainset.n_items, -1)
        self.position[learnt] = np.arange(len(learnt))
        inside = self.position[item] >= 0
        self.start = np.concatenate(([0], np.cumsum(np.bincount(user[inside], minlength=trainset.n_users))))
        order = np.argsort(user[inside], kind="stable")
        self.rated = self.position[item[inside]][order]
        low, high = trainset.rating_scale
        share = (rating[inside][order] - low) / (high - low)
        self.value = 1 - self.rating_weight + self.rating_weight * share
        self.weights = _solution(
            user[inside][order], self.rated, self.value, trainset.n_users, len(learnt), self.reg
        )
        return self

    def estimate(self, u: Any, i: Any) -> float:
        """The score of an item for a user, on the rating scale; of an unknown item it is the lowest."""
        low, high = self.trainset.rating_scale
        if not self.trainset.knows_item(i):
            return float(low)
        score = self.popularity[i]
        if self.trainset.knows_user(u) and self.position[i] >= 0:
            row = slice(self.start[u], self.start[u + 1])
            if row.stop > row.start:
                score = self.value[row] @ self.weights[self.rated[row], self.position[i]]
        return float(low + (high - low) * score)


def _solution(user: Any, item: Any, value: Floats, n: int, k: int, reg: float) -> NDArray[np.float32]:
    """EASE's weights, by whichever is smaller of the system over the users and that over the items."""
    rows = sparse.csr_array((value, (user, item)), shape=(n, k))
    if n < k:
        # Woodbury: (XᵀX + reg)⁻¹ = (1 - Xᵀ (XXᵀ + reg)⁻¹ X) / reg
        x = rows.toarray()
        system = x @ x.T
        system[np.diag_indices(n)] += reg
        half = linalg.solve_triangular(linalg.cholesky(system, lower=True), x, lower=True)
        inverse = half.T @ half
        inverse *= -1 / reg
        inverse[np.diag_indices(k)] += 1 / reg
    else:
        system = (rows.T @ rows).toarray()
        system[np.diag_indices(k)] += reg
        inverse = linalg.inv(system, overwrite_a=True)
    inverse /= -np.diag(inverse).copy()
    inverse[np.diag_indices(k)] = 0
    weights: NDArray[np.float32] = inverse.astype(np.float32)
    return weights
