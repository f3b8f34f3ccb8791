"""Answers as plain dictionaries, with numpy alone: lists, estimates, similar items."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from recommender.errors import InputError
from recommender.serving.app.live import Served
from recommender.serving.recommender import Pick

History = Mapping[str, float]
# Lines of a list that get reasons: a reason takes as long as a list.
EXPLAINED = 20


def listed(
    served: Served,
    user: str,
    k: int | None,
    history: History | None = None,
    exclude: Sequence[str] = (),
    reasons: int = 0,
) -> dict[str, Any]:
    """Return a user's list: the k best items that the user has not rated, without those of `exclude`.

    `history` as in Recommender.top_n; `reasons` names so many ratings for each of the first 20 items. `known`
    says whether the list is personal; others have the popular items. `ignored` are the items of `history`
    that the model does not know.
    Raises InputError for a k below 1 and ratings off the scale.
    """
    model = served.recommender
    wanted = model.settings["k"] if k is None else k
    left_out = set(exclude)
    picks, known = model.personal_top_n(user, wanted + len(left_out), history)
    kept = [pick for pick in picks if pick.item not in left_out][:wanted]
    answer: dict[str, Any] = {
        "user": user,
        "known": known,
        "items": [_line(pick, rank) for rank, pick in enumerate(kept, start=1)],
    }
    if reasons:
        for line in answer["items"][:EXPLAINED]:
            line["because"] = [
                {"item": each.item, "title": each.title, "rating": each.rating}
                for each in model.reasons(user, line["item"], reasons, history)
            ]
    if history and (unknown := [item for item in history if not model.knows_item(item)]):
        answer["ignored"] = unknown
    return answer


def estimated(served: Served, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the estimated rating of each pair of user and item."""
    model = served.recommender
    users, items = [user for user, _ in pairs], [item for _, item in pairs]
    estimates = model.estimate(users, items).tolist() if pairs else []
    return {
        "pairs": [
            {"user": user, "item": item, "estimate": estimate, "known": model.knows(user)}
            for user, item, estimate in zip(users, items, estimates, strict=True)
        ]
    }


def similar(served: Served, item: str, k: int | None) -> dict[str, Any]:
    """Return the items most like one. Raises InputError for an item that the model does not know."""
    picks = served.recommender.similar(item, k)
    lines = [
        {"item": pick.item, "title": pick.title, "similarity": pick.score, "rank": pick.rank}
        for pick in picks
    ]
    return {"item": item, "items": lines}


def found(served: Served, words: str, most: int) -> dict[str, Any]:
    """Return items whose title, or id where there is none, has all the words, most rated first."""
    model, names, wanted = served.recommender, served.names, words.casefold().split()
    matching = (at for at in served.by_count if all(word in names[at] for word in wanted))
    at = list(itertools.islice(matching, most))
    return {
        "items": [
            {"item": model.items[i], "title": model.titles[i], "ratings": int(model.count[i])} for i in at
        ]
    }


def _line(pick: Pick, rank: int) -> dict[str, Any]:
    return {
        "item": pick.item,
        "title": pick.title,
        "estimate": round(pick.estimate, 6),
        "score": round(pick.score, 6),
        "rank": rank,
    }


def described(served: Served) -> dict[str, Any]:
    """Return what is served: version, run, digests, sizes, since when."""
    model, about = served.recommender, served.about
    return {
        "name": about.name,
        "version": about.version,
        "run_id": about.run_id,
        "algorithm": about.algorithm,
        "trained_at": about.trained_at,
        "model_digest": about.model_digest,
        "dataset_digest": about.dataset_digest,
        "artifact_digest": about.artifact_digest,
        "bundle": about.bundle,
        "users": len(model.users),
        "items": len(model.items),
        "scale": model.settings["scale"],
        "served_since": served.since,
    }


def no_model(place: str) -> InputError:
    """The error of a server that has nothing to serve yet."""
    return InputError(f"No version is served yet: {place} has none. Promote one: make promote FROM=… TO=…")
