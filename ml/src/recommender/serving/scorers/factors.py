"""Biases and factors: SVD, SVDpp, NMF, BMF, BaselineOnly, CoClustering."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from recommender.serving.scorers.base import Floats, FoldIn, Index, Scorer


@dataclass(frozen=True, eq=False)
class Factors(Scorer):
    """SVD, SVDpp, NMF, BaselineOnly, CoClustering: biases and a product of factors.

    base + user_bias + item_bias + user_factors · item_factors, of shapes (n+1,), (m+1,), (n+1, f) and
    (m+1, f), float64. If that is NaN, the estimate is `fallback`: the unknown's bias is NaN in algorithms
    without an answer for it.
    """

    base: float
    fallback: float
    user_bias: Floats
    item_bias: Floats
    user_factors: Floats
    item_factors: Floats

    @property
    def n_users(self) -> int:
        """How many users are known."""
        return len(self.user_bias) - 1

    def pairs(self, user: Index, item: Index) -> Floats:
        """Estimates of p pairs; both arrays have shape (p,)."""
        product = np.einsum("ij,ij->i", self.user_factors[user], self.item_factors[item])
        return self._answered(self.base + self.user_bias[user] + self.item_bias[item] + product)

    def of_users(self, user: Index, item: Index) -> Floats:
        """Estimates of b users for p items, shape (b, p)."""
        estimate = self.user_factors[user] @ self.item_factors[item].T
        estimate += (self.base + self.user_bias[user])[:, None]
        estimate += self.item_bias[item]
        return self._answered(estimate)

    def fold_in(self, item: Index, rating: Floats, how: FoldIn, known: int = -1) -> Self:
        """Fit the user by ridge regression of the ratings on the items' factors, shrunk towards other users.

        Bias and factors of the new user are the mean of their posterior when those of the known users are the
        sample of a normal prior and ratings have the variance `noise` around the estimate: Rasmussen and
        Williams (2006), Gaussian Processes for Machine Learning, section 2.1.
        """
        weights, residual, mean = self._regression(item, rating, how)
        user = mean + weights @ residual
        return replace(
            self,
            user_bias=np.append(user[0], self.user_bias[-1]),
            user_factors=np.stack((user[1:], self.user_factors[-1])),
        )

    def _regression(self, item: Index, rating: Floats, how: FoldIn) -> tuple[Floats, Floats, Floats]:
        """Weights (f+1, h), residuals of the ratings at the prior's mean (h,), and that mean (f+1,)."""
        mean, spread = self._prior()
        seen = np.column_stack((np.ones(len(item)), self.item_factors[item]))
        residual = rating - self.base - self.item_bias[item] - seen @ mean
        # Unseen items carry no information.
        unseen = ~np.isfinite(residual)
        seen[unseen], residual[unseen] = 0, 0
        pull = spread @ seen.T
        system = how["noise"] * np.eye(len(mean)) + pull @ seen
        weights: Floats = np.asarray(np.linalg.solve(system, pull), dtype=np.float64)
        return weights, residual, mean

    def _prior(self) -> tuple[Floats, Floats]:
        """Mean (f+1,) and covariance (f+1, f+1) of the known users' bias and factors."""
        cached: tuple[Floats, Floats] | None = self.__dict__.get("_moments")
        if cached is None:
            known = np.column_stack((self.user_bias, self.user_factors))[:-1]
            known = known[np.isfinite(known).all(axis=1)]
            cached = known.mean(axis=0), np.atleast_2d(np.cov(known, rowvar=False, bias=True))
            object.__setattr__(self, "_moments", cached)
        return cached

    def similar(self, item: int) -> Floats | None:
        """Cosine of the items' factors; None for a model of biases only."""
        factors = self.item_factors[:-1]
        if factors.shape[1] == 0:
            return None
        length = np.sqrt(np.einsum("ij,ij->i", factors, factors))
        product = length * length[item]
        cosine = np.zeros(len(factors))
        np.divide(factors @ factors[item], product, out=cosine, where=product > 0)
        return cosine

    def reasons(self, item: int, rated: Index, rating: Floats, how: FoldIn, known: int = -1) -> Floats | None:
        """Return each rating's term: a folded-in user's estimate is linear in the ratings.

        As Hu, Koren and Volinsky (2008), section 5, doi:10.1109/ICDM.2008.22. None for a model of biases
        only.
        """
        if self.item_factors.shape[1] == 0:
            return None
        weights, residual, _ = self._regression(rated, rating, how)
        # Without the bias, which is the same for every item.
        terms: Floats = (self.item_factors[item] @ weights[1:]) * residual
        return terms

    def _answered(self, estimate: Floats) -> Floats:
        return np.where(np.isnan(estimate), self.fallback, estimate)
