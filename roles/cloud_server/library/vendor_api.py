#!/usr/bin/python
"""Ansible module: one request to a vendor's API, which may be sent again without making anything twice."""

from __future__ import annotations

import json
import os
import re
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import Request, get_user_agent, make_context

DOCUMENTATION = r"""
module: vendor_api
short_description: Send one request to a vendor's API
description:
  - The token comes from the environment of the control machine. It is in no argument, log or file.
  - Reading, removing and replacing are tried again after an error of the network or the vendor.
  - Something is made only if the list does not have it. After a lost answer the list is read again before another try.
options:
  vendor:
    description: An entry of C(__cloud_server_vendors).
    type: dict
    required: true
  path: {description: Path below the endpoint., type: str}
  method: {description: Method of HTTP., type: str, default: GET}
  body: {description: What is sent., type: dict}
  collect: {description: Key of the list in an answer of several pages. All pages are read., type: str}
  lists:
    description: In place of a path several lists, each with I(path) and I(collect).
    type: list
    elements: dict
  unless:
    description:
      - Makes nothing if the list, I(path) and I(collect), has an entry with all that I(match) says.
      - I(made) is the key of the new entry in the answer.
    type: dict
  accept: {description: Codes of HTTP that are not errors., type: list, elements: int, default: []}
  sold_out: {description: Pattern of a refusal that says that the plan cannot be had now., type: str, default: ""}
"""

RETURN = r"""
json: {description: The answer., type: dict, returned: always}
entries: {description: Entries of all pages., type: list, returned: with collect or unless}
lists: {description: 'Of each list: the item of I(lists), and its entries.', type: list, returned: with lists}
item: {description: The entry that was there or was made., type: dict, returned: with unless}
status: {description: Code of HTTP., type: int, returned: always}
date: {description: 'Seconds since 1970 by the clock of the vendor, or 0.', type: float, returned: always}
sold_out: {description: Whether the vendor has none of this plan., type: bool, returned: always}
"""

# tries, and seconds before the second; each wait is twice as long
TRIES, DELAY = 6, 1.0


class Refused(Exception):
    """The vendor answered with an error."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class Lost(Exception):
    """No answer, or one that leaves open whether the request was carried out."""


def meaning(body: str) -> str:
    """What an error says: Vultr's error, DigitalOcean's id and message, Hetzner's error.code and error.message."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body[:200]
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        return ": ".join(str(error[key]) for key in ("id", "code", "message") if error.get(key))
    return str(error)


def next_page(answer: dict[str, Any], page: int) -> dict[str, Any]:
    """Parameters of the page that follows, empty after the last one."""
    meta = answer.get("meta") or {}
    cursor = (meta.get("links") or {}).get("next")
    if cursor:
        return {"cursor": cursor}
    if (meta.get("pagination") or {}).get("next_page") or ((answer.get("links") or {}).get("pages") or {}).get("next"):
        return {"page": page + 1}
    return {}


def same(found: Any, wanted: Any) -> bool:
    """Whether two values are one; of public keys the comment does not count."""
    if re.match(r"(sk-)?(ssh|ecdsa)-", str(wanted)):
        return str(found).split()[:2] == str(wanted).split()[:2]
    return str(found) == str(wanted)


class Api:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.vendor = module.params["vendor"]
        self.title = self.vendor["title"]
        self.endpoint = (os.environ.get(self.vendor["endpoint_variable"]) or self.vendor["endpoint"]).rstrip("/")
        # of an answer, and the longest between two tries
        self.patience = float(os.environ.get("VENDOR_API_TIMEOUT") or 30)
        # not fetch_url, which loads all certificates for each request: that takes longer than the request
        self.session = Request(http_agent=get_user_agent(), timeout=self.patience, context=make_context())
        self.status, self.asked, self.date = 0, "", 0.0

    def token(self) -> str:
        names = self.vendor["credentials"]
        found = [os.environ[name] for name in names if os.environ.get(name)]
        if not found:
            names = " or ".join(names)
            self.module.fail_json(
                msg=f"{names} is not set. Make a token at {self.vendor['page']}, and: export {names}=…"
            )
        self.module.no_log_values.add(found[0])
        return found[0]

    def once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send it once. Raises Refused or Lost."""
        self.asked = f"{method} {path}"
        headers = {"Authorization": f"Bearer {self.token()}", "Content-Type": "application/json"}
        data = json.dumps(body) if body is not None else None
        self.status = -1
        try:
            response = self.session.open(method, self.endpoint + path, data=data, headers=headers)
        except HTTPError as error:
            response = error
        except (OSError, HTTPException) as error:
            raise Lost(str(error)) from None
        try:
            text = response.read().decode(errors="replace")
        except (OSError, HTTPException) as error:
            raise Lost(str(error)) from None
        self.status = response.code
        if date := response.headers.get("Date"):
            self.date = parsedate_to_datetime(date).timestamp()
        if self.status == 401:
            self.module.fail_json(
                msg=f"{self.title} refuses the token in {' or '.join(self.vendor['credentials'])}."
                f" Make another at {self.vendor['page']}."
            )
        if self.status == 408 or self.status >= 500:
            raise Lost(f"{self.status} {meaning(text)}")
        if self.status >= 400:
            raise Refused(self.status, meaning(text))
        try:
            answer = json.loads(text) if text else {}
        except ValueError as error:
            raise Lost(str(error)) from None
        return answer if isinstance(answer, dict) else {}

    def send(self, method: str, path: str, body: dict[str, Any] | None = None, again: bool = True) -> dict[str, Any]:
        """Send it until there is an answer; unless again, after a refusal for haste alone. Raises Refused or Lost."""
        for attempt in range(TRIES):
            try:
                return self.once(method, path, body)
            except Lost:
                if not again or attempt == TRIES - 1:
                    raise
            except Refused as error:
                # Hetzner's conflict and locked: it is still busy with what was asked before
                busy = error.status in (423, 429) or str(error).startswith(("conflict", "locked"))
                if not busy or attempt == TRIES - 1:
                    raise
            time.sleep(min(DELAY * 2**attempt, self.patience))
        raise AssertionError

    def collect(self, path: str, key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page, more = 1, {"per_page": self.vendor["per_page"]}
        while more:
            answer = self.send("GET", f"{path}{'&' if '?' in path else '?'}{urlencode(more, quote_via=quote)}")
            found += answer.get(key) or []
            follows = next_page(answer, page)
            page, more = page + 1, follows and {"per_page": self.vendor["per_page"], **follows}
        return found

    def make(self, unless: dict[str, Any], path: str, body: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        """Whether it was made now, and the entry of the list, or the answer."""
        for attempt in range(TRIES):
            for item in self.collect(unless["path"], unless["collect"]):
                if all(same(item.get(key), value) for key, value in unless["match"].items()):
                    return attempt > 0, item
            if self.module.check_mode:
                return True, {}
            try:
                return True, self.send("POST", path, body, again=False).get(unless["made"]) or {}
            except Lost:
                if attempt == TRIES - 1:
                    raise
                time.sleep(min(DELAY * 2**attempt, self.patience))
        raise AssertionError


def run(module: AnsibleModule) -> dict[str, Any]:
    api, given = Api(module), module.params
    result: dict[str, Any] = {"changed": False, "json": {}, "entries": [], "item": {}, "sold_out": False}
    try:
        if given["lists"]:
            result["lists"] = [
                {"item": item, "entries": api.collect(item["path"], item["collect"])} for item in given["lists"]
            ]
        elif given["collect"]:
            result["entries"] = api.collect(given["path"], given["collect"])
        elif given["unless"]:
            result["changed"], result["item"] = api.make(given["unless"], given["path"], given["body"])
        elif given["method"] == "GET" or not module.check_mode:
            # POST here asks for a state (halt, start), which may be asked for twice
            result["json"] = api.send(given["method"], given["path"], given["body"])
            result["changed"] = given["method"] != "GET"
    except Refused as error:
        if given["sold_out"] and re.search(given["sold_out"], str(error)):
            result["sold_out"] = True
        elif error.status not in given["accept"]:
            module.fail_json(msg=f"{api.title} answers {error.status} to {api.asked}: {error}", status=error.status)
    except Lost as error:
        module.fail_json(
            msg=f"{api.title} does not answer {api.asked}: {error}. Type the same command again: it continues.",
            status=api.status,
        )
    return {**result, "status": api.status, "date": api.date}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "vendor": {"type": "dict", "required": True},
            "path": {"type": "str"},
            "lists": {"type": "list", "elements": "dict"},
            "method": {"type": "str", "default": "GET"},
            "body": {"type": "dict"},
            "collect": {"type": "str"},
            "unless": {"type": "dict"},
            "accept": {"type": "list", "elements": "int", "default": []},
            "sold_out": {"type": "str", "default": ""},
        },
        required_one_of=[["path", "lists"]],
        supports_check_mode=True,
    )
    module.exit_json(**run(module))


if __name__ == "__main__":
    main()
