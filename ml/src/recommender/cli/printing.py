"""Print reports and lists as text for people."""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recommender import names, typed
from recommender.cli import options

if TYPE_CHECKING:
    from recommender.train import Report


def print_data() -> None:
    """Switch standard output to UTF-8 for programs, whatever the terminal's encoding."""
    # A notebook's replacement of stdout may lack reconfigure.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def print_lists(answered: Any, as_json: bool) -> None:
    """Print the answer to a request for lists or for similar items, as text or JSON."""
    records = answered.to_dict("records")
    if as_json:
        print_data()
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    if "similarity" in answered:
        print("\n".join(f"{pick['rank']:>4}  {pick['similarity']:.2f}  {_name(pick)}" for pick in records))
        return
    several = answered["user"].nunique() > 1
    for user, picks in answered.groupby("user", sort=False):
        items = picks.to_dict("records")
        if not items[0]["known_user"]:
            options.say(f"user {user} is unknown: these are the popular items")
        if several:
            print(f"user {user}:")
        print("\n".join(pick_lines(items)))


def _name(pick: dict[str, Any]) -> str:
    return str(pick["title"] or pick["item"])


def summary(report: "Report") -> str:
    """Return the report as a few lines of text."""
    from recommender.evaluation import results

    dataset, model = report["dataset"], report["model"]
    numbers, seconds = report["metrics"], report["seconds"]
    parts = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if name != "total")
    listed = report["recommendations"]
    named = (model["name"] or "").partition(".")[2]
    other = named not in ("", names.MODEL)
    ask = f"recommender recommend --model {typed.quoted(named)} --user={typed.quoted(listed['user'])}"
    ranking = report["ranking"]["chosen"]
    lister = f", lists by {ranking}" if ranking else ""
    asked = [f"ask it    {ask}"] if other else []
    lines = [
        f"data      {dataset['name']}: {dataset['ratings']} ratings, "
        f"{dataset['users']} users, {dataset['items']} items",
        f"catalogue {dataset['lists']['says']}",
        f"model     {report['algorithm']}{lister}, digest {model['digest'][:12]}",
        f"ratings   RMSE {numbers['rmse']:.4f}, MAE {numbers['mae']:.4f}",
        f"lists     {results.lists_line(numbers, int(numbers['k']))}",
        f"MLflow    {report['tracking_uri']}, run {model['run_id']}",
        f"version   {model['name']} {model['version']}, alias {model['alias']}"
        if model["version"]
        else "version   not registered",
        *asked,
        f"seconds   {seconds['total']:.1f}: {parts}",
        f"user {listed['user']}:",
        *pick_lines(listed["items"]),
    ]
    return "\n".join(lines)


def pick_lines(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a list of recommendations as text lines, each with the ratings in its favour."""
    return [
        f"{pick['rank']:>4}  {pick['estimate']:.2f}  {pick['title'] or pick['item']}"
        + (f"  because of {pick['because']}" if pick.get("because") else "")
        for pick in items
    ]
