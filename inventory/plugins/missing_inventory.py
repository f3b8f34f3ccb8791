"""Say which inventory may be meant by one that is not there."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

DOCUMENTATION = """
name: missing_inventory
short_description: Say which inventory may be meant by one that is not there
description:
  - Claims a path that does not exist, and fails with the name of the nearest inventory, or with the names of all.
  - Declines what is there, and lists of hosts.
author: [The maintainers of this repository]
"""

INVENTORIES = Path(__file__).resolve().parents[1]


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]  # ansible-core is untyped
    """See DOCUMENTATION."""

    NAME = "missing_inventory"

    def verify_file(self, path: str) -> bool:
        return "," not in path and not os.path.exists(path)

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        there = sorted(file.parent.name for file in INVENTORIES.glob("*/hosts.yml"))
        meant = difflib.get_close_matches(os.path.basename(path), there, n=1)
        mend = f"is inventory/{meant[0]} meant?" if meant else f"inventory has {', '.join(there)}"
        raise AnsibleParserError(f"there is no {os.path.relpath(path)}: {mend}")
