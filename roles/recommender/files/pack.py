"""Packs the training job into a tar archive that depends on its files alone.

Prints the digest of the archive, the digest of the parts that a model is made from, the commit they are of, and the
archive's path. The commit is the last one that touched the job, with a + where files differ from it; - without git.
A link is packed as what it leads to. With --check it packs nothing: it refuses data that would not be on the server,
and prints as JSON the paths that have to be there already.

usage: pack.py SOURCE FOLDER
       pack.py --check SOURCE [CONFIG]
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

TRAINED_FROM = ("Makefile", "requirements.txt", "conf", "data", "src")
BESIDE = ("README.md", "pyproject.toml", "requirements-dev.txt", "environment.yml", "notebooks", "tests")
LEFT_OUT = ("__pycache__", ".egg-info", ".pytest_cache", ".ipynb_checkpoints")


def reset(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Drops what differs between two checkouts of the same files: owner, times, umask."""
    if entry.name.endswith(LEFT_OUT):
        return None
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def pack(source: str, parts: tuple[str, ...]) -> bytes:
    """Returns the archive of those parts that are there."""
    buffer = io.BytesIO()
    # by content: what a link names is on no other machine
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, dereference=True) as archive:
        for part in parts:
            if os.path.lexists(os.path.join(source, part)):
                archive.add(os.path.join(source, part), part, filter=reset)
    return buffer.getvalue()


def commit(source: str) -> str:
    """Returns what git says of the folder."""

    def git(*question: str) -> str:
        command = ["git", "-C", source, *question, "--", "."]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    last = git("log", "-1", "--format=%H") if shutil.which("git") else ""
    return last + ("+" if git("status", "--porcelain") else "") if last else "-"


def unfit(path: str, above: tuple[str, ...] = ()) -> str:
    """Says why a path cannot be packed, or of a folder what in it cannot; empty where all can."""
    real = os.path.realpath(path)
    if not os.path.exists(path):
        what = f"is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else "does not exist"
        return f"{path} {what}. Mend it or remove it: rm {shlex.quote(path)}"
    if real in above:
        return f"{path} is a link to a folder that it is in. Remove it: rm {shlex.quote(path)}"
    if not os.access(path, os.R_OK):
        return f"{path} cannot be read. Let yourself read it: chmod u+r {shlex.quote(real)}"
    if os.path.isdir(path):
        names = [name for name in sorted(os.listdir(path)) if not name.endswith(LEFT_OUT)]
        found = (unfit(os.path.join(path, name), (*above, real)) for name in names)
        return next(filter(None, found), "")
    if not os.path.isfile(path):
        return f"{path} is neither a file nor a folder. Remove it: rm {shlex.quote(path)}"
    return ""


def packed(source: str, path: str) -> bool:
    """Whether a path is among what is packed, links not followed."""
    names = pathlib.Path(os.path.relpath(path, source)).parts
    return names[:1] != () and names[0] in TRAINED_FROM + BESIDE and not any(n.endswith(LEFT_OUT) for n in names)


def named(source: str, config: str) -> tuple[str, list[str]]:
    """What is wrong with the data that a parameter file names, else "", and the paths that the server must have."""
    import yaml

    path = os.path.normpath(os.path.join(source, config))
    if not packed(source, path):
        return (
            f"recommender_config is {config}, which is not deployed. Copy it into the job: "
            f"cp {shlex.quote(path)} {shlex.quote(os.path.join(source, 'conf'))}/, "
            f"then set recommender_config: conf/{os.path.basename(path)}"
        ), []
    if not os.path.isfile(path):
        there = sorted(f"conf/{each.name}" for each in pathlib.Path(source, "conf").glob("*.yaml"))
        return f"recommender_config is {config}, and there is no {path}. There are: {', '.join(there)}", []
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"{path}: not YAML: {' '.join(str(error).split())}", []
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("source"), str):
        return f"{path}: data.source is missing. Say where the ratings are, as conf/default.yaml does.", []
    if "://" in data["source"] or data.get("format") == "sql":
        return "", []
    there = []
    for key in ("source", "titles"):
        value = data.get(key)
        # what the environment holds is known on the server alone
        if not isinstance(value, str) or "$" in value:
            continue
        place = os.path.normpath(os.path.join(os.path.dirname(path), value))
        home = os.path.expanduser(value)
        if home == value and packed(source, place) and not os.path.isabs(value):
            if fault := unfit(place):
                return f"{path}: data.{key} is {value}: {fault}, or correct data.{key}", []
        elif home == value and os.path.isabs(value) and not packed(source, place):
            there.append(value)
        elif home == value and packed(source, place):
            relative = os.path.relpath(place, os.path.dirname(path))
            return f"{path}: data.{key} is {value}, which the server does not have. Write data.{key}: {relative}", []
        else:
            return f"{path}: data.{key} is {value}, which is not deployed. {linked(source, path, key, home)}", []
    return "", there


def linked(source: str, config: str, key: str, value: str) -> str:
    """Says how data from elsewhere is deployed."""
    target = os.path.normpath(os.path.join(os.path.dirname(config), value))
    link = os.path.join(source, "data", os.path.basename(target))
    return (
        f"Link it, and the run packs it: ln -s {shlex.quote(target)} {shlex.quote(link)}, "
        f"then write data.{key}: {os.path.relpath(link, os.path.dirname(config))}"
    )


def check(source: str, config: str) -> None:
    """Refuses what would fail on the server; prints the paths that have to be there, each with a remedy."""
    parts = [os.path.join(source, part) for part in TRAINED_FROM + BESIDE]
    faults = [unfit(part, (os.path.realpath(source),)) for part in parts if os.path.lexists(part)]
    fault, there = named(source, config) if config else ("", [])
    if fault := fault or next(filter(None, faults), ""):
        sys.exit(fault)
    path = os.path.normpath(os.path.join(source, config))
    print(json.dumps([{"path": each, "mend": linked(source, path, "source", each)} for each in there]))


checks, (source, folder, *_) = sys.argv[1] == "--check", [*(each for each in sys.argv[1:] if each != "--check"), ""]
source = os.path.abspath(source)
if not os.path.isfile(os.path.join(source, "Makefile")):
    sys.exit(f"recommender_source is {source}: there is no training job (no Makefile) in it")
if checks:
    check(source, folder)
    sys.exit()
archive = pack(source, TRAINED_FROM + BESIDE)
digest, inputs = (hashlib.sha256(data).hexdigest()[:12] for data in (archive, pack(source, TRAINED_FROM)))
os.makedirs(folder, mode=0o700, exist_ok=True)
for earlier in pathlib.Path(folder).glob("recommender-*"):
    # a younger one may be about to be read by another run, and an older one be removed by it
    with contextlib.suppress(FileNotFoundError):
        if earlier.stat().st_mtime < time.time() - 86400:
            earlier.unlink()
path = os.path.join(folder, f"recommender-{digest}.tar")
with tempfile.NamedTemporaryFile(dir=folder, prefix="recommender-", delete=False) as file:
    file.write(archive)
os.replace(file.name, path)
print(digest, inputs, commit(source), path)
