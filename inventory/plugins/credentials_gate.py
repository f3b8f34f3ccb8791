"""Keep a vendor's dynamic inventory file inert, and say why, until the vendor's plugin can work."""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.inventory import BaseInventoryPlugin

DOCUMENTATION = """
name: credentials_gate
short_description: Keep a vendor's dynamic inventory file inert until its plugin can work
description:
  - Claims a YAML file whose C(plugin) is a known vendor's while the environment holds no complete set of
    that vendor's credentials, a package of C(inventory/requirements/) is not installed, or a C(YOUR-...)
    value is left.
  - It then adds no host and says on standard error, in one line, what to set or to run. The other files of
    the folder still count.
  - Declines every other file, so that the vendor's own plugin, or the plugin for static files, reads it.
  - Declines a file with a vaulted value too, for that file brings its own credentials.
  - Must stand first in C(enable_plugins).
options:
  plugin:
    description: The vendor's inventory plugin that the file is for.
    required: true
author: [The maintainers of this repository]
"""

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
# Plugin -> sets of variables, any one of which is enough; NAME=value asks for that very value.
# From each plugin's documented environment variables (ansible-doc -t inventory <plugin>).
CREDENTIALS: dict[str, list[str]] = {
    "vultr.cloud.vultr": ["VULTR_API_KEY"],
    "community.digitalocean.digitalocean": ["DO_API_TOKEN", "DO_API_KEY", "DO_OAUTH_TOKEN"],
    "hetzner.hcloud.hcloud": ["HCLOUD_TOKEN"],
    "amazon.aws.aws_ec2": [
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY",
        "AWS_ROLE_ARN AWS_WEB_IDENTITY_TOKEN_FILE",
    ],
    "google.cloud.gcp_compute": [
        "GCP_AUTH_KIND=serviceaccount GCP_SERVICE_ACCOUNT_FILE",
        "GCP_AUTH_KIND=serviceaccount GCP_SERVICE_ACCOUNT_CONTENTS",
        "GCP_AUTH_KIND=accesstoken GCP_ACCESS_TOKEN",
        "GCP_AUTH_KIND=application",
        "GCP_AUTH_KIND=machineaccount",
    ],
    "azure.azcollection.azure_rm": [
        "AZURE_SUBSCRIPTION_ID AZURE_CLIENT_ID AZURE_SECRET AZURE_TENANT",
        "AZURE_SUBSCRIPTION_ID AZURE_AD_USER AZURE_PASSWORD",
        "AZURE_PROFILE",
        "ANSIBLE_AZURE_AUTH_SOURCE=cli",
        "ANSIBLE_AZURE_AUTH_SOURCE=msi",
    ],
}


def _config(path: str) -> dict[str, Any]:
    """The mapping in a YAML file; empty for a file of any other kind, vaulted values included."""
    if not path.endswith((".yml", ".yaml")):
        return {}
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return config if isinstance(config, dict) else {}


def _is_set(variable: str) -> bool:
    name, _, value = variable.partition("=")
    return os.environ.get(name) == value if value else bool(os.environ.get(name))


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def obstacles(path: str) -> list[str]:
    """What keeps a vendor's plugin from reading its file, as the words that mend it; [] for other files."""
    config = _config(path)
    plugin = str(config.get("plugin"))
    if plugin not in CREDENTIALS:
        return []
    found = []
    ways = [way.split() for way in CREDENTIALS[plugin]]
    if not any(all(map(_is_set, way)) for way in ways):
        found.append(f"set {', or '.join(' and '.join(way) for way in ways)}")
    wanted = REQUIREMENTS / f"{plugin.rpartition('.')[2]}.in"
    text = wanted.read_text(encoding="utf-8") if wanted.exists() else ""
    if not all(map(_is_installed, re.findall(r"^[\w.-]+(?===)", text, re.M))):
        pip = [sys.executable, "-m", "pip", "install", "-r", str(wanted.with_suffix(".txt"))]
        found.append(f"run {shlex.join(pip)}")
    blanks = re.findall(r"YOUR-[A-Z-]+", str(config))
    return found + [f"put your own value for {blank} into the file" for blank in blanks]


class InventoryModule(BaseInventoryPlugin):  # type: ignore[misc]  # ansible-core is untyped
    """The gate itself; see DOCUMENTATION."""

    NAME = "credentials_gate"

    def verify_file(self, path: str) -> bool:
        """Claim the file if something keeps its own plugin from reading it."""
        return bool(super().verify_file(path) and obstacles(path))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Add nothing; say what is missing, on standard error because standard output may be piped JSON."""
        super().parse(inventory, loader, path, cache)
        mend = "; ".join(obstacles(path))
        self.display.display(
            f"{os.path.relpath(path)} is not read, hosts.yml alone is. To have it read: {mend}.", stderr=True
        )
