"""Generate MovieLens-like ratings with a known structure, to test scale and learning."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recommender import files
from recommender.data.ratings import Ratings
from recommender.errors import InputError

# Ratings per multiplication of factors.
_BLOCK = 2**20
_GROUPS = 10
# Range of written times in seconds since 1970: 1996 to 2024.
_YEARS = (820_454_400, 1_704_067_200)


def generate(
    n: int,
    seed: int = 0,
    users: int | None = None,
    items: int | None = None,
    factors: int = 8,
    noise: float = 0.8,
) -> Ratings:
    """Generate exactly n ratings in half stars; equal arguments give equal ratings.

    A rating is 3.5 + bias of user (deviation 0.4) + bias of item (0.5) + product of `factors` normal factors
    (0.6) + normal noise (`noise`, in stars), rounded to half stars and clipped to 0.5 and 5. The activity of
    users is log-normal, the popularity of items a power law of their rank: both have a long tail. Users and
    items belong to _GROUPS groups, and half of a user's picks are from the own group: what lists can learn.
    Pairs are independent of ratings. By default there are n / 145 users and 6 sqrt(n) items, as in MovieLens'
    sets. Ids count from 1; ids without a rating are skipped.
    Raises InputError if n different pairs cannot be drawn.
    """
    items = max(9, int(6 * max(n, 0) ** 0.5)) if items is None else items
    users = max(9, n // 145, 4 * n // items + 1) if users is None else users
    if not 1 <= n <= users * items // 4:
        raise InputError(
            f"{n} ratings of {users} users for {items} items: draw 1 to {users * items // 4}, a quarter of "
            "the pairs, or name more users and items."
        )
    draw = np.random.default_rng(seed)
    pair = _pairs(draw, n, users, items)
    user, item = (pair // items).astype(np.int32), (pair % items).astype(np.int32)
    del pair
    user_bias, item_bias = draw.normal(0, 0.4, users), draw.normal(0, 0.5, items)
    spread = (0.6**2 / factors) ** 0.25 if factors else 0.0
    tastes, traits = draw.normal(0, spread, (users, factors)), draw.normal(0, spread, (items, factors))
    rating = np.empty(n)
    for at in range(0, n, _BLOCK):
        u, i = user[at : at + _BLOCK], item[at : at + _BLOCK]
        score = 3.5 + user_bias[u] + item_bias[i] + np.einsum("ij,ij->i", tastes[u], traits[i])
        score += draw.normal(0, noise, len(u))
        rating[at : at + _BLOCK] = np.clip(np.round(2 * score) / 2, 0.5, 5)
    (user, known_users), (item, known_items) = _present(user, users), _present(item, items)
    return Ratings(known_users, known_items, user, item, rating, name=f"synthetic-{n}")


def write(ratings: Ratings, path: Path, seed: int = 0) -> None:
    """Write ratings in MovieLens' layout with random times: .parquet files, or CSV for other names.

    Raises InputError if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    draw = np.random.default_rng([seed, 1])
    try:
        columns = {
            "userId": pa.DictionaryArray.from_arrays(ratings.user, list(ratings.users)).dictionary_decode(),
            "movieId": pa.DictionaryArray.from_arrays(ratings.item, list(ratings.items)).dictionary_decode(),
            "rating": ratings.rating,
            "timestamp": draw.integers(*_YEARS, len(ratings)),
        }
        table = pa.table(columns)
        with files.replacing(path) as part:
            if path.suffix == ".parquet":
                pyarrow.parquet.write_table(table, part)
            else:
                options = pyarrow.csv.WriteOptions(quoting_style="none")
                pyarrow.csv.write_csv(table, part, options)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}. Name a file that you can write.") from error


def _pairs(draw: np.random.Generator, n: int, users: int, items: int) -> NDArray[np.int64]:
    """Draw n different pairs user * items + item, ascending."""
    activity = np.cumsum(draw.lognormal(0, 1.0, users))
    appeal = np.cumsum((np.arange(items) + 0.005 * items + 1) ** -1.0)
    place, group = draw.permutation(items), draw.integers(_GROUPS, size=users)
    pair = np.zeros(0, dtype=np.int64)
    while len(pair) < n:
        more = int(1.2 * (n - len(pair))) + 16
        user = np.searchsorted(activity, draw.random(more) * activity[-1])
        rank = np.searchsorted(appeal, draw.random(more) * appeal[-1])
        # An item of nearly the same popularity, of the user's group.
        own = rank - rank % _GROUPS + group[user]
        item = place[np.where((draw.random(more) < 0.5) & (own < items), own, rank)]
        pair = np.union1d(pair, user * items + item)
    if len(pair) > n:
        surplus = draw.choice(len(pair), len(pair) - n, replace=False, shuffle=False)
        pair = np.delete(pair, surplus)
    return pair


def _present(codes: NDArray[np.int32], size: int) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return the codes without gaps, and the remaining ids in the canonical, numeric order."""
    there = np.bincount(codes, minlength=size) > 0
    return (np.cumsum(there) - 1).astype(np.int32)[codes], tuple(map(str, np.flatnonzero(there) + 1))
