"""The image of the served model: built twice, asked as the service is asked, ended while it answers."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from test_deploy import check, schemas  # noqa: F401  a fixture

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bin"))

import image as program  # noqa: E402

TRAINER = str(ROOT / "ml/.venv/bin/python")
LARGEST = 350
# The scenario of roles/spark_cluster runs some of this with models of its own, maybe at the same time.
NAME = os.environ.get("IMAGE_TEST_NAME", "image-test")


def build(name: str, bundle: pathlib.Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # of its own name, as nobody's image may lose its tag; from packages, as two machines test the same
    command = [str(ROOT / "bin/image.py"), "build", "--environment", name, "--name", name, "--base", "packages"]
    return subprocess.run(
        [*command, "--bundle", str(bundle)], env=os.environ | environment, capture_output=True, text=True
    )


def built(bundle: pathlib.Path, **environment: str) -> dict[str, Any]:
    done = build(NAME, bundle, **environment)
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two small models, and the first one's bundle, as the tests of ml make them."""
    if made_elsewhere := os.environ.get("IMAGE_TEST_MODELS"):
        return pathlib.Path(made_elsewhere)
    folder = tmp_path_factory.mktemp("models")
    command = [TRAINER, "-m", "tests.served", str(folder)]
    subprocess.run(command, cwd=ROOT / "ml", env=os.environ | {"PYTHONPATH": "src"}, check=True)
    return folder


@pytest.fixture(scope="session")
def bundle(models: pathlib.Path) -> pathlib.Path:
    (found,) = (models / "bundles").iterdir()
    return found


@pytest.fixture(scope="session")
def made(bundle: pathlib.Path) -> Iterator[dict[str, Any]]:
    found = built(bundle)
    yield found
    subprocess.run(["docker", "rmi", "--force", found["tag"]], capture_output=True)


@contextlib.contextmanager
def running(made: dict[str, Any], clients: Any, *options: str) -> Iterator[program.Container]:
    container = program.Container(made["tag"], f"{NAME}-{os.getpid()}", clients, *options)
    try:
        yield container
    finally:
        container.remove()


def inside(made: dict[str, Any], code: str) -> str:
    """What the image's Python prints, read-only and without network."""
    options = ["--rm", "--network=none", "--read-only", "--entrypoint=python3.13"]
    return subprocess.check_output(["docker", "run", *options, made["tag"], "-c", code], text=True)


def configuration(made: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(subprocess.check_output(["docker", "image", "inspect", made["tag"]]))[0]
    return content


def test_two_builds_are_equal_bytes(made: dict[str, Any], bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first = hashlib.sha256(pathlib.Path(made["archive"]).read_bytes()).hexdigest()
    subprocess.run(["docker", "rmi", "--force", made["tag"]], check=True, capture_output=True)
    elsewhere = tmp_path / "another folder" / bundle.name
    shutil.copytree(bundle, elsewhere)
    assert built(elsewhere, TZ="Asia/Kolkata", TMPDIR=str(tmp_path), PYTHONHASHSEED="7") == made
    assert hashlib.sha256(pathlib.Path(made["archive"]).read_bytes()).hexdigest() == first
    assert configuration(made)["Id"] == made["id"]


def test_the_archive_is_an_oci_image(made: dict[str, Any]) -> None:
    with tarfile.open(made["archive"]) as archive:

        def content(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        def blob(described: dict[str, Any]) -> bytes:
            found = content(described["digest"].replace("sha256:", "blobs/sha256/"))
            assert len(found) == described["size"]
            assert f"sha256:{hashlib.sha256(found).hexdigest()}" == described["digest"]
            return found

        assert json.loads(content("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
        (entry,) = json.loads(content("index.json"))["manifests"]
        assert entry["digest"] == made["manifest"]
        manifest = json.loads(blob(entry))
        described = json.loads(blob(manifest["config"]))
        layers = [hashlib.sha256(blob(layer)).hexdigest() for layer in manifest["layers"]]
        assert described["rootfs"]["diff_ids"] == [f"sha256:{layer}" for layer in layers]


def test_it_is_small_and_has_what_serves_alone(made: dict[str, Any], bundle: pathlib.Path) -> None:
    found = configuration(made)
    assert found["Size"] / 1e6 <= LARGEST
    labels = json.loads((bundle / "about.json").read_text())["labels"]
    assert {f"recommender.{key}": value for key, value in labels.items()}.items() <= found["Config"]["Labels"].items()
    assert found["Config"]["Labels"]["org.opencontainers.image.version"] == labels["version"]
    look = (
        "import importlib.util, json, os, shutil; names = ['mlflow', 'surprise', 'pandas', 'pip', 'uv', 'numpy'];"
        "print(json.dumps([os.getuid(), [name for name in names if importlib.util.find_spec(name)],"
        "[name for name in ('sh', 'java', 'apt-get', 'pip') if shutil.which(name)]]))"
    )
    user, modules, programs = json.loads(inside(made, look))
    assert user != 0 and modules == ["numpy"] and programs == []


def test_make_image_run_asks_it_for_a_list(made: dict[str, Any]) -> None:
    said = subprocess.check_output([str(ROOT / "bin/image.py"), "run", "--environment", NAME], text=True)
    assert re.search(r"^1\. Film \d+$", said, re.M)
    assert re.search(rf"^{NAME}:dev-1: [\d.]+ MB, ready in [\d.]+ s, .*exit code 0$", said, re.M)


def test_its_list_of_parts(made: dict[str, Any], schemas: pathlib.Path) -> None:  # noqa: F811
    content = pathlib.Path(made["sbom"]).read_bytes()
    listed = json.loads(content)
    folder = schemas / "cyclonedx/schema/_res"
    check(listed, json.loads((folder / "bom-1.6.SNAPSHOT.schema.json").read_text()), folder)
    assert inside(made, "print(open('/srv/sbom.cdx.json').read(), end='')").encode() == content
    assert configuration(made)["Config"]["Labels"]["recommender.sbom-digest"] == hashlib.sha256(content).hexdigest()
    modules = "import importlib.metadata as m; print(*sorted(f'{d.name}=={d.version}' for d in m.distributions()))"
    installed = inside(made, modules).split()
    pypi = [each for each in listed["components"] if each.get("purl", "").startswith("pkg:pypi/")]
    assert sorted(f"{each['name']}=={each['version']}" for each in pypi) == installed and len(installed) > 10
    debian = {each["name"] for each in listed["components"] if each.get("purl", "").startswith("pkg:deb/")}
    assert debian == {*program.PACKAGES}


def test_a_client_gets_from_it_what_it_gets_from_a_server(made: dict[str, Any], models: pathlib.Path) -> None:
    key, clients = program.client("contract")
    clients["contract"]["per_second"] = 10000
    with running(made, clients) as container:
        container.ready()
        assert container.ask("/v1/models")[0] == container.ask("/metrics")[0] == 401
        assert container.ask("/metrics", key)[0] == container.ask("/health/live")[0] == 200
        there = {
            "CONTRACT_URL": f"http://127.0.0.1:{container.port}", "CONTRACT_KEY": key, "CONTRACT_MODELS": str(models),
            "PYTHONPATH": "src",
        }  # fmt: skip
        command = [TRAINER, "-m", "pytest", "-n", "0", "tests/test_contract.py"]
        subprocess.run(command, cwd=ROOT / "ml", env=os.environ | there, check=True)
        assert container.stop()[1] == 0


def test_the_end_waits_for_what_is_asked_and_not_for_ever(made: dict[str, Any]) -> None:
    """docker stop kills after ten seconds, which would be exit code 137."""
    key, clients = program.client("shop")
    body = json.dumps({"user": "1"}).encode()
    head = (
        f"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    )
    with running(made, clients) as container, contextlib.ExitStack() as open_ones:
        container.ready()

        def begun() -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", container.port), timeout=30)
            open_ones.enter_context(connection)
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1])
            return connection

        finished, idle, never = begun(), socket.create_connection(("127.0.0.1", container.port)), begun()
        open_ones.enter_context(idle)
        # the app has both requests in hand before the end begins
        for _ in range(1000):
            if in_hand := "recommender_in_flight 3.0" in container.ask("/metrics", key)[1]:
                break
        assert in_hand
        command = ["docker", "stop", "--time=10", container.name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as stopping:
            # once it takes no new connection, it is ending
            with contextlib.suppress(OSError):
                while True:
                    container.ask("/health/live")
            finished.sendall(body[1:])
            answer = finished.recv(65536)
            assert stopping.wait(timeout=60) == 0
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer.lower()
        assert container.inspect("{{.State.ExitCode}}") == "0"
        with contextlib.suppress(ConnectionError):
            assert never.recv(65536)[:12] != b"HTTP/1.1 200"


@pytest.mark.parametrize("clients", ["{", '{"shop": {"per_second": 5}}'])
def test_clients_of_another_form_stop_the_start(made: dict[str, Any], clients: str) -> None:
    command = ["docker", "run", "--rm", "--read-only", f"--env=RECOMMENDER_CLIENTS={clients}", made["tag"]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and 'write {"shop": {"per_second": 50, "sha256"' in done.stderr


def test_without_clients_nobody_is_let_in_unless_it_is_open(made: dict[str, Any]) -> None:
    for options, code in (((), 401), (("--env=RECOMMENDER_OPEN=yes",), 200)):
        with running(made, {}, *options) as container:
            container.ready()
            assert container.ask("/v1/models")[0] == code


def test_a_bundle_that_answers_otherwise_becomes_no_image(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / bundle.name
    shutil.copytree(bundle, folder)
    array = next((folder / "arrays").glob("*item_factors.npy"))
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    done = build("image-damaged", folder)
    assert done.returncode == 1 and "it is damaged or was changed" in done.stderr
    assert not (program.MADE / "image-damaged.json").exists()
