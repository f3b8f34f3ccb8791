"""A copy of the database that says of itself what is in it: saved for a backup, verified where it is restored, loaded.

A saved folder holds database.db or database.dump, and manifest.json, which is written last.
"""

from __future__ import annotations

import collections
import datetime
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import posixpath
import re
import sqlite3
import subprocess
import tempfile
import urllib.parse
from typing import Any

import sqlalchemy as sa

from .copies import copy_sqlite, kept, migrate, restore
from .logins import GRANTED, renew_admin
from .store import ARTIFACTS, COPY_WAITS, DESTINATION, KEPT, URI, Refused, connect, held, is_known, is_there, run

FORMAT = 1
FILES = {"sqlite": "database.db", "postgresql": "database.dump"}
MANIFEST, PERMISSIONS = "manifest.json", "granted.json"
# the first line of `save`, at which the command around it lets promotions go on
COPIED = "copied"
# what is read of these tables; older schemas have fewer columns
ROWS = {
    "alembic_version": ("version_num",),
    "alembic_version_auth": ("version_num",),
    "runs": ("run_uuid", "artifact_uri"),
    "logged_models": ("model_id", "name", "artifact_location", "source_run_id"),
    "model_versions": ("name", "version", "source", "storage_location", "run_id"),
    "registered_model_aliases": ("name", "alias", "version"),
}
Row = dict[str, str | None]
# of PostgreSQL's text format
ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def save(folder: str) -> None:
    """Copies the database into a folder, with a manifest of what is in it and of the artifacts that it names.

    Prints a line as soon as the database is copied, and at the end one of JSON with what was saved. The artifacts are
    read after it, and nothing deletes any meanwhile.

    Raises:
        Refused: there is no database, it is of another kind, or something cannot be read or written.
    """
    place = pathlib.Path(folder)
    engine = connect(os.environ[URI])
    kind = engine.name
    if not is_there(engine):
        raise Refused("There is no database yet, and so nothing to save.")
    if kind not in FILES:
        raise Refused(f"A database of the kind {kind} is not saved here: copy it with its own programs.")
    with held(fcntl.LOCK_SH, COPY_WAITS) as free:
        if not free:
            raise Refused(f"Artifacts have been deleted for {COPY_WAITS} s (journalctl -u mlflow-gc). Try again later.")
        try:
            for name in (MANIFEST, PERMISSIONS, *FILES.values()):
                (place / name).unlink(missing_ok=True)
            time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            content = _copied(engine, place / FILES[kind])
            if GRANTED.exists():
                (place / PERMISSIONS).write_text(GRANTED.read_text())
            manifest = {
                "format": FORMAT,
                "time": time,
                "kind": kind,
                "mlflow": importlib.metadata.version("mlflow"),
                "sha256": _sha256(place / FILES[kind]),
                "destination": os.environ.get(DESTINATION, ARTIFACTS),
                **content,
            }
            _add_artifacts(manifest, pathlib.Path(str(manifest["destination"])))
            part = place / f".{MANIFEST}"
            part.write_text(json.dumps(manifest, indent=1, sort_keys=True))
            part.replace(place / MANIFEST)
        except (OSError, sqlite3.Error, sa.exc.SQLAlchemyError) as error:
            raise Refused(f"The database could not be saved to {folder}: {error}") from None
    print(json.dumps(_summary(manifest)))


def verify(folder: str, artifacts: str) -> None:
    """Compares a saved folder, and the artifacts restored with it, with the manifest; changes nothing.

    Prints what was compared as JSON, with the faults. Ends the process with 1 where there are any.

    Args:
        folder: a saved copy, wherever it is now.
        artifacts: the folder that the artifacts were restored to; empty where they are in an S3-compatible store.
    """
    found: dict[str, Any] = {"faults": []}
    try:
        manifest = _manifest(pathlib.Path(folder))
        if manifest["destination"].startswith("/") and not artifacts:
            raise Refused(f"Say where the artifacts were restored to: mlflow-admin verify {folder} ARTIFACTS")
        found = _summary(manifest)
        found["faults"] = _database_faults(pathlib.Path(folder), manifest)
        found["faults"] += _artifact_faults(pathlib.Path(artifacts), manifest)
    except Refused as error:
        found["faults"].append(str(error))
    print(json.dumps(found))
    if found["faults"]:
        raise SystemExit(1)


def fits(folder: str) -> dict[str, Any]:
    """The manifest of a saved copy that the database in force can be replaced with; changes nothing.

    Raises:
        Refused: the copy is damaged, of another kind or of a newer MLflow.
    """
    place = pathlib.Path(folder)
    manifest, kind = _manifest(place), sa.make_url(os.environ[URI]).get_backend_name()
    if manifest["kind"] != kind:
        raise Refused(
            f"The copy is of {manifest['kind']}, and this server's database is {kind}. Set mlflow_backend:"
            f" {manifest['kind']} in the inventory, and type ansible-playbook site.yml --tags tracking"
            " -e mlflow_server_switch=leave. Load the copy then. To move it to another database afterwards, set"
            " mlflow_backend again and run playbooks/migrate_tracking.yml."
        )
    if newer := _newer(manifest["schema"]):
        raise Refused(
            f"The copy is of MLflow {manifest['mlflow']}, whose schema {newer[0]} this server's MLflow"
            f" {importlib.metadata.version('mlflow')} does not know. Install that version or a newer one"
            " (mlflow_server_requirements), then load again."
        )
    if _sha256(place / FILES[kind]) != manifest["sha256"]:
        raise Refused(f"{place / FILES[kind]} is not the file that was saved. Restore it again.")
    return manifest


def load(folder: str) -> None:
    """Puts a saved copy in the place of the database in force, migrated to this MLflow; that one is set aside before.

    The server must be stopped. Artifacts are the caller's. Prints what was loaded as JSON.

    Raises:
        Refused: the copy is damaged, of another kind or of a newer MLflow, or it cannot be loaded. The database is then
            as it was before.
    """
    place, uri = pathlib.Path(folder), os.environ[URI]
    manifest = fits(folder)
    kind = manifest["kind"]
    aside = kept("set-aside")
    try:
        restore(str(place / FILES[kind]))
        migrate()
        engine = connect(uri)
        with engine.begin() as connection:
            if "MLFLOW_TRACKING_PASSWORD" in os.environ and sa.inspect(connection).has_table("users"):
                # the file of this host has another password than the copy, where the host is another
                renew_admin(connection)
            now = _tables(connection)
        engine.dispose()
        if off := _differing(manifest, now):
            raise Refused("; ".join(off))
    except Exception as error:
        if aside["file"]:
            restore(aside["file"])
        elif kind == "sqlite":
            pathlib.Path(str(sa.make_url(uri).database)).unlink(missing_ok=True)
        was = "The database is as it was before." if aside["file"] else "There was no database before."
        raise Refused(f"The copy could not be loaded: {error}\n{was}") from error
    if (place / PERMISSIONS).exists():
        GRANTED.write_text((place / PERMISSIONS).read_text())
    migrated = now["schema"] != manifest["schema"]
    print(json.dumps({**_summary(manifest), "migrated": migrated, "set_aside": aside["file"]}))


def _manifest(place: pathlib.Path) -> dict[str, Any]:
    """The manifest of a saved folder."""
    try:
        manifest: dict[str, Any] = json.loads((place / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise Refused(f"{place / MANIFEST} is of another release, which wrote format {manifest['format']}.")
        return manifest
    except FileNotFoundError:
        raise Refused(f"{place} has no {MANIFEST}: nothing was saved there, or not to the end.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{place / MANIFEST} cannot be read: {error!r}") from None


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """What a person, or a program that watches backups, wants to know of a saved folder."""
    return {
        "time": manifest["time"],
        "kind": manifest["kind"],
        "mlflow": manifest["mlflow"],
        "tables": len(manifest["counts"]),
        "rows": sum(manifest["counts"].values()),
        "versions": len(manifest["versions"]),
        "aliases": len(manifest["aliases"]),
        "folders": len(manifest["folders"]),
        "files": sum(manifest["folders"].values()),
        # where the server had lost them already
        "without_artifacts": [_called(version) for version in manifest["versions"] if version["artifacts"] == {}],
    }


def _called(version: dict[str, Any]) -> str:
    return f"{version['name']} {version['version']}"


# The database


def _copied(engine: sa.Engine, file: pathlib.Path) -> dict[str, Any]:
    """Copies the database to a file at one moment, while others write; gives what is in the copy."""
    if engine.name == "sqlite":
        copy_sqlite(str(engine.url.database), str(file))
        print(COPIED, flush=True)
        return _of_sqlite(file)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        moment = connection.scalar(sa.text("SELECT pg_export_snapshot()"))
        dump = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={moment}", f"--file={file}"]
        run(engine.url, "pg_dump", *dump)
        print(COPIED, flush=True)
        return _tables(connection)


def _of_sqlite(file: pathlib.Path) -> dict[str, Any]:
    """What is in a SQLite file, which is not changed and gets no companions; `broken` counts its foreign keys."""
    # immutable: else a file that is read-only, or in a folder that is, could not be opened in every mode
    engine = sa.create_engine(f"sqlite:///file:{urllib.parse.quote(str(file))}?mode=ro&immutable=1&uri=true")
    try:
        with engine.connect() as connection:
            damaged = [row[0] for row in connection.execute(sa.text("PRAGMA integrity_check"))]
            if damaged != ["ok"]:
                raise Refused(f"{file} is damaged: {'; '.join(damaged[:3])}")
            broken = len(connection.execute(sa.text("PRAGMA foreign_key_check")).fetchall())
            return {**_tables(connection), "broken": broken}
    finally:
        engine.dispose()


def _tables(connection: sa.Connection) -> dict[str, Any]:
    """What is in a database, from within one transaction."""
    inspector = sa.inspect(connection)
    counts, rows = {}, {}
    for name in sorted(inspector.get_table_names()):
        counts[name] = connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name))) or 0
        if name in ROWS:
            there = {column["name"] for column in inspector.get_columns(name)} & {*ROWS[name]}
            query = sa.select(*map(sa.column, sorted(there))).select_from(sa.table(name))
            rows[name] = [
                {key: None if value is None else str(value) for key, value in row.items()}
                for row in connection.execute(query).mappings()
            ]
    return _content(counts, rows)


def _of_dump(file: pathlib.Path) -> dict[str, Any]:
    """What is in a file of pg_dump, as pg_restore would write it into a database; no database is needed.

    Raises:
        Refused: pg_restore cannot read it to its end.
    """
    counts: dict[str, int] = {}
    rows: dict[str, list[Row]] = collections.defaultdict(list)
    command = ["pg_restore", "--data-only", "--file=-", str(file)]
    # Debian's command then takes the newest version, as pg_dump did, and not that of a server of this host
    environment = {**os.environ, "PGHOST": "/var/run/postgresql"}
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError:
            raise Refused("pg_restore is missing: apt install postgresql-client") from None
        table, columns = "", [""]
        assert process.stdout
        for line in process.stdout:
            if not table:
                if begin := re.match(rb'COPY (?:\S+\.)?"?(\w+)"? \((.*)\) FROM stdin;$', line):
                    table, columns = begin[1].decode(), begin[2].decode().replace('"', "").split(", ")
                    counts[table] = 0
            elif line == b"\\.\n":
                table = ""
            else:
                counts[table] += 1
                if table in ROWS:
                    values = dict(zip(columns, map(_unescaped, line[:-1].split(b"\t")), strict=True))
                    rows[table].append({key: values[key] for key in ROWS[table] if key in values})
        if process.wait():
            errors.seek(0)
            raise Refused(f"{file} is damaged: {errors.read().decode().strip()}")
    return _content(counts, rows)


def _unescaped(value: bytes) -> str | None:
    """A value of PostgreSQL's text format."""
    if value == rb"\N":
        return None
    return re.sub(rb"\\(.)", lambda found: ESCAPED.get(found[1], found[1]), value, flags=re.DOTALL).decode()


def _content(counts: dict[str, int], rows: dict[str, list[Row]]) -> dict[str, Any]:
    """The manifest's part that a database alone tells."""
    runs = {row["run_uuid"]: row["artifact_uri"] for row in rows.get("runs", [])}
    models = rows.get("logged_models", [])
    return {
        "counts": counts,
        "schema": {
            name: row["version_num"]
            for name in ("alembic_version", "alembic_version_auth")
            for row in rows.get(name, [])
        },
        "versions": sorted(
            ({**row, "location": _location(row, runs, models)} for row in rows.get("model_versions", [])),
            key=lambda row: (str(row["name"]), int(str(row["version"]))),
        ),
        "aliases": sorted(rows.get("registered_model_aliases", []), key=lambda row: (row["name"], row["alias"])),
        "locations": sorted(
            {uri for uri in [*runs.values(), *(model["artifact_location"] for model in models)] if uri}
        ),
    }


def _location(version: Row, runs: dict[str | None, str | None], models: list[Row]) -> str:
    """Where the artifacts of a model's version are: its source may name a run, or a logged model, in place of it."""
    source = version.get("storage_location") or version["source"] or ""
    scheme, _, rest = source.partition(":/")
    named, _, path = rest.lstrip("/").partition("/")
    for model in models:
        of_run = scheme == "runs" and (model["source_run_id"], model["name"]) == (named, path)
        if of_run or (scheme == "models" and model["model_id"] == named):
            return str(model["artifact_location"])
    if scheme == "runs":
        return f"{runs.get(named) or source}/{path}"
    return source


def _newer(schema: dict[str, str]) -> list[str]:
    """Revisions that this MLflow does not know."""
    return [revision for table, revision in schema.items() if not is_known(table, revision)]


def _differing(manifest: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a database holds otherwise than the manifest says; of another schema, what no migration may change."""
    same = manifest["schema"] == now["schema"]
    before, after = manifest["counts"], now["counts"]
    names = sorted(before.keys() | after.keys()) if same else [name for name in KEPT if name in before]
    found = [
        f"Table {name} has {after.get(name, 0)} rows, and had {before.get(name, 0)} when it was saved."
        for name in names
        if before.get(name) != after.get(name)
    ]
    for what, keys in (("versions", ("name", "version")), ("aliases", ("name", "alias"))):
        was, has = ({tuple(row[key] for key in keys): row for row in each[what]} for each in (manifest, now))
        for key in sorted(was.keys() | has.keys()):
            named = f"{'Version' if what == 'versions' else 'Alias'} {' '.join(key)}"
            if key not in has:
                found.append(f"{named} is missing.")
            elif key not in was:
                found.append(f"{named} was not there when it was saved.")
            else:
                # a migration adds columns
                changed = [name for name in has[key] if name in was[key] and was[key][name] != has[key][name]]
                found += [f"{named} has the {name} {has[key][name]}, and had {was[key][name]}." for name in changed]
    return found


def _database_faults(place: pathlib.Path, manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the copied database, in sentences."""
    file, faults = place / FILES[manifest["kind"]], []
    if newer := _newer(manifest["schema"]):
        faults.append(f"The schema {newer[0]} is of a newer MLflow than this server's: it could not be loaded here.")
    try:
        if _sha256(file) != manifest["sha256"]:
            faults.append(f"{file} is not the file that was saved.")
        now = _of_sqlite(file) if manifest["kind"] == "sqlite" else _of_dump(file)
    except (OSError, Refused, sa.exc.SQLAlchemyError, ValueError) as error:
        return [*faults, f"{file} cannot be read: {getattr(error, 'orig', None) or error}"]
    if now["schema"] != manifest["schema"]:
        faults.append(f"The schema is {now['schema']}, and was {manifest['schema']} when it was saved.")
    if now.get("broken", 0) > manifest.get("broken", 0):
        faults.append(f"{now['broken']} rows refer to rows that are not there.")
    if now["locations"] != manifest["locations"]:
        faults.append("The rows name other folders of artifacts than when they were saved.")
    return faults + _differing(manifest, now)


# The artifacts


def _add_artifacts(manifest: dict[str, Any], root: pathlib.Path) -> None:
    """Adds to a manifest what lies in each folder that it names, where these are below the folder of the server."""
    found: dict[str, dict[str, Any]] = {}
    for version in manifest["versions"]:
        path = _below(version["location"], manifest["destination"])
        if path is not None and path not in found:
            found[path] = _digest(root / path)
        # null: in a store, or in a place that is not this server's
        version["artifacts"] = None if path is None else found[path]
    paths = [_below(uri, manifest["destination"]) for uri in manifest["locations"]]
    # how many, and no digest: runs go on logging
    manifest["folders"] = {path: len(_files(root / path)) for path in paths if path is not None}


def _artifact_faults(root: pathlib.Path, manifest: dict[str, Any]) -> list[str]:
    """What is missing or changed below the folder that the artifacts were restored to, in sentences."""
    faults = []
    for version in manifest["versions"]:
        # lost already when it was saved
        if not (was := version["artifacts"]):
            continue
        path = root / str(_below(version["location"], manifest["destination"]))
        try:
            now = _digest(path)
        except OSError as error:
            faults.append(f"The artifacts of {_called(version)} cannot be read: {error}")
            continue
        if not now:
            faults.append(f"The artifacts of {_called(version)} are missing: {path}")
        elif now != was:
            faults.append(
                f"The artifacts of {_called(version)} in {path} are not those that were saved: {now['files']} files"
                f" of {now['bytes']} bytes, and were {was['files']} of {was['bytes']}, with another digest."
            )
    for folder, files in manifest["folders"].items():
        if (there := len(_files(root / folder))) < files:
            faults.append(f"{root / folder} has {there} files, and had {files} when it was saved.")
    return faults


def _below(uri: str, destination: str) -> str | None:
    """Path below the server's folder of artifacts that a location names; None where it is elsewhere."""
    if not destination.startswith("/"):
        return None
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "mlflow-artifacts":
        path = parts.path.lstrip("/")
    elif parts.scheme in ("", "file") and pathlib.PurePosixPath(parts.path).is_relative_to(destination):
        path = posixpath.relpath(parts.path, destination)
    else:
        return None
    path = posixpath.normpath(path)
    return None if path.split("/")[0] in ("..", ".") else path


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """A folder's files, or the file that it is."""
    return [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())


def _digest(path: pathlib.Path) -> dict[str, Any]:
    """Number, bytes and SHA-256 of a folder's files and their names; nothing where there are none."""
    files = _files(path)
    lines = [f"{found.relative_to(path)}\0{_sha256(found)}\n" for found in files]
    size = sum(found.stat().st_size for found in files)
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return {"files": len(files), "bytes": size, "sha256": digest} if files else {}


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
