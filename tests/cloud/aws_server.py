"""AWS without an account: moto, and around it what moto lacks.

That is client tokens, a firewall that is in use, the price list, and two answers that may fail: the one of RunInstances
that is lost (every try of it), and lists that do not have a new server yet.
"""

import io
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.test import run_wsgi_app

ACCOUNT = "123456789012"
REGIONS = ("eu-central-1", "us-east-1")
PLANS = {
    "t3.small": "0.0240",
    "t3.medium": "0.0480",
    "t3a.small": "0.0216",
    "t3a.medium": "0.0432",
    "t3a.xlarge": "0.1728",
}
DISK = "0.0952"
ERROR = "<Response><Errors><Error><Code>{0}</Code><Message>{0}</Message></Error></Errors></Response>"


def product(attributes: dict[str, str], price: str) -> str:
    """An entry of the price list, whose entries are texts of JSON."""
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": price}}
    terms = {"OnDemand": {"SKU.TERM": {"priceDimensions": {"SKU.TERM.RATE": dimension}}}, "Reserved": {}}
    return json.dumps({"product": {"attributes": attributes}, "terms": terms})


def in_use(region: str, group: str) -> bool:
    return any(
        group in [each.id for each in instance.security_groups]
        or group in [each.id for each in instance.nics[0].group_set]
        for reservation in ec2_backends[ACCOUNT][region].all_reservations()
        for instance in reservation.instances
        if instance.state != "terminated"
    )


class Vendor:
    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.made: dict[str, tuple[str, str]] = {}
        # changed by POST /switch: which faults are on
        self.on: dict[str, Any] = {}
        self.calls: list[str] = []

    def answer(self, environ: dict[str, Any], body: bytes) -> tuple[str, str] | None:
        """An answer in moto's place."""
        if environ["PATH_INFO"] == "/switch":
            self.on = json.loads(body)
            calls, self.calls = self.calls, []
            return "200 OK", json.dumps(calls)
        if environ.get("HTTP_X_AMZ_TARGET", "").endswith(".GetProducts"):
            if self.on.get("no_prices"):
                return "400 Bad Request", json.dumps({"__type": "AccessDeniedException", "message": "not authorized"})
            wanted = {each["Field"]: each["Value"] for each in json.loads(body)["Filters"]}
            disk = product({"volumeApiName": "gp3"}, DISK)
            plans = [
                product({"instanceType": each}, PLANS[each])
                for each in wanted.get("instanceType", "").split(",")
                if each in PLANS
            ]
            return "200 OK", json.dumps(
                {"FormatVersion": "aws_v1", "PriceList": plans if "instanceType" in wanted else [disk]}
            )
        form = {key: value[0] for key, value in parse_qs(body.decode(errors="replace")).items()}
        action = form.get("Action", "")
        self.calls.append(action)
        region = environ.get("HTTP_AUTHORIZATION", "///").split("/")[2]
        if action == "DescribeRegions":
            items = "".join(f"<item><regionName>{each}</regionName></item>" for each in REGIONS)
            return "200 OK", f"<DescribeRegionsResponse><regionInfo>{items}</regionInfo></DescribeRegionsResponse>"
        if action == "DescribeInstances" and self.on.get("hidden"):
            return "200 OK", "<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"
        if action == "RunInstances" and form["InstanceType"] in self.on.get("sold_out", []):
            return "500 Internal Server Error", ERROR.format("InsufficientInstanceCapacity")
        if action == "DeleteSecurityGroup" and in_use(region, form["GroupId"]):
            return "400 Bad Request", ERROR.format("DependencyViolation")
        if action == "RunInstances":
            if form["ClientToken"] not in self.made:
                chunks, status, _ = run_wsgi_app(self.moto, environ)
                self.made[form["ClientToken"]] = status, b"".join(chunks).decode()
            if self.on.get("lost"):
                return "500 Internal Server Error", ERROR.format("InternalError")
            self.on.pop("hidden", None)
            return self.made[form["ClientToken"]]
        return None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        answer = self.answer(environ, body)
        if answer is None:
            passed: Iterable[bytes] = self.moto(environ, start)
            return passed
        start(answer[0], [("Content-Type", "text/xml")])
        return [answer[1].encode()]


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), Vendor(), threaded=True)
