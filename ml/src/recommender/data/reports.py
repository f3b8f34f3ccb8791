"""Report on the data and its changes since the champion's training, as numbers and pages."""

import html
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from recommender import __version__
from recommender.data.ratings import Ratings

# With fewer ratings hardly anything can be learnt of a user or item.
FEW = 5
# Largest number of bins.
BINS = 20
# The lowest value is a peak with this share of the ratings and so many times its neighbour's.
PEAK_SHARE, PEAK_TIMES = 0.25, 4
# A smaller share is enough for a value that is so many steps away from the others.
PEAK_APART, PEAK_GAP = 0.1, 1.5
# Ids that often mean a missing one.
FILLERS = frozenset({"na", "-", "?", "nil", "undefined", "unknown", "anonymous", "missing"})
# Before 1992 nobody rated on the web: such times are days, as 13022015. Fewer only count the ratings.
COUNTERS, OLDEST = 10_000, 694_224_000
# Limits for remarks: shares, and the distance of two distributions (0 to 1).
LOOK = {"new_users": 0.5, "new_items": 0.2, "ratings_of_new_items": 0.2, "distance": 0.1, "coverage": 0.8}


class Report(TypedDict):
    """A report, stored as JSON and shown by `text` and `page`.

    numbers: counts, shares (0 to 1) and ratings in their units. tables: rows of a name and a count. checks:
    conditions that hold. remarks: problems to look at.
    """

    title: str
    digest: str
    recommender: str
    checks: list[str]
    numbers: dict[str, float]
    tables: dict[str, list[list[Any]]]
    remarks: list[str]


class Profile(Report):
    """The data's report; period is the time of the first and last rating, empty without times."""

    scale: list[float]
    period: list[str]


class Before(TypedDict):
    """A champion's version, and the profile and ids (users, items) of its data."""

    version: str
    profile: Profile
    ids: dict[str, list[str]]


def profile(ratings: Ratings) -> Profile:
    """Return the validation report of checked ratings, with counts by rating, user and item."""
    by_user = np.bincount(ratings.user, minlength=len(ratings.users))
    by_item = np.bincount(ratings.item, minlength=len(ratings.items))
    low, high = ratings.scale
    numbers = {
        "ratings": len(ratings),
        "users": len(ratings.users),
        "items": len(ratings.items),
        "density": len(ratings) / (len(ratings.users) * len(ratings.items)),
        "rating_mean": float(ratings.rating.mean()),
        "rating_std": float(ratings.rating.std()),
        "rating_lowest": float(ratings.rating.min()),
        "rating_highest": float(ratings.rating.max()),
        "duplicates_replaced": ratings.replaced,
        "users_with_few": float(np.mean(by_user < FEW)),
        "items_with_few": float(np.mean(by_item < FEW)),
        "items_without_title": float(np.mean([item not in ratings.titles for item in ratings.items])),
        "ratings_per_user_median": float(np.median(by_user)),
        "ratings_per_item_median": float(np.median(by_item)),
        "ratings_of_top_items": float(np.sort(by_item)[-max(1, len(by_item) // 10) :].sum() / len(ratings)),
    }
    period = [] if ratings.period is None else [_time(moment) for moment in ratings.period]
    checks = [
        f"every row has a user, an item and a rating between {low:g} and {high:g}",
        f"no pair of user and item twice ({ratings.replaced} gave way to another row of their pair)",
        *([f"{ratings.unrated} rows that mean 'not rated' are left out"] if ratings.unrated else []),
        f"rated from {period[0]} to {period[1]}" if period else "without times",
    ]
    return {
        "title": f"Data of {ratings.name}",
        "digest": ratings.digest(),
        "recommender": __version__,
        "scale": [low, high],
        "period": period,
        "checks": checks,
        "numbers": numbers,
        "tables": {
            "Ratings": _by_rating(ratings),
            "Users by their ratings": _by_count(by_user),
            "Items by their ratings": _by_count(by_item),
        },
        "remarks": list(_remarks(numbers, ratings)),
    }


def _remarks(numbers: dict[str, Any], ratings: Ratings) -> Iterable[str]:
    low, high = ratings.scale
    if numbers["rating_lowest"] == numbers["rating_highest"]:
        yield "All ratings are equal: there is nothing to learn."
    elif (numbers["rating_highest"] - numbers["rating_lowest"]) < (high - low) / 2:
        yield (
            f"Ratings go from {numbers['rating_lowest']:g} to {numbers['rating_highest']:g} only. "
            f"Is the scale {low:g} to {high:g} right?"
        )
    for what in ("users", "items"):
        if numbers[f"{what}_with_few"] > 0.5:
            yield f"{numbers[f'{what}_with_few']:.0%} of the {what} have fewer than {FEW} ratings."
    yield from _peaks(ratings)
    for what, ids in (("users", ratings.users), ("items", ratings.items)):
        yield from _unlike_ids(what, ids)
    yield from ratings.remarks
    if ratings.period is not None and ratings.period[1] > datetime.now(UTC).timestamp() + 86400:
        yield f"The newest rating is of the future: {_time(ratings.period[1])}. Are times in seconds?"
    if ratings.period is not None and ratings.period[1] < OLDEST and not 0 <= ratings.period[1] < COUNTERS:
        yield (
            f"The newest rating is of {_time(ratings.period[1])}. Are times in seconds since 1970? "
            "If not, name their format, as --time-format %d%m%Y (data.time_format)."
        )


def _peaks(ratings: Ratings) -> Iterable[str]:
    """Remark on a frequent lowest or highest value far from the others."""
    values, counts = np.unique(ratings.rating, return_counts=True)
    # 0 and -1 often mean a missing rating.
    suspect = -1 <= values[0] <= 0
    if len(values) < (3 if suspect else 4):
        return
    shares = counts / len(ratings)
    low_apart = values[1] - values[0] > PEAK_GAP * float(np.median(np.diff(values[1:])))
    towers = (
        len(values) > 3
        and shares[0] >= (PEAK_APART if suspect else PEAK_SHARE)
        and counts[0] >= PEAK_TIMES * counts[1]
    )
    # High ratings are often frequent: only the distance reveals a 99.
    high_apart = len(values) > 3 and values[-1] - values[-2] > values[-2] - values[0]
    for at, beside, found in ((0, 1, towers or (low_apart and shares[0] >= PEAK_APART)),
                              (-1, -2, high_apart and shares[-1] >= PEAK_APART)):  # fmt: skip
        if found:
            value = values[at]
            yield (
                f"{shares[at]:.0%} of the ratings are {value:g}, and {shares[beside]:.0%} are "
                f"{values[beside]:g}. If {value:g} means 'not rated', say --missing {value:g} (data.missing)."
            )


def _unlike_ids(what: str, ids: tuple[str, ...]) -> Iterable[str]:
    """Remark on fillers, and on ids differing only by case, blanks, leading zeros or invisible characters."""
    odd = [raw for raw in ids if not (raw.isascii() and raw.isdecimal() and raw[0] != "0")]
    known: dict[str, list[str]] = {}
    for raw in odd:
        known.setdefault(_bare(raw), []).append(raw)
    if odd and len(odd) < len(ids):
        for raw in {*ids}.difference(odd) & known.keys():
            known[raw].append(raw)
    alike = [group for group in known.values() if len(group) > 1]
    if alike:
        first, second = sorted(alike[0])[:2]
        yield (
            f"{len(alike)} times {what} differ only by case, blanks, zeros in front or invisible "
            f"characters, as {first!r} and {second!r}: each is another one here. If not, write them alike."
        )
    for raw in odd:
        if raw[:1] == "#" and raw[1:].strip().isdecimal() and 2 * len(odd) <= len(ids):
            yield f"One of the {what} is {raw!r}. If its line is a comment, delete the line."
        if raw.casefold() in FILLERS:
            yield f"One of the {what} is {raw!r}. If that means a missing id, drop its rows."


def _bare(raw: str) -> str:
    seen = "".join(
        each
        for each in unicodedata.normalize("NFKC", raw).casefold()
        if unicodedata.category(each)[0] not in "CZ"
    )
    return seen.lstrip("0") or "0"


def drift(ratings: Ratings, now: Profile, before: Before) -> Report:
    """Compare the data with the champion's, `before`.

    distance is the total variation distance of the two distributions of ratings: the share of ratings that
    would have to change. coverage is the share of the champion's items still rated.
    """
    users, items = (set(before["ids"][key]) for key in ("users", "items"))
    new_item = np.array([item not in items for item in ratings.items])
    count = np.bincount(ratings.item, minlength=len(ratings.items))
    old_numbers, new_numbers = before["profile"]["numbers"], now["numbers"]
    then, today = (_shares(each["tables"]["Ratings"]) for each in (before["profile"], now))
    numbers = {
        "rating_mean_change": new_numbers["rating_mean"] - old_numbers["rating_mean"],
        "distance": sum(abs(today.get(key, 0) - then.get(key, 0)) for key in {*then, *today}) / 2,
        "ratings_change": new_numbers["ratings"] / old_numbers["ratings"] - 1,
        "new_users": float(np.mean([user not in users for user in ratings.users])),
        "new_items": float(new_item.mean()),
        "ratings_of_new_items": float(count[new_item].sum() / len(ratings)),
        "gone_users": len(users.difference(ratings.users)) / len(users),
        "coverage": 1 - len(items.difference(ratings.items)) / len(items),
    }
    remarks = [
        f"{key} is {numbers[key]:.2f}, {'less' if key == 'coverage' else 'more'} than {limit:g}."
        for key, limit in LOOK.items()
        if (numbers[key] < limit if key == "coverage" else numbers[key] > limit)
    ]
    same = now["digest"] == before["profile"]["digest"]
    return {
        "title": f"{now['title']}, against the champion's (version {before['version']})",
        "digest": now["digest"],
        "recommender": __version__,
        "checks": ["the champion was trained on the same ratings"] if same else [],
        "numbers": numbers,
        "tables": {
            "Ratings now, %": [[key, round(100 * share, 2)] for key, share in today.items()],
            "Ratings of the champion, %": [[key, round(100 * share, 2)] for key, share in then.items()],
        },
        "remarks": remarks,
    }


def text(report: Report) -> str:
    """Return a report as lines of text, without its tables."""
    width = max(map(len, report["numbers"]))
    return "\n".join(
        [
            report["title"],
            *(f"  ok: {check}" for check in report["checks"]),
            *(f"  {key:{width}}  {_shown(value)}" for key, value in report["numbers"].items()),
            *(f"  LOOK: {remark}" for remark in report["remarks"]),
        ]
    )


_STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em}
td, th {padding: .1em .8em .1em 0; text-align: left} td.n {text-align: right}
td.bar {width: 24em} td.bar div {background: #4a7ab5; height: .9em; min-width: 1px}
.look {background: #fff3cd; padding: .3em .8em} small {color: #666}
"""


def page(report: Report) -> str:
    """Return a report as one self-contained HTML page."""
    esc = html.escape
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{esc(report['title'])}</title><style>{_STYLE}</style><h1>{esc(report['title'])}</h1>",
        *(f"<p class=look>{esc(remark)}</p>" for remark in report["remarks"]),
        *(f"<p>&#10003; {esc(check)}</p>" for check in report["checks"]),
        "<table>",
        *(
            f"<tr><td>{esc(key.replace('_', ' '))}<td class=n>{_shown(value)}"
            for key, value in report["numbers"].items()
        ),
        "</table>",
    ]
    for title, rows in report["tables"].items():
        largest = max((count for _, count in rows), default=0) or 1
        parts += [f"<h2>{esc(title)}</h2><table>"]
        parts += [
            f"<tr><td>{esc(str(key))}<td class=n>{_shown(count)}<td class=bar>"
            f"<div style='width:{100 * count / largest:.1f}%'></div>"
            for key, count in rows
        ]
        parts.append("</table>")
    parts.append(f"<p><small>digest {report['digest']}, recommender {report['recommender']}</small></html>")
    return "\n".join(parts) + "\n"


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def _by_rating(ratings: Ratings) -> list[list[Any]]:
    values, counts = np.unique(ratings.rating, return_counts=True)
    if len(values) <= BINS:
        return [[f"{value:g}", int(count)] for value, count in zip(values, counts, strict=True)]
    counts, edges = np.histogram(ratings.rating, BINS, ratings.scale)
    return [[f"{edge:g} on", int(count)] for edge, count in zip(edges, counts, strict=False)]


def _by_count(counts: NDArray[Any]) -> list[list[Any]]:
    edges = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, np.inf]
    found, _ = np.histogram(counts, edges)
    names = ["1", *(f"{low} to {high - 1}" for low, high in pairwise(edges[1:-1])), "10000 on"]
    return [[name, int(count)] for name, count in zip(names, found, strict=True)]


def _shares(table: list[list[Any]]) -> dict[str, float]:
    total = sum(count for _, count in table)
    return {key: count / total for key, count in table}
