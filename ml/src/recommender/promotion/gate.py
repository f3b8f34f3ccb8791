"""Check a version before its promotion: pure functions, each reporting its numbers."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float64]

# The order of promotion; other names are unordered.
ENVIRONMENTS = ("dev", "staging", "prod")
# Largest distance of an estimate, in rating units, from the one recorded at training.
TOLERANCE = 1e-6
_LOWER_IS_BETTER = ("rmse", "mae")

Name = Literal["order", "digest", "loads", "golden", "metrics", "lists", "latency", "size"]
# Changed files or a failed load cannot be overridden: serving is impossible.
OVERRIDABLE = ("order", "golden", "metrics", "lists", "latency", "size")


class Settings(BaseModel):
    """The gate's limits.

    `margins`: for each metric the least by which a candidate must beat the champion, in the metric's units;
    0 lets an equal one through, a negative margin a worse one. `list_errors`: how many standard errors of the
    mean count as noise, when users' lists are compared pair by pair; None compares no lists. `latency_ms`:
    the 95th percentile of a single list, measured where it will be served. `size_mb`: of the model's files,
    in 10^6 bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    margins: dict[str, float] = {"rmse": 0.0}
    list_errors: float | None = Field(1.645, ge=0)
    latency_ms: float = Field(500.0, ge=0)
    size_mb: float = Field(500.0, ge=0)


@dataclass(frozen=True)
class Check:
    """A check's outcome and findings, in words and numbers; `mend` is the remedy."""

    name: Name
    passed: bool
    found: str
    mend: str = ""


@dataclass(frozen=True)
class Measured:
    """A version's label, its metrics, and the holdout_digest of their data.

    `lists`: by user, the NDCG of its list and of the most rated items, shapes (u,).
    """

    label: str
    metrics: dict[str, float]
    holdout: str | None
    lists: tuple[Floats, Floats] | None = None


def before(target: str) -> str:
    """Return the environment before this one."""
    at = ENVIRONMENTS.index(target) if target in ENVIRONMENTS else 0
    return ENVIRONMENTS[max(at - 1, 0)]


def order(source: str, target: str) -> Check:
    """Check that the target is the next environment after the source."""
    if source not in ENVIRONMENTS or target not in ENVIRONMENTS:
        return Check("order", True, f"{source} to {target}")
    step = ENVIRONMENTS.index(target) - ENVIRONMENTS.index(source)
    between = " and ".join(ENVIRONMENTS[ENVIRONMENTS.index(source) + 1 : ENVIRONMENTS.index(target)])
    found = f"{source} to {target}" + (
        f" leaves out {between}" if between else " goes back" if step < 0 else ""
    )
    mend = (
        f"Promote to {between} first."
        if between
        else f"To go back to the version before: make rollback ENV={target}"
    )
    return Check("order", step == 1, found, mend)


def digest(found: str, recorded: str | None, damage: str = "") -> Check:
    """Check the files against the digest that training recorded; `damage` describes a change."""
    if not recorded:
        return Check(
            "digest", False, "training recorded no artifact_digest", "Train it again: recommender train."
        )
    if found != recorded:
        text = f"the files have {found[:12]}, training recorded {recorded[:12]}"
        mend = "Do not use it: find out who changed it. Promote another version, or train again."
        return Check("digest", False, f"{text}. {damage}".rstrip(". "), mend)
    return Check("digest", True, found[:12])


def golden(recorded: dict[str, Any], answered: dict[str, Any]) -> Check:
    """Check that estimates lie within TOLERANCE of the recorded ones and lists have the same items."""
    worst, where, count = 0.0, "", 0
    for part in ("pairs", "lists"):
        expected, found = recorded[part], answered[part]
        if any(expected[key] != found[key] for key in ("user", "item")):
            rows = zip(expected["user"], expected["item"], found["user"], found["item"], strict=False)
            at = next(
                (f"user {u}: {g} where it was {i}" for u, i, v, g in rows if (u, i) != (v, g)), "lengths"
            )
            return Check("golden", False, f"other items in the {part} ({at})", _GOLDEN_MEND)
        columns = (expected["user"], expected["item"], expected["estimate"], found["estimate"])
        for user, item, before, now in zip(*columns, strict=True):
            count += 1
            off = abs(now - before)
            # True for NaN too.
            if not off <= worst:
                worst, where = (off if not math.isnan(off) else math.inf), f" (user {user}, item {item})"
    passed = worst <= TOLERANCE
    text = f"{count} estimates differ by at most {worst:.1e}{'' if passed else where}, allowed"
    return Check("golden", passed, f"{text} is {TOLERANCE:.0e}", _GOLDEN_MEND)


_GOLDEN_MEND = (
    "Compare the versions of Python, numpy and mlflow there with those in the run's environment.json."
)


def metrics(candidate: Measured, champion: Measured | None, margins: dict[str, float]) -> Check:
    """Check that the candidate beats the champion by each margin on the same held-out ratings."""
    missing = [key for key in margins if key not in candidate.metrics]
    if missing:
        known = ", ".join(sorted(candidate.metrics))
        return Check(
            "metrics", False, f"{candidate.label} has no metric {missing[0]}", f"Choose among: {known}."
        )
    if champion is None:
        values = ", ".join(f"{key} {candidate.metrics[key]:.4f}" for key in margins)
        return Check("metrics", True, f"{values}; there is no champion to beat")
    if candidate.holdout is None or candidate.holdout != champion.holdout:
        found = (
            f"{candidate.label} was measured on held-out data {(candidate.holdout or 'unknown')[:12]}, "
            f"{champion.label} on {(champion.holdout or 'unknown')[:12]}: not comparable"
        )
        mend = (
            f"Train the parameters of {champion.label} (config.yaml of its run) on the new data, with the "
            "same seed and evaluation, and promote that first, with OVERRIDE=metrics."
        )
        return Check("metrics", False, found, mend)
    passed, texts = True, []
    for key, margin in margins.items():
        if key not in champion.metrics:
            mend = (
                f"Train the parameters of {champion.label} again and promote that, or choose another metric."
            )
            return Check("metrics", False, f"{champion.label} has no metric {key}", mend)
        mine, theirs = candidate.metrics[key], champion.metrics[key]
        gain = theirs - mine if key in _LOWER_IS_BETTER else mine - theirs
        # not <: a NaN passes nothing
        passed = passed and gain >= margin
        texts.append(
            f"{key} {mine:.6f}, {theirs:.6f} of {champion.label}: gain {gain:+.6f}, asked is {margin:+.6f}"
        )
    mend = "Promote a better version, or lower the margin in promotion_gate."
    return Check("metrics", passed, "; ".join(texts), mend)


def lists(candidate: Measured, champion: Measured | None, errors: float) -> Check:
    """Check that lists are no worse than the champion's and than the most rated items, beyond noise.

    Where no champion can be compared, they have to be better than the most rated items. By a paired t
    statistic: the mean over users of the difference in NDCG, in standard errors of that mean. At 1.645 one in
    twenty equal candidates is refused.
    Source: M. Smucker, J. Allan, B. Carterette, "A comparison of statistical significance tests for
    information retrieval evaluation" (CIKM 2007, doi:10.1145/1321440.1321528).
    """
    if candidate.lists is None:
        return Check(
            "lists", False, f"{candidate.label} has no measured lists", "Train it again: recommender train."
        )
    mine, popular = candidate.lists
    if not len(mine):
        return Check("lists", True, "not measured: nobody has four ratings, of which one could be held out")
    rivals, passed, texts = [], True, []
    if champion is not None:
        if champion.lists is None or candidate.holdout is None or champion.holdout != candidate.holdout:
            texts.append(
                f"not compared with {champion.label}, whose lists were measured on other data or never"
            )
        elif len(champion.lists[0]) != len(mine):
            found = f"{champion.label} was measured for other users"
            return Check("lists", False, found, "Train both again: recommender train.")
        else:
            rivals.append((champion.label, champion.lists[0], False))
    rivals.append(("the most rated items", popular, not rivals))
    for label, theirs, beat in rivals:
        gain, t = _paired(mine - theirs)
        passed = passed and (t > errors if beat else t >= -errors)
        asked = f"more than {errors:g}" if beat else f"at least {-errors:g}"
        texts.append(
            f"NDCG {mine.mean():.4f}, {theirs.mean():.4f} of {label}: {gain:+.4f}, "
            f"{t:+.1f} standard errors, asked are {asked}"
        )
    mend = "Train a model with better lists: ranking.algorithm of conf/default.yaml, or a lower spread."
    return Check("lists", passed, "; ".join(texts), mend)


def _paired(difference: Floats) -> tuple[float, float]:
    """Return the mean of the differences, and it in standard errors; ±inf where all differ by the same."""
    mean = float(difference.mean())
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    if error == 0:
        return mean, mean * math.inf if mean else 0.0
    return mean, mean / error


def latency(found_ms: float, budget_ms: float) -> Check:
    """Check the latency of a list."""
    found = f"{found_ms:.1f} ms for a list (95th percentile), allowed are {budget_ms:g}"
    return Check(
        "latency", found_ms <= budget_ms, found, "Raise latency_ms in promotion_gate, or use a faster server."
    )


def size(found_bytes: int, budget_mb: float) -> Check:
    """Check the size of the model's files."""
    found = f"{found_bytes / 1e6:.2f} MB, allowed are {budget_mb:g}"
    return Check(
        "size",
        found_bytes <= budget_mb * 1e6,
        found,
        "Raise size_mb in promotion_gate, or train a smaller model.",
    )
