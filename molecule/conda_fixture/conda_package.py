"""Write genuine .conda packages from folders and from wheels, and the index of a channel.

Format: https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conda_package_streaming.create import conda_builder
from conda_package_streaming.package_streaming import stream_conda_component

PYTHON = "3.11"
THIS_PYTHON_ONLY = "python >=3.11,<3.12.0a0"
SITE_PACKAGES = f"lib/python{PYTHON}/site-packages"
# conda overwrites it in binaries in place, so it must be longer than any real prefix
PLACEHOLDER = "/opt/" + "prefix_placeholder_" * 13


def _files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.is_symlink() or not path.is_dir()]


def _path_entry(root: Path, path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"_path": path.relative_to(root).as_posix()}
    if path.is_symlink():
        target = path.parent / os.readlink(path)
        data = target.read_bytes() if target.exists() else b""
        entry["path_type"] = "softlink"
    else:
        data = path.read_bytes()
        entry["path_type"] = "hardlink"
        if PLACEHOLDER.encode() in data:
            entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "binary" if b"\0" in data else "text"}
    return entry | {"sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def from_folder(
    root: Path,
    channel: Path,
    name: str,
    version: str,
    depends: Sequence[str],
    *,
    build: str = "0",
    noarch: bool = False,
    entry_points: Sequence[str] = (),
) -> None:
    """Pack the tree `root` into channel/<subdir>/; `noarch` means noarch: python."""
    subdir = "noarch" if noarch else "linux-64"
    folder = channel / subdir
    folder.mkdir(parents=True, exist_ok=True)
    entries = [_path_entry(root, path) for path in _files(root)]
    index: dict[str, Any] = {
        "name": name,
        "version": version,
        "build": build,
        "build_number": 0,
        "depends": list(depends),
        "license": "see package",
        "subdir": subdir,
        "arch": None if noarch else "x86_64",
        "platform": None if noarch else "linux",
        "timestamp": int(time.time() * 1000),
    }
    info = root / "info"
    info.mkdir()
    if noarch:
        index["noarch"] = "python"
        link = {
            "noarch": {"type": "python", "entry_points": list(entry_points)},
            "package_metadata_version": 1,
        }
        (info / "link.json").write_text(json.dumps(link))
    (info / "index.json").write_text(json.dumps(index))
    (info / "paths.json").write_text(json.dumps({"paths": entries, "paths_version": 1}))
    (info / "files").write_text("".join(entry["_path"] + "\n" for entry in entries))
    (info / "about.json").write_text(json.dumps({"summary": f"{name}, packed for tests"}))
    placed = [entry for entry in entries if "prefix_placeholder" in entry]
    if placed:
        lines = (f"{PLACEHOLDER} {entry['file_mode']} {entry['_path']}\n" for entry in placed)
        (info / "has_prefix").write_text("".join(lines))
    with conda_builder(f"{name}-{version}-{build}", folder, compression_level=3) as tar:
        for path in _files(root):
            tar.add(str(path), arcname=path.relative_to(root).as_posix(), filter=_owned_by_root, recursive=False)


def _entry_points(wheel: zipfile.ZipFile, dist_info: str) -> list[str]:
    if f"{dist_info}/entry_points.txt" not in wheel.namelist():
        return []
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(wheel.read(f"{dist_info}/entry_points.txt").decode())
    scripts = parser["console_scripts"] if parser.has_section("console_scripts") else {}
    return [f"{name} = {target.split('[')[0].strip()}" for name, target in scripts.items()]


def _write_script(folder: Path, entry_point: str) -> None:
    name, _, target = entry_point.partition(" = ")
    module, _, function = target.partition(":")
    folder.mkdir(exist_ok=True)
    text = f"""#!{PLACEHOLDER}/bin/python
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def from_wheel(path: Path, channel: Path, name: str, depends: Sequence[str]) -> None:
    """Pack a wheel: noarch: python when it is pure, linux-64 for Python 3.11 otherwise."""
    pure = path.name.endswith("-none-any.whl")
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        dist_info = next(n.split("/")[0] for n in wheel.namelist() if n.split("/")[0].endswith(".dist-info"))
        version = dist_info.removesuffix(".dist-info").rsplit("-", 1)[1]
        site_packages = root / ("site-packages" if pure else SITE_PACKAGES)
        # the parts of NAME.data that are not modules: PEP 427, "the .data directory"
        data_targets = {"scripts": root / ("python-scripts" if pure else "bin"), "data": root}
        for member in wheel.namelist():
            if member.endswith("/"):
                continue
            target, (first, _, rest) = site_packages / member, member.partition("/")
            if first.endswith(".data"):
                kind, _, rest = rest.partition("/")
                target = data_targets.get(kind, site_packages) / rest
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(wheel.read(member))
        (site_packages / dist_info / "INSTALLER").write_text("conda\n")
        entry_points = _entry_points(wheel, dist_info)
        if not pure:
            for entry_point in entry_points:
                _write_script(root / "bin", entry_point)
        from_folder(
            root,
            channel,
            name,
            version,
            ["python" if pure else THIS_PYTHON_ONLY, *depends],
            build="py_0" if pure else "py311_0",
            noarch=pure,
            entry_points=entry_points if pure else (),
        )


def _index_of(package: Path) -> dict[str, Any]:
    for tar, member in stream_conda_component(str(package), None, "info"):
        if member.name == "info/index.json":
            file = tar.extractfile(member)
            assert file is not None
            data = package.read_bytes()
            digests = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
            return {**json.load(file), **digests, "size": len(data)}
    raise ValueError(f"{package} has no info/index.json")


def write_index(channel: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Write repodata.json of both subdirs; returns {subdir: {file name: record}}."""
    records = {}
    for subdir in ("linux-64", "noarch"):
        records[subdir] = {path.name: _index_of(path) for path in sorted((channel / subdir).glob("*.conda"))}
        repodata = {
            "info": {"subdir": subdir},
            "packages": {},
            "packages.conda": records[subdir],
            "repodata_version": 1,
        }
        (channel / subdir / "repodata.json").write_text(json.dumps(repodata, indent=1))
    return records
