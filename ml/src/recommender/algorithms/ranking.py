"""Model a person's picks rather than ratings: for lists, where popularity beats rating models.

Source: H. Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019), the closed form.
`UserEASE` is the same over the users, `AutoEASE` whichever is smaller.
"""

from typing import Any

import numpy as np
import surprise
from numpy.typing import NDArray
from scipy import linalg, sparse

from recommender.algorithms.parameters import check_number
from recommender.algorithms.trainset import arrays

Floats = NDArray[np.float64]

# A matrix over so many has 800 and 400 MB while training,
# which takes three and four times that. Stored, both have 400 MB.
MOST_ITEMS, MOST_USERS = 10_000, 7_000


class _Picks(surprise.AlgoBase):  # type: ignore[misc]
    """What EASE and UserEASE share: known users have a `_score`, others the item's `popularity`."""

    popularity: Floats

    def _score(self, u: Any, i: Any) -> Any:
        raise NotImplementedError

    def estimate(self, u: Any, i: Any) -> float:
        """The score of an item for a user, on the rating scale; of an unknown item it is the lowest."""
        low, high = self.trainset.rating_scale
        if not self.trainset.knows_item(i):
            return float(low)
        score = self._score(u, i) if self.trainset.knows_user(u) else self.popularity[i]
        return float(low + (high - low) * score)


class EASE(_Picks):
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
        max_items: so many are learnt, the most rated.
        rating_weight: from 0, where only having rated an item counts, to 1, where the lowest rating
            counts as 0.

    Attributes after `fit`, for k learnt items: `position` (n_items,) of an item among them, -1 for others;
    `weights` (k, k), float32, from row to column; `popularity` (n_items,); the learnt items of user u are
    `rated[start[u]:start[u + 1]]`, by position, and `value` is what each counts.

    Raises ValueError for invalid parameters.
    """

    def __init__(
        self,
        reg: float = 100.0,
        min_ratings: int = 5,
        rating_weight: float = 0.75,
        max_items: int = MOST_ITEMS,
    ) -> None:
        self.reg, self.min_ratings, self.rating_weight = reg, min_ratings, rating_weight
        self.max_items = max_items
        super().__init__()

    def fit(self, trainset: surprise.Trainset) -> "EASE":
        """Solve for the weights."""
        check_number("reg", self.reg, 0, above=True)
        check_number("min_ratings", self.min_ratings, 0)
        check_number("rating_weight", self.rating_weight, 0, most=1)
        check_number("max_items", self.max_items, 0)
        super().fit(trainset)
        user, item, rating = arrays(trainset)
        count = np.bincount(item, minlength=trainset.n_items)
        self.popularity = count / trainset.n_users
        most = np.argsort(-count, kind="stable")[: self.max_items]
        learnt = np.sort(most[count[most] >= self.min_ratings])
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

    def _score(self, u: Any, i: Any) -> Any:
        row = slice(self.start[u], self.start[u + 1])
        if self.position[i] < 0 or row.stop == row.start:
            return self.popularity[i]
        return self.value[row] @ self.weights[self.rated[row], self.position[i]]


class UserEASE(_Picks):
    """EASE over the users: an item's score for a user is a weighted sum over the others who have rated it.

    The weights are the least squares solution, with ridge `reg`, of finding a user's row of ratings from all
    others'. Rows count less the longer they are: each is divided by the number of its ratings to the power of
    `activity`, and all are multiplied by one `unit`, so that their sum of squares stays. An unknown user
    gets each item's popularity, the share of its users.

    What a rating counts and what `estimate` means are as for EASE, and no item needs a least number of
    ratings. For fewer users than items this takes a fraction of EASE's time.

    Args:
        reg: ridge, above 0; the more ratings, the higher.
        rating_weight: as EASE's.
        activity: from 0, where each rating counts the same, to 1.

    Attributes after `fit`, for n users and m items: user u's items are `rated[start[u]:start[u + 1]]`, and
    `value` is what each counts, scaled; `scale` (n,), what a user's ratings were multiplied by; `unit`;
    `inverse` (n, n), of the system; `popularity` (m,).

    Raises ValueError for invalid parameters, and for more than MOST_USERS users.
    """

    def __init__(self, reg: float = 250.0, rating_weight: float = 0.75, activity: float = 0.3) -> None:
        self.reg, self.rating_weight, self.activity = reg, rating_weight, activity
        super().__init__()

    def fit(self, trainset: surprise.Trainset) -> "UserEASE":
        """Solve for the weights."""
        check_number("reg", self.reg, 0, above=True)
        check_number("rating_weight", self.rating_weight, 0, most=1)
        check_number("activity", self.activity, 0, most=1)
        if trainset.n_users > MOST_USERS:
            raise ValueError(
                f"its memory grows with the square of the users, at most {MOST_USERS} "
                f"(here {trainset.n_users}): take EASE"
            )
        super().fit(trainset)
        user, item, rating = arrays(trainset)
        self.popularity = np.bincount(item, minlength=trainset.n_items) / trainset.n_users
        low, high = trainset.rating_scale
        value = 1 - self.rating_weight + self.rating_weight * (rating - low) / (high - low)
        scale = np.bincount(user, minlength=trainset.n_users).astype(np.float64) ** -self.activity
        size = float(np.sum((value * scale[user]) ** 2))
        # Where every rating counts 0 there is nothing to keep.
        self.unit = float(np.sqrt(np.sum(value**2) / size)) if size else 1.0
        self.scale = self.unit * scale
        rows = sparse.csr_array(
            (value * self.scale[user], (user, item)), shape=(trainset.n_users, trainset.n_items)
        )
        self.start, self.rated, self.value = rows.indptr, rows.indices, rows.data
        system = (rows @ rows.T).toarray()
        system[np.diag_indices(trainset.n_users)] += self.reg
        self.inverse: Floats = linalg.inv(system, overwrite_a=True)
        return self

    def _score(self, u: Any, i: Any) -> Any:
        at = np.flatnonzero(self.rated == i)
        other = np.searchsorted(self.start, at, side="right") - 1
        weights = np.where(other == u, 0.0, self.inverse[u, other])
        return -(weights @ self.value[at]) / (self.inverse[u, u] * self.scale[u])


class AutoEASE(surprise.AlgoBase):  # type: ignore[misc]
    """`UserEASE` where users are no more than items and MOST_USERS, else `EASE`; each with its own defaults.

    `chosen` is, after `fit`, the trained one.
    """

    def __init__(self) -> None:
        super().__init__()

    @staticmethod
    def choice(users: int, items: int) -> EASE | UserEASE:
        """The untrained one for so many users and items."""
        return UserEASE() if users <= min(MOST_USERS, items) else EASE()

    def fit(self, trainset: surprise.Trainset) -> "AutoEASE":
        """Choose by the number of users and items, and train."""
        super().fit(trainset)
        self.chosen = self.choice(trainset.n_users, trainset.n_items).fit(trainset)
        return self

    def estimate(self, u: Any, i: Any) -> float:
        """The chosen one's score of an item for a user, on the rating scale."""
        return float(self.chosen.estimate(u, i))


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
    # LAPACK's order is by column, and serving reads rows.
    weights: NDArray[np.float32] = inverse.astype(np.float32, order="C")
    return weights


KINDS = (EASE, UserEASE, AutoEASE)
