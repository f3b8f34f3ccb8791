"""Entries of managed_files, one for each item of a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def files_for_each(items: Iterable[Any], **entry: Any) -> list[dict[str, Any]]:
    """Fill an entry's texts from each item: {name} is a dictionary's value, {} the item itself.

    A template finds the item as `item`.
    """
    found = []
    for item in items:
        named = {str(key): value for key, value in item.items()} if isinstance(item, Mapping) else {}
        filled = {
            name: value.format(item, **named) if isinstance(value, str) else value for name, value in entry.items()
        }
        if "template" in entry:
            filled["vars"] = {**entry.get("vars", {}), "item": item}
        found.append(filled)
    return found


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Any]:
        return {"files_for_each": files_for_each}
