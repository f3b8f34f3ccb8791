"""The files of the managed targets, by the schemas that their vendors publish; of Heroku there is none."""

import ast
import copy
import json
import pathlib
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import referencing
import yaml
from referencing.jsonschema import DRAFT202012

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
LOCK = ROOT / "tests/image/requirements.txt"
PROBED = {"/health/ready", "/health/live"}


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's functions, each of which gives a text."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: "text")


def documents(path: str) -> list[Any]:
    return list(yaml.load_all((DEPLOY / path).read_text(), Loader))


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The packages that carry the schemas, without what they need to run."""
    target = tmp_path_factory.mktemp("schemas")
    command = ["uv", "pip", "install", "--quiet", "--target", str(target), "--no-deps", "--require-hashes"]
    subprocess.run([*command, "-r", str(LOCK)], check=True)
    return target


def check(content: Any, schema: Any, folder: pathlib.Path | None = None) -> None:
    """Raises jsonschema.ValidationError; other files that the schema names are in `folder`."""

    def other(uri: str) -> referencing.Resource[Any]:
        assert folder is not None, uri
        read = json.loads((folder / uri.rpartition("/")[2]).read_text())
        return referencing.Resource.from_contents(read, default_specification=DRAFT202012)

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind(schema, registry=referencing.Registry(retrieve=other)).validate(content)  # type: ignore[call-arg]


def compose(schemas: pathlib.Path) -> Iterator[tuple[Any, Any, pathlib.Path | None]]:
    schema = json.loads((schemas / "check_jsonschema/builtin_schemas/vendor/compose-spec.json").read_text())
    for content in documents("compose/compose.yaml"):
        yield content, schema, None


def kubernetes(schemas: pathlib.Path) -> Iterator[tuple[Any, Any, pathlib.Path | None]]:
    # of the strict ones, which know no other names, the newest
    strict = (schemas / "kubernetes_validate/kubernetes-json-schema").glob("v*-local-strict")
    folder = max(strict, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])
    for content in documents("kubernetes/recommender.yaml"):
        name = "-".join([content["kind"].lower(), *content["apiVersion"].split("/")])
        yield content, json.loads((folder / f"{name}.json").read_text()), folder


def cloud_run(schemas: pathlib.Path) -> Iterator[tuple[Any, Any, pathlib.Path | None]]:
    """Google's description of its interface, as a JSON schema."""
    described = json.loads((schemas / "googleapiclient/discovery_cache/documents/run.v1.json").read_text())

    def turned(of: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in of:
            return {"$ref": f"#/$defs/{of['$ref']}"}
        made: dict[str, Any] = {} if of.get("type") in (None, "any") else {"type": of["type"]}
        if "items" in of:
            made["items"] = turned(of["items"])
        if of.get("type") == "object":
            made["properties"] = {name: turned(each) for name, each in of.get("properties", {}).items()}
            more = of.get("additionalProperties")
            made["additionalProperties"] = turned(more) if more else False
        return made

    defined = {name: turned(each) for name, each in described["schemas"].items()}
    for content in documents("cloud-run/service.yaml"):
        yield content, {"$ref": "#/$defs/Service", "$defs": defined}, None


def azure(schemas: pathlib.Path) -> Iterator[tuple[Any, Any, pathlib.Path | None]]:
    """The types of Azure's own library, as a JSON schema; only their names and forms are read, nothing runs."""
    names = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}

    def turned(node: ast.expr) -> dict[str, Any]:
        if isinstance(node, ast.Constant):
            return turned(ast.parse(str(node.value), mode="eval").body)
        if isinstance(node, ast.Name):
            return {"type": names[node.id]} if node.id in names else {"$ref": f"#/$defs/{node.id}"}
        assert isinstance(node, ast.Subscript), ast.dump(node)
        of = ast.unparse(node.value)
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if of == "list":
            return {"type": "array", "items": turned(inner[0])}
        if of == "dict":
            return {"type": "object", "additionalProperties": turned(inner[1])}
        # Required[…], and Union[str, …] of a text with known values
        return turned(inner[0]) if of in ("Required", "Union") else {}

    tree, classes = ast.parse((schemas / "azure/mgmt/appcontainers/types.py").read_text()), {}
    for each in tree.body:
        if isinstance(each, ast.ClassDef):
            fields = [
                line for line in each.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            ]
            classes[each.name] = (
                [ast.unparse(base) for base in each.bases],
                {line.target.id: turned(line.annotation) for line in fields if isinstance(line.target, ast.Name)},
            )

    def properties(name: str) -> dict[str, Any]:
        bases, own = classes.get(name, ([], {}))
        return {key: value for base in bases for key, value in properties(base).items()} | own

    defined: dict[str, Any] = {
        name: {"type": "object", "properties": properties(name), "additionalProperties": False} for name in classes
    }
    for content in documents("azure/containerapp.yaml"):
        yield content, {"$ref": "#/$defs/ContainerApp", "$defs": defined}, None


def aws(schemas: pathlib.Path) -> Iterator[tuple[Any, Any, pathlib.Path | None]]:
    """The properties of each resource of the template, by the schemas in cfn-lint."""
    data = schemas / "cfnlint/data/schemas"
    known = json.loads((data / "providers/us-east-1.json").read_text())
    for content in documents("aws/ecs-express.yaml"):
        assert {*content} <= {"AWSTemplateFormatVersion", "Description", "Parameters", "Resources", "Outputs"}
        for resource in content["Resources"].values():
            schema = json.loads((data / f"resources/{known[resource['Type']]}.json").read_text())
            yield resource["Properties"], schema, None


TARGETS = [aws, azure, cloud_run, compose, kubernetes]


def places(content: Any) -> Iterator[dict[str, Any]]:
    """Each mapping in a document that has keys which a schema lists."""
    if isinstance(content, dict):
        yield content
    for each in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from places(each)


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_of_their_schemas(target: Callable[..., Any], schemas: pathlib.Path) -> None:
    found = [*target(schemas)]
    assert found
    for content, schema, folder in found:
        check(content, schema, folder)
        # a schema that lets a misspelled container pass proves nothing
        wrong = copy.deepcopy(content)
        for place in places(wrong):
            for key in {"image", "Image", "AssumeRolePolicyDocument", "selector"} & {*place}:
                place[f"{key}s"] = place.pop(key)
        assert wrong != content
        with pytest.raises(jsonschema.ValidationError):
            check(wrong, schema, folder)


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.parent.name)
def test_each_target_asks_for_health_and_hands_in_the_clients(path: pathlib.Path) -> None:
    text = path.read_text()
    assert "RECOMMENDER_CLIENTS" in text
    probed = {*re.findall(r"/health/\w+", text)}
    assert "/health/ready" in probed and probed <= PROBED


def test_heroku_builds_from_the_image_alone() -> None:
    (content,) = documents("heroku/heroku.yml")
    assert content == {"build": {"docker": {"web": "Dockerfile"}}}
    lines = [line for line in (DEPLOY / "heroku/Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    assert lines == ["FROM registry.example.org/movie-recommender:prod-1"]
