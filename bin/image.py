#!/usr/bin/env python3
"""Makes an image of the served model, and runs one: the serving app with the champion's bundle, on Docker.

usage: image.py [-i INVENTORY] build --environment dev [--bundle FOLDER] [--base IMAGE|packages]
       image.py run --environment dev      starts it, asks it, ends it, and prints what that took
       image.py key CLIENT                 makes a key, and the line that lets its client in
"""

import argparse
import contextlib
import datetime
import email.parser
import fcntl
import hashlib
import http.client
import io
import json
import os
import pathlib
import re
import secrets
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any, NoReturn

import servers
from image_layers import Image, Tree, digest, encoded, members, saved

ROOT = pathlib.Path(__file__).resolve().parents[1]
MADE = ROOT / ".cache/image"
LOCK = ROOT / "roles/model_server/files/requirements.txt"
PYTHON, SUITE = "3.13", "trixie"
OFFICIAL = f"python:{PYTHON}-slim-{SUITE}"
# What the interpreter, numpy and the framework load, without a shell. Some standard modules do not import.
PACKAGES = [
    "base-files", "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libpython3.13-minimal",
    "libpython3.13-stdlib", "libssl3t64", "libstdc++6", "libuuid1", "libzstd1", "python3.13-minimal", "zlib1g",
]  # fmt: skip
# By Docker's name of an architecture: uv's, which is that of the wheels.
PLATFORMS = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
ENVIRONMENT, SOURCE, BUNDLES, SBOM = "srv/environment", "srv/src/recommender", "srv/bundles", "srv/sbom.cdx.json"
SENT = (".py", ".html", ".css", ".js")
# nobody's on every target
USER = "65532"
# for a machine that does much else; one that has ended is not waited for
SECONDS = 300


def stop(message: str) -> NoReturn:
    sys.exit(f"image: {message}")


def say(message: str) -> None:
    print(f"==> {message}", file=sys.stderr, flush=True)


def run(*command: str, **options: Any) -> bytes:
    """Standard output of a command; ends the process with its words if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, **options)
    if done.returncode:
        stop(f"{shlex.join(command[:4])} … ended with {done.returncode} (see above)")
    return bytes(done.stdout)


# The bundle


def fetched(inventory: str, environment: str) -> bytes:
    """A tar of the bundle that a server serves as an environment's champion."""
    wanted = {"user": "{{ operator }}", "places": "{{ registry_places }}", "serves": "{{ served_environments }}"}
    try:
        hosts = servers.read(inventory, "all", wanted)
    except LookupError as error:
        stop(f"{inventory} has no hosts: {error}")
    if wrong := [f"{name}: {host}" for name, host in hosts.items() if not isinstance(host, dict)]:
        stop(f"{inventory}: settings cannot be read: {wrong[0]}")
    host = next(iter(hosts.values()))["places"].get(environment)
    if not host or environment not in hosts[host]["serves"]:
        stop(
            f"{environment} is not served in {inventory}: "
            "add it to serving_environments, then run site.yml --tags serving"
        )
    server = hosts[host]
    folder = f"/var/lib/model-server/{environment}/bundles"
    remote = f'cd {folder} && if test -L current; then tar -c "$(readlink current)"; else exit 3; fi'
    ssh = [*servers.ssh(server), f"{server['user']}@{server['host']}", shlex.join(["sudo", "-n", "sh", "-c", remote])]
    done = subprocess.run(ssh, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    if done.returncode == 3:
        stop(f"{environment} serves no version yet: make promote FROM=dev TO={environment}, or train in dev")
    if done.returncode:
        stop(f"{host} did not give the bundle (see above); it needs an operator's login")
    return done.stdout


def bundle(files: Iterator[tuple[str, bytes]]) -> tuple[str, Tree]:
    """The name of a bundle, and its files as the image has them."""
    name, tree = "", Tree()
    for path, content in files:
        # what a server sends is data: nothing lands outside its folder
        if found := re.fullmatch(r"([0-9a-f]{16})/((?:arrays/)?[a-z_]+\.(?:npy|json))", path):
            name = found[1]
            tree.add(f"{BUNDLES}/{path}", content)
    if f"{BUNDLES}/{name}/about.json" not in tree.files:
        stop("this is not a bundle: no about.json is in it")
    tree.add(f"{BUNDLES}/current", name, 0o777)
    return name, tree


# The base


def official(image: str) -> bool:
    """Whether an image is here, or a registry gives it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        if subprocess.run(["docker", "pull", "-q", image], capture_output=True, timeout=120).returncode == 0:
            return True
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0


def downloaded(architecture: str) -> list[pathlib.Path]:
    """Debian's packages, checked by apt against Debian's signature; no root is needed."""
    place = MADE / f"apt-{architecture}"
    for folder in (
        "lists/partial",
        "archives/partial",
        "debs",
        *(f"none/{of}.d" for of in ("apt.conf", "preferences", "sources.list")),
    ):
        (place / folder).mkdir(parents=True, exist_ok=True)
    signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    sources = [("debian", SUITE), ("debian", f"{SUITE}-updates"), ("debian-security", f"{SUITE}-security")]
    lines = [f"deb {signed} http://deb.debian.org/{of} {suite} main\n" for of, suite in sources]
    (place / "sources.list").write_text("".join(lines))
    (place / "status").touch()
    options = {
        # nothing of this machine's own apt
        "Dir::Etc": place / "none", "Dir::Etc::SourceList": place / "sources.list", "Dir::State": place,
        "Dir::State::Status": place / "status", "Dir::Cache": place, "Acquire::Languages": "none",
        "APT::Architecture": architecture, "APT::Architectures": architecture, "APT::Sandbox::User": "",
    }  # fmt: skip
    configuration = place / "apt.conf"
    configuration.write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
    environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C.UTF-8"}
    for verb in (["update", "-qq", "--error-on=any"], ["download", "-qq", *PACKAGES]):
        run("apt-get", *verb, cwd=place / "debs", env=environment)
    # of each, the newest is what apt names; older ones are of an earlier build
    uris = run("apt-get", "download", "--print-uris", "-qq", *PACKAGES, cwd=place / "debs", env=environment).decode()
    names = {line.split()[1] for line in uris.splitlines()}
    for path in (place / "debs").iterdir():
        if names and path.name not in names:
            path.unlink()
    return sorted((place / "debs").glob("*.deb"))


def from_packages(architecture: str, when: int) -> tuple[dict[str, Any], list[bytes]]:
    """Configuration and layer of a base of Debian's packages alone, unpacked and not installed."""
    tree = Tree()
    for name in ("bin", "lib", "lib64", "sbin"):
        tree.add(name, f"usr/{name}", 0o777)
    for path in downloaded(architecture):
        command = ["dpkg-deb", "--fsys-tarfile", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            tree.add_package(process.stdout, lambda name: name.endswith("/copyright") or not re.match(
                r"usr/share/(doc|man|locale|lintian|info|bug|gcc)/|usr/lib/[^/]+/gconv/.", name))  # fmt: skip
        if process.returncode:
            stop(f"{path}: not a whole package. Remove it, then type this again")
        control = run("dpkg-deb", "--field", str(path))
        # where scanners look for it, in images without dpkg
        tree.add(f"var/lib/dpkg/status.d/{path.name.partition('_')[0]}", control)
    tree.add(
        "etc/passwd", f"root:x:0:0:root:/root:/sbin/nologin\nrecommender:x:{USER}:{USER}::/:/sbin/nologin\n".encode()
    )
    tree.add("etc/group", f"root:x:0:\nrecommender:x:{USER}:\n".encode())
    return {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}, [tree.tar(when)]


def base(wanted: str, architecture: str, when: int) -> tuple[str, dict[str, Any], list[bytes]]:
    """Name, configuration and layers of the base."""
    name = wanted or OFFICIAL
    if name != "packages" and official(name):
        say(f"base: {name}")
        configuration, layers = saved(name)
        return name, configuration["config"], layers
    if wanted not in ("", "packages"):
        stop(f"BASE={wanted}: no such image is here, and no registry gives it")
    if subprocess.run(["sh", "-c", "command -v apt-get dpkg-deb"], capture_output=True).returncode:
        stop(f"no registry gives {OFFICIAL}, and Debian's packages need apt-get: let this machine reach docker.io")
    say("base: Debian's packages, as no registry was asked or answers")
    return f"debian:{SUITE}, packages", *from_packages(architecture, when)


# The rest of the image


def environment(architecture: str) -> Tree:
    """The wheels of the role's lock, but the installer, without tests and headers."""
    lines, keep = [], True
    for line in LOCK.read_text().splitlines(keepends=True):
        if line[0] not in " #":
            keep = not line.startswith("uv==")
        lines += [line] * keep
    tree = Tree()
    with tempfile.TemporaryDirectory() as folder:
        lock, target = pathlib.Path(folder, "lock.txt"), pathlib.Path(folder, "environment")
        lock.write_text("".join(lines))
        run(
            str(ROOT / ".venv/bin/uv"), "pip", "install", "--quiet", "--target", str(target),
            "--python-version", PYTHON, "--python-platform", PLATFORMS[architecture], "--only-binary", ":all:",
            "--no-deps", "--require-hashes", "--requirement", str(lock),
        )  # fmt: skip
        # what an installation leaves that names this machine, and what nothing imports
        unwanted = re.compile(
            r"bin/|\.lock|.*/(tests|include|__pycache__)/|.*\.(pyi|a|h|pxd)$|.*dist-info/(RECORD|INSTALLER|REQUESTED|.*\.json)$"
        )
        tree.add_folder(target, ENVIRONMENT, lambda name: not unwanted.match(name))
    return tree


def without_pip(layers: list[bytes]) -> Tree:
    """Marks that hide the installer of a base."""
    tree = Tree()
    for layer in layers:
        for path, _ in members(layer, lambda path: False):
            if found := re.fullmatch(
                r"(.*/(?:bin|(?:site|dist)-packages|python3\.\d+))/(pip[\d.]*|pip-[^/]*|ensurepip)", path
            ):
                tree.add(f"{found[1]}/.wh.{found[2]}", b"")
    return tree


def bytecode(image: Image) -> Tree:
    """What the image's own Python compiles, after it has tried the bundle."""
    tag = f"recommender-unfinished:{digest(image.blobs()[0])[:12]}"
    load(image, tag)
    try:
        command = [
            "docker",
            "run",
            "--rm",
            "-i",
            "--network=none",
            "--read-only",
            "--tmpfs=/tmp",
            "--entrypoint=python" + PYTHON,
        ]
        command += ["-e", "PYTHONHASHSEED=0", "--name", f"image-{os.getpid()}", tag, "-sP", "-"]
        output = run(*command, input=(ROOT / "bin/image_inside.py").read_bytes())
    finally:
        subprocess.run(["docker", "rmi", tag], capture_output=True)
    tree = Tree()
    with tarfile.open(fileobj=io.BytesIO(output)) as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            tree.add(member.name, file.read())
    return tree


def load(image: Image, tag: str, path: pathlib.Path | None = None) -> None:
    """Write the archive, and give it to the engine."""
    with tempfile.TemporaryDirectory(dir=MADE) as folder:
        archive = pathlib.Path(folder, "image.tar")
        image.write(archive, tag)
        run("docker", "load", "--quiet", "--input", str(archive))
        if path:
            archive.replace(path)


def sbom(
    name: str, labels: dict[str, str], base_layers: list[bytes], base_config: dict[str, Any], wheels: Tree, when: str
) -> bytes:
    """A CycloneDX list of Debian's packages, of the wheels, and of the model."""
    components = []
    packages = [
        content.decode()
        for layer in base_layers
        for path, content in members(
            layer, lambda path: path == "var/lib/dpkg/status" or path.startswith("var/lib/dpkg/status.d/")
        )
        if content and not path.endswith(".md5sums")
    ]
    for paragraph in filter(str.strip, "\n\n".join(packages).split("\n\n")):
        of = email.parser.HeaderParser().parsestr(paragraph.lstrip())
        # one that was removed has none
        if not of["Version"]:
            continue
        version = of["Version"].replace(":", "%3A").replace("+", "%2B")
        purl = f"pkg:deb/debian/{of['Package'].replace('+', '%2B')}@{version}?arch={of['Architecture']}&distro={SUITE}"
        components.append({"type": "library", "name": of["Package"], "version": of["Version"], "purl": purl})
    for value in base_config.get("Env") or []:
        if value.startswith("PYTHON_VERSION="):
            version = value.partition("=")[2]
            purl = f"pkg:generic/python@{version}"
            components.append({"type": "platform", "name": "python", "version": version, "purl": purl})
    for path, (_, content) in wheels.files.items():
        if path.endswith(".dist-info/METADATA") and isinstance(content, bytes):
            of = email.parser.HeaderParser().parsestr(content.decode())
            purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', of['Name']).lower()}@{of['Version']}"
            licence = {"licenses": [{"expression": of["License-Expression"]}]} if of["License-Expression"] else {}
            components.append(
                {"type": "library", "name": of["Name"], "version": of["Version"], "purl": purl, **licence}
            )
    hashes = (
        [{"alg": "SHA-256", "content": labels["model_digest"]}]
        if re.fullmatch("[0-9a-f]{64}", labels["model_digest"])
        else []
    )
    model = {"type": "machine-learning-model", "name": labels["name"], "version": labels["version"]}
    components.append(model | ({"hashes": hashes} if hashes else {}))
    for each in components:
        each["bom-ref"] = each.get("purl") or "model"
    components.sort(key=lambda each: str(each["bom-ref"]))
    return encoded({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest(encoded(components)))}",
        "metadata": {
            "timestamp": when,
            "component": {"type": "container", "name": name, "version": labels["version"], "bom-ref": "image"},
        },
    })  # fmt: skip


def build(arguments: argparse.Namespace) -> None:
    if arguments.bundle:
        folder = arguments.bundle.resolve()
        files = (
            (path.relative_to(folder.parent).as_posix(), path.read_bytes())
            for path in sorted(folder.rglob("*.*"))
            if path.is_file()
        )
        name, model = bundle(files)
    else:
        say(f"{arguments.environment}: fetching the bundle of its champion")
        name, model = bundle(members(fetched(arguments.inventory, arguments.environment), lambda path: True))
    about = model.files[f"{BUNDLES}/{name}/about.json"][1]
    assert isinstance(about, bytes)
    labels: dict[str, str] = json.loads(about)["labels"]
    created = datetime.datetime.fromisoformat(labels["trained_at"]).astimezone(datetime.UTC)
    when, stamp = int(created.timestamp()), created.strftime("%Y-%m-%dT%H:%M:%SZ")
    architecture = run("docker", "version", "--format", "{{.Server.Arch}}").decode().strip()
    if architecture not in PLATFORMS:
        stop(f"{architecture}: the wheels are there for {' and '.join(PLATFORMS)} only")

    base_name, base_config, base_layers = base(arguments.base, architecture, when)
    say("wheels and code")
    wheels, code = environment(architecture), Tree()
    code.add_folder(ROOT / "ml/src/recommender", SOURCE, lambda path: path.endswith(SENT))
    of, _, which = labels["name"].partition(".")
    repository, tag = (
        re.sub("[^a-z0-9]+", "-", each.lower()).strip("-") for each in (which or of, f"{of}-{labels['version']}")
    )
    repository = arguments.name or repository
    bill = sbom(repository, labels, base_layers, base_config, wheels, stamp)
    model.add(SBOM, bill)
    hidden = without_pip(base_layers)
    layers = [(f"base: {base_name}", layer) for layer in base_layers]
    layers += [("hide the installer", hidden.tar(when))] if hidden.files else []
    layers += [("wheels", wheels.tar(when)), ("code", code.tar(when))]
    path = next(value for value in base_config.get("Env") or ["PATH=/usr/bin"] if value.startswith("PATH="))
    config = {
        "User": f"{USER}:{USER}", "WorkingDir": "/srv", "StopSignal": "SIGTERM", "ExposedPorts": {"8000/tcp": {}},
        "Env": [
            path, "PYTHONPATH=/srv/src:/srv/environment", "PYTHONDONTWRITEBYTECODE=1", "OPENBLAS_NUM_THREADS=1",
            "PORT=8000",
        ],
        # a command besides the entry point, without which Heroku takes no image
        "Entrypoint": [f"python{PYTHON}", "-sP"], "Cmd": ["-m", "recommender.serving.app.contained"],
        "Labels": {
            "org.opencontainers.image.title": repository, "org.opencontainers.image.version": labels["version"],
            "org.opencontainers.image.created": stamp, "org.opencontainers.image.base.name": base_name,
            **{f"recommender.{key}": str(value) for key, value in labels.items()}, "recommender.bundle": name,
            "recommender.base-digest": digest(b"".join(base_layers)), "recommender.code-digest": digest(layers[-1][1]),
            "recommender.sbom": f"/{SBOM}", "recommender.sbom-digest": digest(bill),
        },
    }  # fmt: skip
    image = Image(architecture, stamp, config, [*layers, ("bundle", model.tar(when))])
    say("trying the bundle in the image, compiling")
    image.layers.insert(-1, ("bytecode", bytecode(image).tar(when)))
    stem = MADE / f"{repository}-{tag}"
    load(image, f"{repository}:{tag}", stem.with_suffix(".oci.tar"))
    stem.with_suffix(".cdx.json").write_bytes(bill)
    configuration, manifest = image.blobs()
    result = {
        "tag": f"{repository}:{tag}", "id": f"sha256:{digest(configuration)}", "manifest": f"sha256:{digest(manifest)}",
        "megabytes": round(sum(len(layer) for _, layer in image.layers) / 1e6, 1),
        "archive": str(stem.with_suffix(".oci.tar")), "sbom": str(stem.with_suffix(".cdx.json")),
    }  # fmt: skip
    (MADE / f"{arguments.environment}.json").write_bytes(encoded(result))
    print(json.dumps(result, indent=1))
    say(f"next: make image-run ENV={arguments.environment}; docs/managed.md has the targets")


# Running it


def client(name: str) -> tuple[str, dict[str, Any]]:
    """A new key, and the clients that let it in."""
    key = secrets.token_urlsafe(32)
    return key, {name: {"per_second": 50, "sha256": [hashlib.sha256(key.encode()).hexdigest()]}}


class Container:
    """A container of the image as a managed target runs it: no root, nothing writable, no capability."""

    def __init__(self, image: str, name: str, clients: dict[str, Any], *options: str) -> None:
        self.name = name
        run(
            "docker", "run", "--detach", "--name", name, "--read-only", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--memory=512m", "--pids-limit=64",
            "--publish=127.0.0.1::9000", "--env=PORT=9000",
            f"--env=RECOMMENDER_CLIENTS={json.dumps(clients)}", *options, image,
        )  # fmt: skip
        started = self.inspect("{{.State.StartedAt}}").rstrip("Z")[:26]
        self.began = datetime.datetime.fromisoformat(started).replace(tzinfo=datetime.UTC).timestamp()
        ports = json.loads(self.inspect("{{json .NetworkSettings.Ports}}"))
        self.port = int(ports["9000/tcp"][0]["HostPort"]) if ports.get("9000/tcp") else 0

    def inspect(self, template: str) -> str:
        return run("docker", "inspect", "--format", template, self.name).decode().strip()

    def ask(self, path: str, key: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()

    def ready(self) -> float:
        """Wait until it serves; seconds from the start of its process."""
        while time.time() < self.began + SECONDS:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("/health/ready")[0] == 200:
                    return time.time() - self.began
            if self.inspect("{{.State.Running}}") != "true":
                break
        subprocess.run(["docker", "logs", self.name])
        stop(f"it ended, or does not answer after {SECONDS} s (its log is above)")

    def used(self) -> str:
        """Memory and processor time of its process, where this machine has it."""
        process = pathlib.Path("/proc", self.inspect("{{.State.Pid}}"))
        with contextlib.suppress(OSError):
            pages = int((process / "statm").read_text().split()[1])
            user, system = map(int, (process / "stat").read_text().rpartition(")")[2].split()[11:13])
            memory, seconds = pages * os.sysconf("SC_PAGE_SIZE") / 1e6, (user + system) / os.sysconf("SC_CLK_TCK")
            return f"{memory:.0f} MB of memory and {seconds:.2f} processor seconds until then, "
        return ""

    def stop(self) -> tuple[float, int]:
        """Seconds from SIGTERM to the end, and the exit code; it is killed after 10 s, as targets do."""
        began = time.monotonic()
        run("docker", "stop", "--time=10", self.name)
        return time.monotonic() - began, int(self.inspect("{{.State.ExitCode}}"))

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self.name], capture_output=True)


def image_run(arguments: argparse.Namespace) -> None:
    try:
        made = json.loads((MADE / f"{arguments.environment}.json").read_text())
    except FileNotFoundError:
        stop(f"there is no image of {arguments.environment} yet. Type: make image ENV={arguments.environment}")
    key, clients = client("image-run")
    container = Container(made["id"], f"image-run-{os.getpid()}", clients)
    try:
        ready, used = container.ready(), container.used()
        path = "/v1/recommend?user=1&k=5"
        refused, (status, answer) = container.ask(path)[0], container.ask(path, key)
        seconds, code = container.stop()
    finally:
        container.remove()
    if (refused, status, code) != (401, 200, 0):
        stop(f"without a key {refused}, with one {status}: {answer}; exit code {code}. Wanted are 401, 200 and 0")
    for line in json.loads(answer)["items"]:
        print(f"{line['rank']}. {line.get('title') or line['item']}")
    print(
        f"{made['tag']}: {made['megabytes']} MB, ready in {ready:.2f} s, {used}401 without a key, "
        f"SIGTERM to the end {seconds:.1f} s, exit code {code}"
    )


def image_key(arguments: argparse.Namespace) -> None:
    key, clients = client(arguments.client)
    print(key)
    say("the key is shown once. Give this to the target as RECOMMENDER_CLIENTS, with other clients beside it:")
    print(json.dumps(clients))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-i", "--inventory", default="inventory/local")
    verbs = parser.add_subparsers(required=True, metavar="verb")
    verb = verbs.add_parser("build", help="make the image, its SBOM and its archive, in .cache/image")
    verb.add_argument("--environment", default="dev", help="whose champion: dev, staging or prod")
    verb.add_argument("--bundle", type=pathlib.Path, help="folder of a bundle, instead of a server's")
    verb.add_argument(
        "--base", default="", help=f"an image with Python {PYTHON}, or packages; default: {OFFICIAL}, else packages"
    )
    verb.add_argument("--name", default="", help="of the image; default: that of the model")
    verb.set_defaults(run=build)
    verb = verbs.add_parser("run", help="start the image, ask it, end it")
    verb.add_argument("--environment", default="dev")
    verb.set_defaults(run=image_run)
    verb = verbs.add_parser("key", help="make a key for a client")
    verb.add_argument("client", nargs="?", default="shop")
    verb.set_defaults(run=image_key)
    arguments = parser.parse_args()
    MADE.mkdir(parents=True, exist_ok=True)
    with (MADE / "lock").open("w") as lock:
        if arguments.run is build:
            fcntl.flock(lock, fcntl.LOCK_EX)
        arguments.run(arguments)


if __name__ == "__main__":
    main()
