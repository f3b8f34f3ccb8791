"""Make the channel, the installer and vars.yml of the conda fixture, on the fixture's own Python.

usage: make_fixture.py WHEELS_FOLDER WORK_FOLDER OUT_FOLDER   (WORK_FOLDER as python_prefix.sh leaves it)
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import conda_package
from conda_package import PLACEHOLDER, SITE_PACKAGES, THIS_PYTHON_ONLY
from conda_package_streaming.extract import extract

HERE = Path(__file__).parent
# where hosts see the finished folder
MOUNT = "/srv/conda-fixture"
CONDA_FORGE = "https://conda.anaconda.org/conda-forge"

# wheel: (conda name, its dependencies)
WHEELS: dict[str, tuple[str, list[str]]] = {
    "archspec": ("archspec", []),
    "backports_zstd": ("backports.zstd", []),
    "boltons": ("boltons", []),
    "certifi": ("certifi", []),
    "charset_normalizer": ("charset-normalizer", []),
    "conda_package_handling": ("conda-package-handling", ["backports.zstd", "conda-package-streaming"]),
    "conda_package_streaming": ("conda-package-streaming", ["backports.zstd", "requests"]),
    "distro": ("distro", []),
    "idna": ("idna", []),
    "jsonpatch": ("jsonpatch", ["jsonpointer"]),
    "jsonpointer": ("jsonpointer", []),
    "packaging": ("packaging", []),
    "pip": ("pip", ["setuptools", "wheel"]),
    "platformdirs": ("platformdirs", []),
    "pluggy": ("pluggy", []),
    "requests": ("requests", ["certifi", "charset-normalizer", "idna", "urllib3"]),
    "ruamel_yaml": ("ruamel.yaml", []),
    "setuptools": ("setuptools", []),
    "tqdm": ("tqdm", []),
    "truststore": ("truststore", []),
    "urllib3": ("urllib3", []),
    "wheel": ("wheel", []),
    "zstandard": ("zstandard", []),
}
# those of conda 24.7.1's recipe
CONDA_DEPENDS = [
    "archspec",
    "boltons >=23.0.0",
    "charset-normalizer",
    "conda-package-handling >=2.2.0",
    "distro >=1.5.0",
    "jsonpatch >=1.32",
    "packaging >=23.0",
    "platformdirs >=3.10.0",
    "pluggy >=1.0.0",
    "pycosat >=0.6.3",
    "requests >=2.28.0,<3",
    "ruamel.yaml >=0.11.14,<0.20",
    "setuptools >=60.0.0",
    "tqdm >=4",
    "truststore >=0.8.0",
    "zstandard >=0.19.0",
    THIS_PYTHON_ONLY,
]
SHELL_FILES = {
    "bin/conda": 0o755,
    "condabin/conda": 0o755,
    "bin/activate": 0o755,
    "bin/deactivate": 0o755,
    "etc/profile.d/conda.sh": 0o644,
}
# what `conda run` and `conda init` read inside the package; empty for shells that the fixture does without
HOOK_FILES = [
    "etc/profile.d/conda.sh",
    "etc/profile.d/conda.csh",
    "etc/fish/conf.d/conda.fish",
    "bin/activate",
    "bin/deactivate",
    "condabin/Conda.psm1",
    "condabin/conda-hook.ps1",
    "conda.xsh",
]


def shell_file(name: str) -> str:
    """Text of a file of the folder shell for the placeholder prefix; empty when there is none."""
    path = HERE / "shell" / name
    return path.read_text().replace("@PREFIX@", PLACEHOLDER) if path.exists() else ""


def wheel_path(wheels: Path, name: str) -> Path:
    """The one wheel of a distribution; FileNotFoundError when there is none."""
    found = sorted(wheels.glob(f"{name}-*.whl"))
    if len(found) != 1:
        raise FileNotFoundError(f"expected one wheel {name}-*.whl in {wheels}, found {len(found)}")
    return found[0]


def pack_conda(wheel: Path, channel: Path) -> str:
    """Pack the whole conda that conda-lock vendors under its own name again; returns its version."""
    vendored = "conda_lock/_vendor/conda/"
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(wheel) as archive:
        root = Path(temporary)
        package = root / SITE_PACKAGES / "conda"
        for member in archive.namelist():
            if not member.startswith(vendored) or member.endswith("/"):
                continue
            data = archive.read(member)
            if member.endswith(".py"):
                data = re.sub(rb"conda_lock\._?vendor\.conda", b"conda", data)
            target = package / member.removeprefix(vendored)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        found = re.search(r"version = '([\d.]+)'", (package / "_version.py").read_text())
        if not found:
            raise ValueError(f"{wheel.name} carries no conda with a version")
        version = found[1]
        dist_info = package.with_name(f"conda-{version}.dist-info")
        dist_info.mkdir()
        (dist_info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: conda\nVersion: {version}\n")
        (dist_info / "INSTALLER").write_text("conda\n")
        targets = {root / name: mode for name, mode in SHELL_FILES.items()}
        targets |= {package / "shell" / name: 0o644 for name in HOOK_FILES}
        for target, mode in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(shell_file(target.name))
            target.chmod(mode)
        conda_package.from_folder(root, channel, "conda", version, CONDA_DEPENDS, build="py311_0")
    return version


def pack_channel(wheels: Path, work: Path, channel: Path) -> str:
    """Fill the channel with Python, conda and what they need; returns the version of conda."""
    prefix = work / "prefix"
    conda_package.from_folder(prefix, channel, "python", platform.python_version(), ["pip"], build="0_cpython")
    conda_package.from_folder(work / "pycosat", channel, "pycosat", "0.6.4", [THIS_PYTHON_ONLY], build="py311_0")
    for wheel, (name, depends) in WHEELS.items():
        conda_package.from_wheel(wheel_path(wheels, wheel), channel, name, depends)
    return pack_conda(wheel_path(wheels, "conda_lock"), channel)


def write_installer(channel: Path, version: str, path: Path) -> str:
    """Write the self-extracting installer of everything in the channel; returns its sha256."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        root.chmod(0o755)  # tar sets it on the prefix
        packages = root / "pkgs"
        packages.mkdir()
        (root / "conda-meta").mkdir()
        urls, explicit = [], ["@EXPLICIT"]
        for subdir, records in conda_package.write_index(channel).items():
            for name, record in records.items():
                url = f"{CONDA_FORGE}/{subdir}/{name}"
                (packages / name).write_bytes((channel / subdir / name).read_bytes())
                unpacked = packages / name.removesuffix(".conda")
                extract(packages / name, unpacked)
                origin = record | {"fn": name, "url": url, "channel": CONDA_FORGE}
                (unpacked / "info/repodata_record.json").write_text(json.dumps(origin))
                urls.append(url)
                explicit.append(f"{url}#{record['md5']}")
        (packages / "urls").write_text("\n".join(urls) + "\n")
        (packages / "urls.txt").write_text("\n".join(urls) + "\n")
        (root / "conda-meta/initial-state.explicit.txt").write_text("\n".join(explicit) + "\n")
        (root / "conda-meta/history").touch()
        tar = ["tar", "--owner=0", "--group=0", "-C", str(root), "-czf", "-", "."]
        payload = subprocess.run(tar, stdout=subprocess.PIPE, check=True).stdout
    header = (HERE / "installer_header.sh").read_text()
    header = header.replace("@VERSION@", version).replace("@MD5@", hashlib.md5(payload).hexdigest())
    path.write_bytes(header.encode() + payload)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Make OUT_FOLDER/{Miniforge3-VERSION-Linux-x86_64.sh,channel/conda-forge,vars.yml}."""
    wheels, work, out = map(Path, sys.argv[1:4])
    channel = out / "channel" / "conda-forge"
    version = pack_channel(wheels, work, channel) + "-0"
    installer = out / f"Miniforge3-{version}-Linux-x86_64.sh"
    sha256 = write_installer(channel, version, installer)
    (out / "vars.yml").write_text(f"""---
# Variables of the role conda for hosts that see this folder, read-only, at {MOUNT}.
conda_version: "{version}"
conda_installer_url: file://{MOUNT}/{installer.name}
conda_installer_checksum: sha256:{sha256}
conda_condarc_extra:
  # the name conda-forge in an unmodified environment.yml resolves to {MOUNT}/channel/conda-forge
  channel_alias: file://{MOUNT}/channel
  # libmamba is compiled code that neither PyPI nor Debian carries
  solver: classic
""")


if __name__ == "__main__":
    main()
