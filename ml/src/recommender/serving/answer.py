"""Define the served contract: a frame of requests in, a frame of answers out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np

from recommender.errors import InputError
from recommender.serving.recommender import History, Lists, Recommender

if TYPE_CHECKING:
    import pandas as pd

PAIR_COLUMNS = ["user", "item", "estimate", "known_user"]
LIST_COLUMNS = ["user", "item", "title", "estimate", "score", "rank", "known_user"]
SIMILAR_COLUMNS = ["similar_to", "item", "title", "similarity", "rank"]


def answer(recommender: Recommender, request: "pd.DataFrame") -> "pd.DataFrame":
    """Answer a request frame; ids are text or whole numbers.

    Columns user and item: one row for each, with the estimated rating. Column user and optionally k,
    without item: for each row the k best items (k from the model's settings when missing), rank 1 first, each
    with its estimated rating, and the score that orders the list.
    Column similar_to and optionally k: for each row the k nearest items, rank 1 first.

    Optional column history, beside user: a dictionary {item: rating} or None in each row, the ratings since
    the training, or all ratings of a new user. Unknown items in it are ignored. known_user says whether the
    answer is personal; an unknown user gets the popular items. Optional column reasons, beside k: a number.
    The answer's column because then names as many ratings in favour of the item.

    Raises InputError for a frame without user, an empty id, a k or reasons that is not a whole number above
    0, an invalid history, ratings off the scale, and an unknown item in similar_to.
    """
    # recommender.serving must import with numpy alone.
    import pandas as pd

    if isinstance(request, pd.DataFrame) and "similar_to" in request:
        asked = zip(_ids(request, "similar_to"), _lengths(request, "k"), strict=True)
        rows = [
            (item, pick.item, pick.title, pick.estimate, pick.rank)
            for item, k in asked
            for pick in recommender.similar(item, k)
        ]
        return pd.DataFrame(rows, columns=SIMILAR_COLUMNS)
    if not isinstance(request, pd.DataFrame) or "user" not in request:
        raise InputError(
            "The request has no column 'user'. Send user and item for estimates, user and k for lists, "
            "similar_to for similar items."
        )
    users = _ids(request, "user")
    histories = _histories(request)
    if "item" in request:
        return _pairs(recommender, users, _ids(request, "item"), histories)
    return _lists(recommender, users, _lengths(request, "k"), histories, _lengths(request, "reasons"))


def _pairs(
    recommender: Recommender, users: list[str], items: list[str], histories: list[History | None]
) -> "pd.DataFrame":
    import pandas as pd

    estimates = recommender.estimate(users, items)
    known = [recommender.knows(user) for user in users]
    for row, history in enumerate(histories):
        if history is not None:
            with _row(row):
                estimates[row] = recommender.estimate([users[row]], [items[row]], history)[0]
            known[row] = known[row] or recommender.knows_any(history)
    return pd.DataFrame(dict(zip(PAIR_COLUMNS, [users, items, estimates, known], strict=True)))


def _lists(
    recommender: Recommender,
    users: list[str],
    lengths: list[int | None],
    histories: list[History | None],
    reasons: list[int | None],
) -> "pd.DataFrame":
    import pandas as pd

    usual = recommender.settings["k"]
    wanted = np.array([usual if k is None else k for k in lengths], dtype=np.int64)
    parts: list[Lists] = []
    plain = [row for row, history in enumerate(histories) if history is None]
    if plain:
        at = np.array(plain)
        for block in recommender.recommend([users[row] for row in plain], int(wanted[at].max())):
            parts.append(replace(block, user=at[block.user]))
    for row, history in enumerate(histories):
        if history is not None:
            with _row(row):
                block = recommender.list_for(users[row], int(wanted[row]), history)
            parts.append(replace(block, user=block.user + row))
    if not parts:
        return pd.DataFrame([], columns=LIST_COLUMNS)
    lists = Lists(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Lists)))
    kept = np.flatnonzero(lists.rank <= wanted[lists.user])
    kept = kept[np.argsort(lists.user[kept], kind="stable")]
    user, item = lists.user[kept], lists.item[kept]
    columns = [
        np.array(users, dtype=object)[user],
        np.array(recommender.items, dtype=object)[item],
        np.array(recommender.titles, dtype=object)[item],
        lists.estimate[kept],
        lists.score[kept],
        lists.rank[kept],
        lists.known[kept],
    ]
    answered = pd.DataFrame(dict(zip(LIST_COLUMNS, columns, strict=True)))
    if any(n is not None for n in reasons):
        answered["because"] = [
            because(recommender, users[row], recommender.items[i], reasons[row], histories[row])
            for row, i in zip(user.tolist(), item.tolist(), strict=True)
        ]
    return answered


def because(
    recommender: Recommender, user: str, item: str, n: int | None, history: History | None = None
) -> str:
    """Return up to n ratings in favour of an item as text, as "Toy Story (4); Heat (3.5)", or ""."""
    found = recommender.reasons(user, item, n, history) if n is not None else []
    return "; ".join(f"{reason.title or reason.item} ({reason.rating:g})" for reason in found)


@contextmanager
def _row(row: int) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"Row {row}, {error}") from error


def _histories(request: "pd.DataFrame") -> list[History | None]:
    if "history" not in request:
        return [None] * len(request)
    histories: list[History | None] = []
    for row, value in enumerate(request["history"].tolist()):
        if value is None or (isinstance(value, float) and np.isnan(value)):
            histories.append(None)
        elif isinstance(value, Mapping):
            histories.append({str(item).strip(): rating for item, rating in value.items()})
        else:
            raise InputError(
                f"Row {row} has history = {value!r}. A history is a dictionary, item: rating, as "
                '{"318": 4.5, "1": 3}.'
            )
    return histories


def _ids(request: "pd.DataFrame", column: str) -> list[str]:
    import pandas as pd

    values = request[column].tolist()
    for row, value in enumerate(values):
        if pd.isna(value) or str(value).strip() == "":
            raise InputError(f"Row {row} has no {column}. Give every row an id.")
    # A column with a gap turns 7 into 7.0, the same id.
    return [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v).strip() for v in values]


def _lengths(request: "pd.DataFrame", column: str) -> list[int | None]:
    import pandas as pd

    if column not in request:
        return [None] * len(request)
    lengths: list[int | None] = []
    for row, value in enumerate(request[column].tolist()):
        if pd.isna(value):
            lengths.append(None)
        elif (
            isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1 or value != int(value)
        ):
            raise InputError(f"Row {row} asks for {column} = {value!r}. {column} is a whole number above 0.")
        else:
            lengths.append(int(value))
    return lengths
