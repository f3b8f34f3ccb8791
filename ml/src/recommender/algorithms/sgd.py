"""Surprise's SVD and SVD++, compiled: same draws, same sums in the same order, same bits, in less time.

Sources: scikit-surprise 1.1.5, matrix_factorization.pyx. SVD: Simon Funk, "Netflix Update: Try This at Home"
(2006); Y. Koren, R. Bell, C. Volinsky, "Matrix factorization techniques for recommender systems" (2009),
equation 5. SVD++: Y. Koren, "Factorization meets the neighborhood" (2008), section 4.
"""

import numpy as np
import surprise
from surprise.utils import get_rng

from recommender.algorithms.trainset import arrays
from recommender.compiled import compiled

# No fast mathematics: sums keep Surprise's order, nothing is fused.


# Ratings of different users and items do not touch one another's factors, and several are worked on at once:
# the processor then does not wait for one sum after the other. They are the next ratings of so many users.
_AHEAD = 64


@compiled()
def _plan(user, item, n_items):  # type: ignore[no-untyped-def]
    """An order of the ratings that gives the same result, and the sizes of groups of up to four in it.

    Each user's ratings and each item's keep their order, and in a group no user and no item is there twice.
    The ratings of a user follow one another in the input.
    """
    n = len(user)
    turn, done = np.empty(n, np.int32), np.zeros(n_items, np.int32)
    for at in range(n):
        turn[at] = done[item[at]]
        done[item[at]] += 1
    done[:] = 0
    order, size = np.empty(n, np.int32), np.empty(n, np.int32)
    place, end = np.empty(_AHEAD, np.int64), np.empty(_AHEAD, np.int64)
    chosen = np.empty(4, np.int64)
    open_, coming, planned, groups = 0, 0, 0, 0
    while planned < n:
        while open_ < _AHEAD and coming < n:
            place[open_] = coming
            u = user[coming]
            while coming < n and user[coming] == u:
                coming += 1
            end[open_] = coming
            open_ += 1
        found = 0
        for slot in range(open_):
            at = place[slot]
            if turn[at] == done[item[at]]:
                order[planned + found] = at
                chosen[found] = slot
                found += 1
                if found == 4:
                    break
        for k in range(found):
            done[item[order[planned + k]]] += 1
            place[chosen[k]] += 1
        left = 0
        for slot in range(open_):
            if place[slot] < end[slot]:
                place[left], end[left] = place[slot], end[slot]
                left += 1
        open_ = left
        planned += found
        size[groups] = found
        groups += 1
    return order, size[:groups]


@compiled()
def _svd(  # type: ignore[no-untyped-def]
    user, item, rating, size, mean, biased,
    lr_bu, lr_bi, lr_pu, lr_qi, reg_bu, reg_bi, reg_pu, reg_qi, bu, bi, pu, qi,
):  # fmt: skip
    """One epoch, in the order and the groups of a plan."""
    n_factors = pu.shape[1]
    product, dot = np.zeros((4, n_factors)), np.empty(4)
    first = 0
    for group in size:
        for k in range(group):
            p, q, row = pu[user[first + k]], qi[item[first + k]], product[k]
            for f in range(n_factors):
                row[f] = q[f] * p[f]
        # Each sum in Surprise's order; what an earlier group left in the other rows costs nothing.
        a = b = c = d = 0.0
        for f in range(n_factors):
            a += product[0, f]
            b += product[1, f]
            c += product[2, f]
            d += product[3, f]
        dot[0], dot[1], dot[2], dot[3] = a, b, c, d
        for k in range(group):
            at = first + k
            u, i = user[at], item[at]
            err = rating[at] - (mean + bu[u] + bi[i] + dot[k])
            if biased:
                bu[u] += lr_bu * (err - reg_bu * bu[u])
                bi[i] += lr_bi * (err - reg_bi * bi[i])
            p, q = pu[u], qi[i]
            for f in range(n_factors):
                puf, qif = p[f], q[f]
                p[f] = puf + lr_pu * (err * qif - reg_pu * puf)
                q[f] = qif + lr_qi * (err * puf - reg_qi * qif)
        first += group


@compiled()
def _svdpp(  # type: ignore[no-untyped-def]
    user, item, rating, mean,
    lr_bu, lr_bi, lr_pu, lr_qi, lr_yj, reg_bu, reg_bi, reg_pu, reg_qi, reg_yj, bu, bi, pu, qi, yj,
):  # fmt: skip
    """One epoch; the ratings of a user follow one another."""
    n_factors = pu.shape[1]
    # A multiple of the vector width: loops have no remainder.
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
        order, size = _plan(*columns[:2], trainset.n_items)
        columns = columns[0][order], columns[1][order], columns[2][order]
        for epoch in range(self.n_epochs):
            if self.verbose:
                print(f"Processing epoch {epoch}")
            _svd(*columns, size, mean, bool(self.biased), *rates, self.bu, self.bi, self.pu, self.qi)


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
