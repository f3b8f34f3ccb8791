"""The served version and the one before it: a switch changes one reference."""

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from recommender.errors import InputError
from recommender.serving.app import bundle
from recommender.serving.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Served:
    """A version that answers: `since` is when it was read, in seconds since 1970."""

    recommender: Recommender
    about: bundle.About
    since: float = field(default_factory=time.time)

    @cached_property
    def names(self) -> list[str]:
        """Each item's title, or id where it has none, for searching without regard to case."""
        model = self.recommender
        return [(title or item).casefold() for title, item in zip(model.titles, model.items, strict=True)]

    @cached_property
    def by_count(self) -> list[int]:
        """The items, the most rated first."""
        order: list[int] = np.argsort(-self.recommender.count, kind="stable").tolist()
        return order


class Live:
    """The version that is served, and the one before it, which stays in memory.

    `place` has the bundles, and the link `current` to the one that is served, from which a start reads: no
    registry is needed. The link is moved after the switch, so that a start never serves what failed.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.now: Served | None = None
        self.before: Served | None = None
        self._one_at_a_time = threading.Lock()

    def start(self) -> None:
        """Serve what `current` names, if it names anything. Raises InputError as `bundle.read`."""
        link = self.place / "current"
        if link.is_symlink():
            self.now = Served(*bundle.read(self.place / link.readlink().name, whole=False))
            warm(self.now)

    def switch(self, name: str) -> Served:
        """Serve the bundle `name`; return what is served. The same again changes nothing.

        Raises InputError, and serves what it did, for a bundle that is missing, damaged or does not answer.
        """
        with self._one_at_a_time:
            if "/" in name or name.startswith("."):
                raise InputError(f"{name!r} is not the name of a bundle.")
            if self.now is not None and self.now.about.bundle == name:
                return self.now
            if self.before is not None and self.before.about.bundle == name:
                served = self.before
            else:
                served = Served(*bundle.read(self.place / name))
                warm(served)
            self.now, self.before = served, self.now
            return served

    def drop(self) -> None:
        """Serve nothing."""
        with self._one_at_a_time:
            self.now = self.before = None


def warm(served: Served) -> None:
    """Answer once of each kind, so that the first person does not wait for what is made on first use.

    Raises InputError if it cannot.
    """
    recommender = served.recommender
    users, items = recommender.users, recommender.items
    try:
        served.names, served.by_count  # noqa: B018  made on first use
        for user in (users[0], "nobody has this id"):
            recommender.top_n(user)
        recommender.top_n(users[0], history={items[0]: recommender.settings["scale"][1]})
        recommender.reasons(users[0], items[0])
        recommender.estimate(users[:1], items[:1])
        recommender.similar(items[0])
    except Exception as error:
        raise InputError(f"it does not answer: {error!r}") from error
