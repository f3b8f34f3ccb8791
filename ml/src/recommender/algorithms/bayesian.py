"""Bayesian matrix factorisation by Gibbs sampling, with the rated pairs as side information.

Sources: R. Salakhutdinov and A. Mnih, "Bayesian probabilistic matrix factorization using Markov chain Monte
Carlo" (ICML 2008), the model and its priors; J. Simm et al., "Macau: scalable Bayesian factorization with
high-dimensional side information using MCMC" (2015), the link from side information to a factor's mean;
Y. Koren, "Factorization meets the neighborhood" (KDD 2008), the implicit term; S. Rendle, L. Zhang and
Y. Koren, "On the difficulty of evaluating baselines" (2019), that term for items as well ("flipped");
J. Liu, "The collapsed Gibbs sampler" (1994), drawing the links with the factors integrated out.
"""

from typing import Any

import numpy as np
import surprise
from numpy.typing import NDArray
from surprise.utils import get_rng
from threadpoolctl import threadpool_limits

from recommender.algorithms.parameters import check_number
from recommender.algorithms.trainset import arrays
from recommender.compiled import compiled

Floats = NDArray[np.float64]

# Vector instructions need reordered sums; each draw is checked to be finite.
_FAST = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}}
# Triangles are stored by row: entry (p, q), q <= p, at p (p + 1) / 2 + q.


@compiled(**_FAST)
def _draw(a, b, z):  # type: ignore[no-untyped-def]
    """Put a draw from N(a⁻¹ b, a⁻¹) into `b`; the triangle `a` becomes its Cholesky factor, z is normal."""
    d = len(b)
    for p in range(d):
        row = p * (p + 1) // 2
        for q in range(p + 1):
            column = q * (q + 1) // 2
            s = a[row + q]
            for k in range(q):
                s -= a[row + k] * a[column + k]
            a[row + q] = np.sqrt(s) if p == q else s / a[column + q]
    _solve(a, b, z)


@compiled(**_FAST)
def _solve(a, b, z):  # type: ignore[no-untyped-def]
    """The same with a Cholesky factor `a`."""
    d = len(b)
    for p in range(d):
        row = p * (p + 1) // 2
        s = b[p]
        for k in range(p):
            s -= a[row + k] * b[k]
        b[p] = s / a[row + p]
    for p in range(d - 1, -1, -1):
        row = p * (p + 1) // 2
        b[p] = (b[p] + z[p]) / a[row + p]
        for k in range(p):
            b[k] -= a[row + k] * b[p]


@compiled(**_FAST)
def _posterior(first, near, residual, other, alpha, precision, slope):  # type: ignore[no-untyped-def]
    """Each row's precision (a triangle) and alpha times the sum of v r; the prior is N(0, 1)."""
    d, size = other.shape[1], precision.shape[1]
    outer = np.empty((len(other), size))
    for i in range(len(other)):
        for p in range(d):
            for q in range(p + 1):
                outer[i, p * (p + 1) // 2 + q] = alpha * other[i, p] * other[i, q]
    for u in range(len(precision)):
        total, b = precision[u], slope[u]
        total[:] = 0.0
        b[:] = 0.0
        for p in range(d):
            total[p * (p + 1) // 2 + p] = 1.0
        for at in range(first[u], first[u + 1]):
            product, v, r = outer[near[at]], other[near[at]], alpha * residual[at]
            for k in range(size):
                total[k] += product[k]
            for k in range(d):
                b[k] += r * v[k]


@compiled(**_FAST)
def _links(  # type: ignore[no-untyped-def]
    precision, slope, mean, weight, first, near, link, prior, z, base, base_z,
):  # fmt: skip
    """Draw the links and the base of the rows' means, the rows themselves integrated out; moves `mean`.

    A row's mean has precision C = 1 - P⁻¹ and gradient P⁻¹ b - C mean, where P is the row's own precision, of
    which the Cholesky factor is left.
    """
    n, d = slope.shape
    size = precision.shape[1]
    curve, gradient = np.empty((n, size)), np.empty((n, d))
    inverse = np.zeros((d, d))
    b, moved, zero = np.empty(d), np.empty(d), np.zeros(d)
    for u in range(n):
        a = precision[u]
        for k in range(d):
            b[k] = slope[u, k]
        _draw(a, b, zero)
        for p in range(d):
            row = p * (p + 1) // 2
            inverse[p, p] = 1.0 / a[row + p]
            for q in range(p):
                s = 0.0
                for k in range(q, p):
                    s -= a[row + k] * inverse[k, q]
                inverse[p, q] = s / a[row + p]
        c = curve[u]
        c[:] = 0.0
        for k in range(d):
            for p in range(k + 1):
                w = inverse[k, p]
                for q in range(p + 1):
                    c[p * (p + 1) // 2 + q] -= w * inverse[k, q]
        for p in range(d):
            c[p * (p + 1) // 2 + p] += 1.0
        _times(c, mean[u], moved)
        for p in range(d):
            gradient[u, p] = b[p] - moved[p]
    a = np.empty(size)
    for j in range(-1, len(link)):
        # The base is a feature that every row has, with weight 1.
        old, noise = (base, base_z) if j < 0 else (link[j], z[j])
        start, end = (0, n) if j < 0 else (first[j], first[j + 1])
        a[:] = 0.0
        b[:] = 0.0
        for at in range(start, end):
            u = at if j < 0 else near[at]
            w = 1.0 if j < 0 else weight[u]
            c, square = curve[u], w * w
            for k in range(size):
                a[k] += square * c[k]
            for k in range(d):
                b[k] += w * gradient[u, k]
        _times(a, old, moved)
        for k in range(d):
            b[k] += moved[k]
        if j < 0:
            for p in range(d):
                a[p * (p + 1) // 2 + p] += 1.0
        else:
            for k in range(size):
                a[k] += prior[k]
        _draw(a, b, noise)
        for k in range(d):
            moved[k] = b[k] - old[k]
            old[k] = b[k]
        for at in range(start, end):
            u = at if j < 0 else near[at]
            w = 1.0 if j < 0 else weight[u]
            c = curve[u]
            for p in range(d):
                row = p * (p + 1) // 2
                step = w * moved[p]
                mean[u, p] += step
                s = c[row + p] * step
                for q in range(p):
                    s += c[row + q] * w * moved[q]
                    gradient[u, q] -= c[row + q] * step
                gradient[u, p] -= s


@compiled(**_FAST)
def _times(a, x, out):  # type: ignore[no-untyped-def]
    """The symmetric matrix of a triangle times a vector."""
    for p in range(len(x)):
        row = p * (p + 1) // 2
        s = a[row + p] * x[p]
        for q in range(p):
            s += a[row + q] * x[q]
            out[q] += a[row + q] * x[p]
        out[p] = s


@compiled(**_FAST)
def _rows(factor, slope, mean, z, out):  # type: ignore[no-untyped-def]
    """Draw every row, given its mean and the Cholesky factor of its precision."""
    for u in range(len(out)):
        for k in range(out.shape[1]):
            out[u, k] = slope[u, k] + mean[u, k]
        _solve(factor[u], out[u], z[u])


@compiled(**_FAST)
def _residuals(user, item, rating, users, items, out):  # type: ignore[no-untyped-def]
    """Compute the residuals; the last column of both is a bias. Returns the sum of squares."""
    d = users.shape[1] - 1
    total = 0.0
    for at in range(len(rating)):
        p, q = users[user[at]], items[item[at]]
        s = p[d] + q[d]
        for k in range(d):
            s += p[k] * q[k]
        out[at] = rating[at] - s
        total += out[at] * out[at]
    return total


class _Side:
    """The users, or the items: rows of factors and a bias, their prior, and links to the other side."""

    def __init__(
        self, key: Any, near: Any, rating: Floats, size: int, n_links: int, d: int, draw: Any
    ) -> None:
        count = np.bincount(key, minlength=size)
        self.first = np.concatenate(([0], np.cumsum(count)))
        order = np.argsort(key, kind="stable")
        self.near, self.rating = near[order], rating[order]
        self.weight = 1 / np.sqrt(np.maximum(count, 1.0))
        self.rows = draw.normal(0, 0.1, (size, d))
        self.rows[:, -1] = 0
        self.mean, self.base = np.zeros((size, d)), np.zeros(d)
        self.links = np.zeros((n_links, d))

    def update(self, other: "_Side", alpha: float, implicit: bool, link_precision: float, draw: Any) -> None:
        """One Gibbs step of this side given the other."""
        n, d = self.rows.shape
        root = np.linalg.cholesky(_wishart(self.rows - self.mean, draw))
        # In these coordinates the prior of a row is N(mean, 1).
        back = np.linalg.inv(root)
        beside = np.append(other.rows[:, :-1], np.ones((len(other.rows), 1)), axis=1) @ back.T
        prior = (link_precision * back @ back.T)[np.tril_indices(d)]
        self.mean, self.links, self.base = self.mean @ root, self.links @ root, self.base @ root
        precision, slope = np.empty((n, d * (d + 1) // 2)), np.empty((n, d))
        residual = self.rating - other.rows[self.near, -1]
        _posterior(self.first, self.near, residual, beside, alpha, precision, slope)
        first, near = (other.first, other.near) if implicit else (np.zeros(1, np.int64), self.near)
        links = self.links if implicit else self.links[:0]
        z = draw.standard_normal((len(links) + 1, d))
        _links(
            precision, slope, self.mean, self.weight, first, near, links, prior, z[1:], self.base, z[0]
        )  # fmt: skip
        rows = np.empty((n, d))
        _rows(precision, slope, self.mean, draw.standard_normal((n, d)), rows)
        self.rows, self.mean, self.links, self.base = (
            x @ back for x in (rows, self.mean, self.links, self.base)
        )


def _wishart(x: Floats, draw: Any) -> Floats:
    """A precision drawn given rows with mean 0; its prior is Wishart, d degrees of freedom, scale 1."""
    n, d = x.shape
    scale = np.linalg.cholesky(np.linalg.inv(np.eye(d) + x.T @ x))
    bartlett = np.tril(draw.standard_normal((d, d)), -1)
    bartlett[np.diag_indices(d)] = np.sqrt(draw.chisquare(d + n - np.arange(d)))
    factor = scale @ bartlett
    precision: Floats = factor @ factor.T
    return precision


class BMF(surprise.AlgoBase):  # type: ignore[misc]
    """Bayesian matrix factorisation: the mean over Gibbs samples, the most accurate rating model here.

    A rating is normal around mean + b_u + b_i + <p_u, q_i>. (p_u, b_u) is normal around a base plus, when
    `implicit`, the sum of a vector for each item that u has rated, over the root of their number; likewise
    (q_i, b_i) and the users who have rated i. All priors are learnt, so there is no learning rate and no
    regularisation to tune. The samples' mean estimate is kept as biases and a product of factors of
    `n_kept` dimensions, the closest there is (N. Halko, P. Martinsson, J. Tropp, "Finding structure with
    randomness", 2011): the model is served as SVD's is.

    The first samples, once the worst are past, differ most and average best: on the embedded set a chain of
    30 estimates better than one of 100. Likewise `link_precision`: learnt, it costs accuracy.

    Args:
        n_factors: dimensions of a sample's factors; the time grows with their square.
        n_epochs: averaged samples; their float32 rows are held in memory.
        n_burn_in: earlier samples, which are dropped.
        implicit: use the rated pairs, apart from their ratings.
        link_precision: of the normal prior of the vectors that `implicit` adds up, with mean 0; above 0, in
            units of the ratings' standard deviation.
        n_kept: dimensions of the factors that are kept.
        random_state: seed, RandomState, or None.
        verbose: print each sample's residual.

    Attributes after `fit`: bu (n_users,), bi (n_items,), pu (n_users, n_kept), qi (n_items, n_kept), and
    `noise`, the standard deviation of a rating around its estimate in the samples' mean, in rating units.

    Raises ValueError for invalid parameters.
    """

    # Surprise's SVD has the same formula and the same arrays.
    surprises = surprise.SVD

    def __init__(
        self,
        n_factors: int = 10,
        n_epochs: int = 25,
        n_burn_in: int = 5,
        implicit: bool = True,
        link_precision: float = 30.0,
        n_kept: int = 100,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_factors, self.n_epochs, self.n_burn_in = n_factors, n_epochs, n_burn_in
        self.implicit, self.link_precision, self.n_kept = implicit, link_precision, n_kept
        self.random_state, self.verbose, self.biased = random_state, verbose, True
        super().__init__()

    def fit(self, trainset: surprise.Trainset) -> "BMF":
        """Draw the samples and keep their mean."""
        # For matrices this small, threads cost more than they give.
        with threadpool_limits(1):
            return self._fit(trainset)

    def _fit(self, trainset: surprise.Trainset) -> "BMF":
        for name, least in (("n_factors", 0), ("n_epochs", 1), ("n_burn_in", 0), ("n_kept", 1)):
            check_number(name, getattr(self, name), least, whole=True)
        check_number("link_precision", self.link_precision, 0, above=True)
        super().fit(trainset)
        draw = get_rng(self.random_state)
        user, item, rating = arrays(trainset)
        # All-equal ratings have deviation 0, which would divide by 0.
        unit, d = float(rating.std()), self.n_factors + 1
        rating = (rating - trainset.global_mean) / (unit or 1.0)
        sizes = trainset.n_users, trainset.n_items
        users = _Side(user, item, rating, *sizes, d, draw)
        items = _Side(item, user, rating, *sizes[::-1], d, draw)
        residual = np.empty(len(rating))
        kept = [np.empty((self.n_epochs, size, d), np.float32) for size in sizes]
        variance = 0.0
        for at in range(-self.n_burn_in, self.n_epochs):
            squares = _residuals(user, item, rating, users.rows, items.rows, residual)
            # A gamma prior of shape and rate 1 on the precision.
            alpha = draw.gamma(len(rating) / 2 + 1) / (squares / 2 + 1)
            users.update(items, alpha, self.implicit, self.link_precision, draw)
            items.update(users, alpha, self.implicit, self.link_precision, draw)
            if self.verbose:
                print(f"Processing epoch {at}: residual {np.sqrt(squares / len(rating)):.4f}")
            if at >= 0:
                kept[0][at], kept[1][at] = users.rows, items.rows
                variance += 1 / alpha / self.n_epochs
        self.noise = unit * float(np.sqrt(variance))
        bu, bi = (unit * rows[:, :, -1].mean(axis=0, dtype=np.float64) for rows in kept)
        pu, qi = _mean_product(kept[0][:, :, :-1], kept[1][:, :, :-1], self.n_kept, draw)
        # The users' mean moves to the items: unknown users are average ones.
        self.bu, self.bi = bu - bu.mean(), bi + bu.mean() + unit * (qi @ pu.mean(axis=0))
        self.pu, self.qi = np.sqrt(unit) * (pu - pu.mean(axis=0)), np.sqrt(unit) * qi
        return self

    def estimate(self, u: Any, i: Any) -> float:
        """Estimate like SVD: an unknown user or item adds nothing."""
        known_user, known_item = self.trainset.knows_user(u), self.trainset.knows_item(i)
        estimate = self.trainset.global_mean
        if known_user:
            estimate += self.bu[u]
        if known_item:
            estimate += self.bi[i]
        if known_user and known_item:
            estimate += np.dot(self.qi[i], self.pu[u])
        return float(estimate)


def _mean_product(left: Any, right: Any, rank: int, draw: Any) -> tuple[Floats, Floats]:
    """Factors whose product is nearest to the mean of left[s] @ right[s].T.

    Shapes: left (s, n, k), right (s, m, k), the factors (n, rank) and (m, rank), of fewer columns where there
    are not so many rows.
    """
    n_samples, n, _ = left.shape
    rank = min(rank, n, right.shape[1])

    def product(a: Any, b: Any, x: Floats) -> Floats:
        total = np.zeros((a.shape[1], x.shape[1]))
        for p, q in zip(a, b, strict=True):
            total += p @ (q.T @ x)
        total /= n_samples
        return total

    x = draw.standard_normal((right.shape[1], min(rank + 10, n, right.shape[1])))
    for _ in range(2):
        basis = np.linalg.qr(product(left, right, x))[0]
        x = product(right, left, basis)
    vectors, values, turned = np.linalg.svd(x, full_matrices=False)
    root = np.sqrt(values[:rank])
    p: Floats = basis @ turned[:rank].T * root
    q: Floats = vectors[:, :rank] * root
    return p, q
