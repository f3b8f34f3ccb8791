#!/usr/bin/python
"""Ansible module: operations of AWS that no module of amazon.aws has, or only without a client token."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.amazon.aws.plugins.module_utils.modules import AnsibleAWSModule

try:
    from botocore.exceptions import BotoCoreError, ClientError
except ImportError:
    # AnsibleAWSModule says so
    BotoCoreError = ClientError = Exception

DOCUMENTATION = r"""
module: aws_api
short_description: Call operations of one of AWS' services
description:
  - Credentials, region and endpoint are those of every module of amazon.aws. boto tries a lost or throttled call again.
options:
  service: {description: Service by boto's name., type: str, default: ec2}
  operations: {description: Parameters of each operation by its name in boto., type: dict, required: true}
  every_region: {description: Call them in each region of the account., type: bool, default: false}
  accept: {description: Codes of errors that do not fail., type: list, elements: str, default: []}
  changes: {description: Whether they change anything; left out in check mode., type: bool, default: false}
extends_documentation_fragment: [amazon.aws.common.modules, amazon.aws.region.modules, amazon.aws.boto3]
"""

RETURN = r"""
results: {description: Answers by operation and their C(region)., type: list, returned: always}
error: {description: Code of an accepted error, type: str, returned: always}
"""


def call(client: Any, operations: dict[str, dict[str, Any]], region: str) -> dict[str, Any]:
    """The answers of one region, those of several pages in one."""
    answers: dict[str, Any] = {"region": region}
    for name, parameters in operations.items():
        if client.can_paginate(name):
            answers[name] = client.get_paginator(name).paginate(**parameters).build_full_result()
        else:
            answers[name] = getattr(client, name)(**parameters)
        answers[name].pop("ResponseMetadata", None)
    return answers


def main() -> None:
    module = AnsibleAWSModule(
        argument_spec={
            "service": {"type": "str", "default": "ec2"},
            "operations": {"type": "dict", "required": True},
            "every_region": {"type": "bool", "default": False},
            "accept": {"type": "list", "elements": "str", "default": []},
            "changes": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    service, operations, changes = (module.params[key] for key in ("service", "operations", "changes"))
    if changes and module.check_mode:
        module.exit_json(changed=True, results=[], error="")
    try:
        regions = [module.region]
        if module.params["every_region"]:
            regions = [region["RegionName"] for region in module.client("ec2").describe_regions()["Regions"]]
        clients = [module.client(service, region=region) for region in regions]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda one: call(one, operations, one.meta.region_name), clients))
    except ClientError as error:
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in module.params["accept"]:
            module.exit_json(changed=False, results=[], error=code)
        module.fail_json_aws(error, msg=f"AWS refused {', '.join(operations)}", status=status)
    except BotoCoreError as error:
        module.fail_json_aws(error, msg=f"AWS did not answer {', '.join(operations)}", status=0)
    module.exit_json(changed=changes, results=results, error="")


if __name__ == "__main__":
    main()
