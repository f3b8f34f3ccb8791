"""Packs the training job into a tar archive that depends on its files alone.

Prints as JSON: digest (of the archive), inputs (digest of the parts that a model is made from), commit, and archive
(its path). The commit is the last one that touched the job, with a + where files differ from it; - without git.
A link is packed as what it leads to. With --check it packs nothing: it refuses data that would not be on the server,
and prints as JSON the paths that have to be there already.

usage: pack.py SOURCE FOLDER
       pack.py --check SOURCE [CONFIG]
"""

import contextlib
import filecmp
import hashlib
import io
import itertools
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
import typing

TRAINED_FROM = ("Makefile", "requirements.txt", "conf", "data", "src")
BESIDE = ("README.md", "pyproject.toml", "requirements-dev.txt", "environment.yml", "notebooks", "tests")
# Titles that training finds beside ratings of these names; beside others it is movies.csv.
TITLES = {"u.data": "u.item", "ratings.dat": "movies.dat"}
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
        # a folder above it may be the link
        link = next((each for each in (path, *map(str, pathlib.Path(path).parents)) if os.path.lexists(each)), path)
        if not os.path.islink(link):
            return f"{path} does not exist. Put it there"
        what = f"is a link to {os.readlink(link)}, which does not exist"
        return f"{link} {what}. Mend it or remove it: rm {shlex.quote(link)}"
    if real in above:
        return f"{path} is a link to a folder that it is in. Remove it: rm {shlex.quote(path)}"
    if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
        return f"{path} cannot be read. Let yourself read it: chmod u+rX {shlex.quote(real)}"
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


def named(source: str, config: str) -> tuple[str, list[dict[str, str]]]:
    """What is wrong with the data that a parameter file names, else "", and the paths that the server must have.

    Each of these has its path, and as mend what to type where it is on this machine.
    """
    import yaml

    path = os.path.normpath(os.path.join(source, config))
    if not os.path.isfile(path):
        files = sorted(f"conf/{each.name}" for each in pathlib.Path(source, "conf").glob("*.yaml"))
        return f"recommender_config is {config}, and there is no {path}. There are: {', '.join(files)}", []
    if not packed(source, path):
        folder = os.path.join(source, "conf")
        name = os.path.basename(place := free(folder, path))
        to = f"{shlex.quote(folder)}/" if name == os.path.basename(path) else shlex.quote(place)
        copy = "" if os.path.exists(place) else f"Copy it into the job: cp {shlex.quote(path)} {to}, then set "
        return (
            f"recommender_config is {config}, which is not deployed. {copy or 'Its copy is there: set '}"
            f"recommender_config: {scalar(f'conf/{name}')}"
        ), []
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
    there: list[dict[str, str]] = []
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
            there.append({"path": value, "mend": linked(source, path, key, value, data)})
        elif home == value and packed(source, place):
            relative = os.path.relpath(place, os.path.dirname(path))
            write = f"Write data.{key}: {scalar(relative)}"
            return f"{path}: data.{key} is {value}, which the server does not have. {write}", []
        elif not os.path.exists(target := os.path.normpath(os.path.join(os.path.dirname(path), home))):
            return f"{path}: data.{key} is {value}, and there is no {target}. Correct data.{key}", []
        else:
            return f"{path}: data.{key} is {value}, which is not deployed. {linked(source, path, key, home, data)}", []
    return "", there


def free(folder: str, path: str, of: str = "") -> str:
    """A place in a folder for a file from elsewhere, or for a folder with the file `of`.

    It is not taken, or holds that file already.
    """
    # training would take a $ for the environment's
    stem, dot, ending = (os.path.basename(path) or "mine").replace("$", "_").partition(".")
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    places = (os.path.join(folder, f"{stem}{number}{dot}{ending}") for number in numbers)
    return next(
        place
        for place in places
        if not os.path.lexists(place) or same(os.path.join(place, os.path.basename(of)) if of else place, of or path)
    )


def same(place: str, path: str) -> bool:
    """Whether both are one file or folder, or two parameter files of one content."""
    if not os.path.exists(place) or not os.path.exists(path):
        return False
    equal = path.endswith((".yaml", ".yml")) and os.path.isfile(place) and filecmp.cmp(place, path, shallow=False)
    return os.path.samefile(place, path) or equal


def scalar(text: str) -> str:
    """A text as YAML reads it."""
    import yaml

    with contextlib.suppress(yaml.YAMLError):
        if yaml.safe_load(f"key: {text}") == {"key": text}:
            return text
    return json.dumps(text, ensure_ascii=False)


def titles_in(folder: str, ratings: str) -> str:
    """The titles that training finds beside a file of ratings of this name; "" where there are none."""
    name = next((titles for known, titles in TITLES.items() if ratings.startswith(known)), "movies.csv")
    # packed ones have one more ending
    found = sorted(pathlib.Path(folder).glob(f"{name}*"))
    return next((str(each) for each in found if each.name.removeprefix(name)[:1] in ("", ".")), "")


def linked(source: str, config: str, key: str, value: str, data: dict[str, typing.Any]) -> str:
    """Says how data from elsewhere is deployed, with the titles beside it."""
    target = os.path.normpath(os.path.join(os.path.dirname(config), value))
    folder, name = os.path.join(source, "data"), os.path.basename(target)
    alone = key != "source" or bool(data.get("titles")) or not os.path.isfile(target)
    titles = "" if alone else titles_in(os.path.dirname(target), name)
    wanted = [target, titles] if titles else [target]
    taken = any(os.path.basename(free(folder, each)) != os.path.basename(each) for each in wanted)
    # a name may say how ratings are read, and they would get the titles of others
    telling = titles or name.startswith((*TITLES, "ratings."))
    mixed = not alone and not titles and titles_in(folder, name)
    if mixed or (taken and telling):
        folder = free(folder, os.path.dirname(target), target)
    links = [(each, free(folder, each)) for each in wanted]
    typed = [f"ln -s {shlex.quote(of)} {shlex.quote(link)}" for of, link in links if not os.path.lexists(link)]
    if typed and not os.path.isdir(folder):
        typed[0] = f"mkdir -p {shlex.quote(folder)} && {typed[0]}"
    link_it = f"Link it, and the run packs it: {', its titles too: '.join(typed)}, then"
    how = f"{link_it} write" if typed else "It is linked: write"
    return f"{how} data.{key}: {scalar(os.path.relpath(links[0][1], os.path.dirname(config)))}"


def check(source: str, config: str) -> None:
    """Refuses what would fail on the server; prints the paths that have to be there, each with a remedy."""
    parts = [os.path.join(source, part) for part in TRAINED_FROM + BESIDE]
    faults = [unfit(part, (os.path.realpath(source),)) for part in parts if os.path.lexists(part)]
    fault, there = named(source, config) if config else ("", [])
    if fault := fault or next(filter(None, faults), ""):
        sys.exit(fault)
    print(json.dumps(there))


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
print(json.dumps({"digest": digest, "inputs": inputs, "commit": commit(source), "archive": path}))
