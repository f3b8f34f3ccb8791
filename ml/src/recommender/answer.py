"""The served contract: a frame of requests in, a frame of answers out."""

import pandas as pd

from recommender.errors import InputError
from recommender.model import Recommender

PAIR_COLUMNS = ["user", "item", "estimate", "known_user"]
LIST_COLUMNS = ["user", "item", "title", "estimate", "rank", "known_user"]


def answer(recommender: Recommender, request: pd.DataFrame) -> pd.DataFrame:
    """Answer a request frame; ids are text or whole numbers.

    Columns user and item: one row back for each, with the estimated rating. Column user and optionally k,
    without item: for each row the k best items (k from the model's settings when missing), rank 1 first.
    known_user says whether the answer is personal; a user nobody knows gets the popular items.
    Raises InputError for a frame without user, an empty id and a k that is no whole number above 0.
    """
    if not isinstance(request, pd.DataFrame) or "user" not in request:
        raise InputError(
            "The request has no column 'user'. Send user and item for estimates, user and k for lists."
        )
    users = _ids(request, "user")
    if "item" in request:
        items = _ids(request, "item")
        columns = [
            users,
            items,
            recommender.estimate(users, items),
            [recommender.knows(user) for user in users],
        ]
        return pd.DataFrame(dict(zip(PAIR_COLUMNS, columns, strict=True)))
    rows = [
        (user, pick.item, pick.title, pick.estimate, pick.rank, recommender.knows(user))
        for user, k in zip(users, _lengths(request), strict=True)
        for pick in recommender.top_n(user, k)
    ]
    return pd.DataFrame(rows, columns=LIST_COLUMNS)


def _ids(request: pd.DataFrame, column: str) -> list[str]:
    values = request[column].tolist()
    for row, value in enumerate(values):
        if pd.isna(value) or str(value).strip() == "":
            raise InputError(f"Row {row} has no {column}. Give every row an id.")
    # A column that once held a gap reaches us as 7.0, and is the same id as 7.
    return [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v).strip() for v in values]


def _lengths(request: pd.DataFrame) -> list[int | None]:
    if "k" not in request:
        return [None] * len(request)
    lengths: list[int | None] = []
    for row, value in enumerate(request["k"].tolist()):
        if pd.isna(value):
            lengths.append(None)
        elif (
            isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1 or value != int(value)
        ):
            raise InputError(f"Row {row} asks for k = {value!r}. k is a whole number above 0.")
        else:
            lengths.append(int(value))
    return lengths
