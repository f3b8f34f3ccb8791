"""Surprise's SVD and SVD++, compiled: same draws, same order of ratings, same bits, a fraction of the time.

Sources: scikit-surprise 1.1.5, matrix_factorization.pyx. SVD: Simon Funk, "Netflix Update: Try This at Home"
(2006); Y. Koren, R. Bell, C. Volinsky, "Matrix factorization techniques for recommender systems" (2009),
equation 5. SVD++: Y. Koren, "Factorization meets the neighborhood" (2008), section 4.
"""

import numpy as np
import surprise
from surprise.utils import get_rng

from recommender.algorithms.compiled import arrays, compiled

# No fast mathematics in here: sums are added up in Surprise's order, and nothing is fused.


@compiled()
def _svd(  # type: ignore[no-untyped-def]
    user, item, rating, mean, biased,
    lr_bu, lr_bi, lr_pu, lr_qi, reg_bu, reg_bi, reg_pu, reg_qi, bu, bi, pu, qi,
):  # fmt: skip
    """One epoch."""
    n_factors = pu.shape[1]
    for at in range(len(rating)):
        u, i = user[at], item[at]
        p, q = pu[u], qi[i]
        dot = 0.0
        for f in range(n_factors):
            dot += q[f] * p[f]
        err = rating[at] - (mean + bu[u] + bi[i] + dot)
        if biased:
            bu[u] += lr_bu * (err - reg_bu * bu[u])
            bi[i] += lr_bi * (err - reg_bi * bi[i])
        for f in range(n_factors):
            puf, qif = p[f], q[f]
            p[f] = puf + lr_pu * (err * qif - reg_pu * puf)
            q[f] = qif + lr_qi * (err * puf - reg_qi * qif)


@compiled()
def _svdpp(  # type: ignore[no-untyped-def]
    user, item, rating, mean,
    lr_bu, lr_bi, lr_pu, lr_qi, lr_yj, reg_bu, reg_bi, reg_pu, reg_qi, reg_yj, bu, bi, pu, qi, yj,
):  # fmt: skip
    """One epoch; the ratings of a user follow one another."""
    n_factors = pu.shape[1]
    # A multiple of what the processor does at once, so that no loop has a remainder.
    width = (n_factors + 7) // 8 * 8
    implicit, coming, step = np.zeros(width), np.zeros(width), np.zeros(width)
    seen = np.full(len(bi), -1)
    first = 0
    while first < len(rating):
        u, end = user[first], first
        distinct = True
        while end < len(rating) and user[end] == u:
            distinct &= seen[item[end]] != u
            seen[item[end]] = u
            end += 1
        root = np.sqrt(np.float64(end - first))
        # The user's items in one place while the ratings of the user are gone through.
        block = np.zeros((end - first, width))
        for k in range(end - first):
            block[k, :n_factors] = yj[item[first + k]]
        coming[:] = 0.0
        for k in range(end - first):
            for f in range(width):
                coming[f] += block[k, f] / root
        p = pu[u]
        for at in range(first, end):
            i = item[at]
            q = qi[i]
            implicit[:] = coming
            dot = 0.0
            for f in range(n_factors):
                dot += q[f] * (p[f] + implicit[f])
            err = rating[at] - (mean + bu[u] + bi[i] + dot)
            bu[u] += lr_bu * (err - reg_bu * bu[u])
            bi[i] += lr_bi * (err - reg_bi * bi[i])
            for f in range(n_factors):
                puf, qif = p[f], q[f]
                p[f] = puf + lr_pu * (err * qif - reg_pu * puf)
                q[f] = qif + lr_qi * (err * (puf + implicit[f]) - reg_qi * qif)
                step[f] = err * qif / root
            coming[:] = 0.0
            if distinct:
                for k in range(end - first):
                    y = block[k]
                    for f in range(width):
                        y[f] += lr_yj * (step[f] - reg_yj * y[f])
                        coming[f] += y[f] / root
            else:
                # An item rated twice is moved twice, before it is looked at.
                for k in range(first, end):
                    y = yj[item[k]]
                    for f in range(n_factors):
                        y[f] += lr_yj * (step[f] - reg_yj * y[f])
                for k in range(first, end):
                    y = yj[item[k]]
                    for f in range(n_factors):
                        coming[f] += y[f] / root
        if distinct:
            for k in range(end - first):
                yj[item[first + k]] = block[k, :n_factors]
        first = end


class SVD(surprise.SVD):  # type: ignore[misc]
    """`surprise.SVD`, compiled: same parameters and attributes and, for one seed, the same bits."""

    surprises = surprise.SVD

    def sgd(self, trainset: surprise.Trainset) -> None:
        """Stochastic gradient descent; as Surprise's, it sets bu, bi, pu, qi."""
        draw = get_rng(self.random_state)
        self.bu, self.bi = np.zeros(trainset.n_users), np.zeros(trainset.n_items)
        self.pu, self.qi = (
            draw.normal(self.init_mean, self.init_std_dev, (size, self.n_factors))
            for size in (trainset.n_users, trainset.n_items)
        )
        parts = ("bu", "bi", "pu", "qi")
        rates = [float(getattr(self, f"{kind}_{of}")) for kind in ("lr", "reg") for of in parts]
        columns, mean = arrays(trainset), float(trainset.global_mean) if self.biased else 0.0
        for epoch in range(self.n_epochs):
            if self.verbose:
                print(f"Processing epoch {epoch}")
            _svd(*columns, mean, bool(self.biased), *rates, self.bu, self.bi, self.pu, self.qi)


class SVDpp(surprise.SVDpp):  # type: ignore[misc]
    """`surprise.SVDpp`, compiled: same parameters and attributes and, for one seed, the same bits.

    cache_ratings has no effect: the ratings are arrays anyway.
    """

    surprises = surprise.SVDpp

    def sgd(self, trainset: surprise.Trainset) -> None:
        """Stochastic gradient descent; as Surprise's, it sets bu, bi, pu, qi, yj."""
        draw = get_rng(self.random_state)
        self.bu, self.bi = np.zeros(trainset.n_users), np.zeros(trainset.n_items)
        self.pu, self.qi, self.yj = (
            draw.normal(self.init_mean, self.init_std_dev, (size, self.n_factors))
            for size in (trainset.n_users, trainset.n_items, trainset.n_items)
        )
        parts = ("bu", "bi", "pu", "qi", "yj")
        rates = [float(getattr(self, f"{kind}_{of}")) for kind in ("lr", "reg") for of in parts]
        columns, mean = arrays(trainset), float(trainset.global_mean)
        for epoch in range(self.n_epochs):
            if self.verbose:
                print(f" processing epoch {epoch}")
            _svdpp(*columns, mean, *rates, self.bu, self.bi, self.pu, self.qi, self.yj)
