"""Print the table of versions."""

import datetime
from typing import TYPE_CHECKING

from recommender.promotion.unfinished import PENDING
from recommender.tracking import registry, stores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def versions_table(environment: str) -> str:
    """Return all versions of an environment's models as text: aliases, metrics, origin."""
    with stores.explained(f"{environment}: MLflow", storing=True):
        lines = []
        for model in registry.models(environment):
            of = registry.aliases(model.name)
            rows = [_row(version, of) for version in registry.versions(model.name)]
            widths = [max(len(row[at]) for row in [_HEADS, *rows]) for at in range(len(_HEADS))]
            lines += [
                model.name,
                *("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in [_HEADS, *rows]),
            ]
    return "\n".join(lines or [f"{environment}: no model is registered."])


_HEADS = [
    "version",
    "alias",
    "registered (UTC)",
    "algorithm",
    "rmse",
    "mae",
    "list_ndcg",
    "data",
    "code",
    "from",
]


def _row(version: "ModelVersion", aliases: dict[str, str]) -> list[str]:
    tags, run = registry.tags(version), registry.run_of(version)
    numbers, origin = (run.data.metrics, "trained here") if run else ({}, "its run is deleted")
    if "lineage" in tags:
        by = f", promoted by {tags.get('promoted_by', 'unknown')}"
        origin = tags["lineage"] + by + (f"; overridden {tags['overridden']}" if "overridden" in tags else "")
    if PENDING in version.tags:
        origin = "unfinished: the next promotion removes it"
    moment = datetime.datetime.fromtimestamp(version.creation_timestamp / 1000, datetime.UTC)
    code, _, conf = tags.get("source_digest", "").partition(":")
    code = tags.get("source_commit", code)
    row = [
        str(version.version),
        ",".join(sorted(alias for alias, of in aliases.items() if of == str(version.version))),
        moment.strftime("%Y-%m-%d %H:%M"),
        tags.get("algorithm", ""),
        *(f"{numbers[key]:.4f}" if key in numbers else "" for key in ("rmse", "mae", "list_ndcg")),
        tags.get("dataset_digest", "")[:8],
        f"{code[:8]}{'+' if code.endswith('+') else ''} {conf}".strip(),
        origin,
    ]
    # Tags are untrusted and may contain a terminal's control characters.
    return ["".join(sign if sign.isprintable() else "?" for sign in text) for text in row]
