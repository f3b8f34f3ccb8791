#!/usr/bin/python
"""Ansible module: one request to Google's Compute Engine, for what no module of google.cloud can do."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpModule, GcpSession

try:
    import google.auth
    from google.auth.exceptions import GoogleAuthError, TransportError
    from requests.exceptions import ConnectionError as Unreachable
    from requests.exceptions import Timeout
except ImportError:  # GcpSession says so
    pass

DOCUMENTATION = r"""
module: gcp_api
short_description: Send one request to Compute Engine
description:
  - Credentials are those of every module of google.cloud. What is made has a name, so that a lost answer makes no twin.
  - An operation that an answer starts is waited for.
options:
  path: {description: Path below projects/PROJECT or one that begins with projects/., type: str, required: true}
  method: {description: Method of HTTP., type: str, default: GET}
  query: {description: Parameters of the address., type: dict, default: {}}
  body: {description: What is sent., type: dict}
  collect: {description: Key of the list in an answer of several pages. All pages are read., type: str, default: ""}
  accept: {description: Codes of HTTP that are not errors., type: list, elements: int, default: []}
  sold_out: {description: Pattern of an error that says that the plan cannot be had now., type: str, default: ""}
  project: {description: Google's id of the project., type: str}
"""

RETURN = r"""
json: {description: The answer., type: dict, returned: always}
items: {description: Entries of all pages., type: list, returned: with collect}
status: {description: Code of HTTP., type: int, returned: always}
sold_out: {description: Whether the zone has none of this plan., type: bool, returned: always}
"""

COMPUTE = "https://compute.googleapis.com/compute/v1/"
# seconds before another try; an operation that takes longer than LONGEST fails
PAUSES, LONGEST = (1, 2, 4, 8, 16), 600


def project(params: dict[str, Any]) -> str:
    """The project that is named, or the one that the credentials belong to."""
    if params.get("project"):
        return str(params["project"])
    contents = params.get("service_account_contents")
    if params.get("service_account_file"):
        with open(os.path.expanduser(params["service_account_file"]), encoding="utf-8") as file:
            contents = file.read()
    if contents:
        return str(json.loads(contents).get("project_id") or "")
    return str(google.auth.default()[1] or "") if params["auth_kind"] == "application" else ""


def request(session: Any, method: str, url: str, query: dict[str, Any], body: Any = None) -> Any:
    """The answer, after further tries where the network or Google failed."""
    for pause in (*PAUSES, None):
        try:
            answer = session.request(method, url, params=query, json=body, timeout=120)
            if pause is None or (answer.status_code != 429 and answer.status_code < 500):
                return answer
        except (Unreachable, Timeout, TransportError):
            if pause is None:
                raise
        time.sleep(pause)
    return None


def entries(answer: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Entries of a list, or of a list of every zone."""
    found = answer.get("items") or []
    return [entry for scope in found.values() for entry in scope.get(key, [])] if isinstance(found, dict) else found


def said(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:200]


def main() -> None:
    module = GcpModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "method": {"type": "str", "default": "GET"},
            "query": {"type": "dict", "default": {}},
            "body": {"type": "dict"},
            "collect": {"type": "str", "default": ""},
            "accept": {"type": "list", "elements": "int", "default": []},
            "sold_out": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["method"] != "GET" and module.check_mode:
        module.exit_json(changed=True, json={}, status=0, sold_out=False)
    params["scopes"] = params["scopes"] or ["https://www.googleapis.com/auth/compute"]
    items: list[dict[str, Any]] = []
    try:
        session = GcpSession(module, "compute").session()
        name = project(params)
        if not name:
            module.fail_json(msg="The credentials name no project. Type: export GCP_PROJECT=your-project-id")
        url = COMPUTE + (
            params["path"] if params["path"].startswith("projects/") else f"projects/{name}/{params['path']}"
        )
        query = dict(params["query"])
        while True:
            answer = request(session, params["method"], url, query, params["body"])
            if answer.status_code >= 400:
                if answer.status_code in params["accept"]:
                    module.exit_json(changed=False, json={}, items=[], status=answer.status_code, sold_out=False)
                module.fail_json(msg=f"Google refused {params['method']} {params['path']}: {said(answer)}",
                                 status=answer.status_code)  # fmt: skip
            found = answer.json()
            items += entries(found, params["collect"]) if params["collect"] else []
            if not params["collect"] or not found.get("nextPageToken"):
                break
            query["pageToken"] = found["nextPageToken"]
        ends = time.monotonic() + LONGEST
        while found.get("kind") == "compute#operation" and found["status"] != "DONE":
            if time.monotonic() > ends:
                module.fail_json(msg=f"Google has not finished {params['path']} after {LONGEST} s. Run it again.")
            found = request(session, "POST", found["selfLink"] + "/wait", {}).json()
    except GoogleAuthError as error:
        module.fail_json(msg=f"Google does not accept the credentials: {error}", status=401)
    except (Unreachable, Timeout) as error:
        module.fail_json(msg=f"Google does not answer {params['path']}: {error}", status=0)
    errors = (found.get("error") or {}).get("errors") or []
    text = "; ".join(f"{error.get('code')}: {error.get('message')}" for error in errors)
    sold_out = bool(params["sold_out"] and re.search(params["sold_out"], text))
    if errors and not sold_out:
        module.fail_json(msg=f"Google could not finish {params['path']}: {text}", status=answer.status_code)
    module.exit_json(
        changed=params["method"] != "GET", json=found, items=items, status=answer.status_code, sold_out=sold_out
    )


if __name__ == "__main__":
    main()
