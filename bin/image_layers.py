"""Layers and archives of images with nothing in them that differs between two builds.

The archive is an OCI layout that `docker load` of any release reads too.
"""

import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def encoded(content: object) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(name: str, size: int, mode: int = 0o644, when: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode, made.mtime = size, mode, when
    return made


@dataclass
class Tree:
    """Files of a layer: path to mode and content, None for a folder, a text for the target of a link."""

    files: dict[str, tuple[int, bytes | str | None]] = field(default_factory=dict)

    def add(self, path: str, content: bytes | str | None, mode: int = 0o644) -> None:
        for parent in [*pathlib.PurePosixPath(path).parents][:-1]:
            self.files.setdefault(str(parent), (0o755, None))
        self.files[path] = mode, content

    def add_folder(self, folder: pathlib.Path, place: str, wanted: Callable[[str], bool]) -> None:
        """The files below a folder whose path in it is wanted."""
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and wanted(name):
                self.add(f"{place}/{name}", path.read_bytes(), 0o755 if path.suffix == ".so" else 0o644)

    def add_package(self, archive: IO[bytes], wanted: Callable[[str], bool]) -> None:
        """The files of a Debian package, from the tar in it."""
        with tarfile.open(fileobj=archive, mode="r|") as members:
            for member in members:
                path = member.name.removeprefix("./").rstrip("/")
                if path in (".", "") or not wanted(path):
                    continue
                if member.isdir():
                    self.add(path, None, member.mode)
                elif member.issym():
                    self.add(path, member.linkname, 0o777)
                elif member.islnk():
                    mode, content = self.files[member.linkname.removeprefix("./")]
                    self.add(path, content, mode)
                else:
                    file = members.extractfile(member)
                    assert file is not None, path
                    self.add(path, file.read(), member.mode)

    def tar(self, when: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, (mode, content) in sorted(self.files.items()):
                made = entry(path, len(content) if isinstance(content, bytes) else 0, mode, when)
                if content is None:
                    made.type = tarfile.DIRTYPE
                elif isinstance(content, str):
                    made.type, made.linkname = tarfile.SYMTYPE, content
                archive.addfile(made, io.BytesIO(content) if isinstance(content, bytes) else None)
        return buffer.getvalue()


@dataclass
class Image:
    """An image before it is written: its platform, its run configuration, and its layers with what each is."""

    architecture: str
    created: str
    config: dict[str, Any]
    layers: list[tuple[str, bytes]] = field(default_factory=list)

    def blobs(self) -> tuple[bytes, bytes]:
        """The OCI configuration, whose digest is the image's id, and the manifest."""
        config = encoded({
            "architecture": self.architecture, "os": "linux", "created": self.created, "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}" for _, layer in self.layers]},
            "history": [{"created": self.created, "created_by": what} for what, _ in self.layers],
        })  # fmt: skip
        described = [
            {"mediaType": LAYER, "digest": f"sha256:{digest(layer)}", "size": len(layer)} for _, layer in self.layers
        ]
        manifest = encoded({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": described,
            "config": {"mediaType": CONFIG, "digest": f"sha256:{digest(config)}", "size": len(config)},
        })  # fmt: skip
        return config, manifest

    def write(self, path: pathlib.Path, tag: str) -> None:
        """Write the archive; the same image and tag give the same bytes."""
        config, manifest = self.blobs()
        index = {
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST, "digest": f"sha256:{digest(manifest)}", "size": len(manifest),
                "annotations": {"io.containerd.image.name": f"docker.io/library/{tag}",
                                "org.opencontainers.image.ref.name": tag.partition(":")[2]},
            }],
        }  # fmt: skip
        layers = [layer for _, layer in self.layers]
        names = [f"blobs/sha256/{digest(layer)}" for layer in layers]
        docker = [{"Config": f"blobs/sha256/{digest(config)}", "RepoTags": [tag], "Layers": names}]
        blobs = {f"blobs/sha256/{digest(each)}": each for each in (config, manifest, *layers)}
        files = {
            "oci-layout": encoded({"imageLayoutVersion": "1.0.0"}), "index.json": encoded(index),
            "manifest.json": encoded(docker), **blobs,
        }  # fmt: skip
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in files.items():
                archive.addfile(entry(name, len(content)), io.BytesIO(content))


def saved(image: str) -> tuple[dict[str, Any], list[bytes]]:
    """The configuration and the layers of an image that the engine has."""
    save = subprocess.run(["docker", "save", image], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(save)) as archive:

        def content(name: str) -> bytes:
            # follows the links that docker writes for a layer that is there twice
            file = archive.extractfile(name)
            assert file is not None, name
            raw = file.read()
            return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw

        manifest = json.loads(content("manifest.json"))[0]
        return json.loads(content(manifest["Config"])), [content(name) for name in manifest["Layers"]]


def members(layer: bytes, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Paths of a layer, with the content of those that are files and wanted."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            file = archive.extractfile(member) if member.isfile() and wanted(path) else None
            yield path, file.read() if file else b""
