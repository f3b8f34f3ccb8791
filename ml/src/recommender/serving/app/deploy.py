"""Make the services on this host what their files say; site.yml does this."""

import contextlib
import json
from pathlib import Path

from recommender.errors import RecommenderError
from recommender.serving.app import clients, system
from recommender.serving.app.processes import Processes
from recommender.serving.app.service import ETC, VAR, Service

UNITS, ROOT = Path("/etc/systemd/system"), Path("/opt/model-server")
# The release that starts, and the one that is known to serve. They differ only while a new one is tried.
CURRENT, PROVEN = ROOT / "current", ROOT / "proven"
# The release that this code is of.
RELEASE = Path(__file__).parents[4]
_WATCH = "model-server-watch.service"


def apply(release: Path, environments: list[str]) -> list[str]:
    """Run the services as their files say, with the code of `release`; return what was changed.

    Services of other environments are removed, but not their bundles. If processes do not start with what is
    new, all run with the release before.
    Raises RecommenderError.
    """
    changed, renewed = [], []
    for path in sorted(UNITS.glob("model-server-*.socket")):
        environment = path.stem.removeprefix("model-server-")
        if environment not in environments:
            _remove(environment)
            changed.append(f"{environment} is served no longer")
    system.run("systemctl", "daemon-reload")
    before = PROVEN.readlink() if PROVEN.is_symlink() else None
    if not CURRENT.is_symlink() or CURRENT.readlink() != release:
        system.link(CURRENT, str(release))
        changed.append(f"the code is that of {release.name}")
    try:
        for environment in environments:
            service = Service(environment)
            with service.alone():
                changed += _apply(service)
            renewed.append(service)
        changed += _apply_watch(bool(environments))
    except (RecommenderError, OSError):
        if before is not None and before != release:
            system.link(CURRENT, str(before))
            # One that failed still runs with the release before.
            for service in renewed:
                mark = service.folder / "applied.json"
                with contextlib.suppress(RecommenderError, OSError), service.alone():
                    system.write(mark, {**system.content(mark), "processes": ""})
                    service.processes.renew()
        raise
    if before != release:
        system.link(PROVEN, str(release))
    return changed


def _apply(service: Service) -> list[str]:
    """Make socket and processes of a service what their files say; return what was changed."""
    changed, name, processes = [], f"model-server-{service.environment}", service.processes
    socket_file, listed = UNITS / f"{name}.socket", ETC / service.environment / clients.CLIENTS
    wanted = {
        "socket": system.digest(socket_file),
        "processes": system.digest(
            UNITS / f"{name}@.service", json.dumps(service.settings), str(CURRENT.readlink())
        ),
        "clients": system.digest(listed),
    }
    applied = system.content(service.folder / "applied.json")
    if not system.is_on(socket_file.name) or applied.get("socket") != wanted["socket"]:
        # Another port: the processes have the one before.
        system.systemctl("stop", [*map(processes.unit, processes.running()), socket_file.name])
        system.systemctl("enable", [socket_file.name], "--now")
        changed.append(f"{service.environment} has its port")
    running = processes.running()
    if running and applied.get("clients") != wanted["clients"]:
        for number in running:
            processes.ask(number, "clients")
        changed.append(f"{service.environment} knows its clients")
    if running != processes.wanted or applied.get("processes") != wanted["processes"]:
        further = [number for number in running if number not in processes.wanted]
        system.systemctl("enable", [*map(processes.unit, processes.wanted)])
        system.systemctl("disable", [*map(processes.unit, further)])
        if running and applied.get("processes") != wanted["processes"]:
            processes.renew()
        else:
            processes.start([number for number in processes.wanted if number not in running])
            processes.stop(further)
        changed.append(f"{service.environment} runs in {len(processes.wanted)} processes")
    if changed or applied != wanted:
        system.write(service.folder / "applied.json", wanted)
    return changed


def _apply_watch(needed: bool) -> list[str]:
    """Run the watch for moved champions with its present file and code; remove it with the last service."""
    unit, mark = UNITS / _WATCH, VAR / "applied.json"
    if not needed:
        if not unit.exists():
            return []
        system.systemctl("disable", [_WATCH], "--now")
        unit.unlink()
        return ["champions are watched no longer"]
    wanted = {"watch": system.digest(unit, str(CURRENT.readlink()))}
    if system.is_on(_WATCH) and system.content(mark) == wanted:
        return []
    system.systemctl("enable", [_WATCH])
    system.systemctl("restart", [_WATCH])
    system.write(mark, wanted)
    return ["champions are watched"]


def _remove(environment: str) -> None:
    """Stop and remove a service; its bundles stay."""
    processes, socket = Processes(environment, 0), f"model-server-{environment}.socket"
    system.systemctl("disable", [socket, *map(processes.unit, processes.states())], "--now")
    files = [socket, f"model-server-follow-{environment}.service", f"model-server-{environment}@.service"]
    for path in [*(UNITS / name for name in files), ETC / environment / "settings.json"]:
        path.unlink(missing_ok=True)
    (VAR / environment / "applied.json").unlink(missing_ok=True)
