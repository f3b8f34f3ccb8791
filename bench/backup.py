#!/usr/bin/env python3
"""How long a request for lists takes while a copy of the server is made, and while none is.

Makes a throw-away server with the whole site, whose copies go to a folder of its own, and prints a table. In turn a
second container, in the network of the first, asks it while nothing else happens, and while server-backup-run.service
copies new files of a home as well. --server takes a container that is there, such as that of `make up` with backup_to.
The figures are the medians of the rounds.

The unit has a CPUWeight. On a server systemd sets it, but in a container of a host with cgroup version 1 systemd has no
CPU controller. There this script puts the unit's processes into a group with the shares that systemd would set. All
others stay, each with the 1,024 of a service. MLflow's database is saved by a unit of its own: it has its Nice alone.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
from collections.abc import Iterator

import yaml
from serving import SITE, loaded

ROOT = pathlib.Path(__file__).resolve().parents[1]
PORT, UNIT = 8000, "server-backup-run.service"
# COPY: starts the unit and waits for its end; its children stay in the group of its first process
GROUP, PROCESSES = "/run/bench-cpu", f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs"
WEIGH = f"""weight=$(systemctl show -P CPUWeight {UNIT})
grep -qw cpu /sys/fs/cgroup/cgroup.controllers && exit
mkdir -p {GROUP}; mountpoint -q {GROUP} || mount -t cgroup -o cpu cgroup {GROUP}
mkdir -p {GROUP}/copy
case $weight in
idle) echo 1 > {GROUP}/copy/cpu.idle ;;
[0-9]*) echo $((weight * 1024 / 100)) > {GROUP}/copy/cpu.shares ;;
esac"""
COPY = f"""timeout 600 systemctl start {UNIT} & started=$!
for _ in $(seq 3000); do
  [ -e {GROUP}/copy ] && kill -0 $started || break
  ! read -r first < {PROCESSES} || {{ echo "$first" > {GROUP}/copy/cgroup.procs; break; }}
  sleep 0.02
done 2>/dev/null
wait $started"""
ENOUGH = f"rm -r /home/analyst/bench; ! mountpoint -q {GROUP} || {{ rmdir {GROUP}/copy; umount {GROUP}; }}"
FILES = "mkdir -p /home/analyst/bench; head -c {size}M /dev/urandom > /home/analyst/bench/{name}; sync"


@contextlib.contextmanager
def new_server(folder: pathlib.Path) -> Iterator[str]:
    """Name of a container with the whole site, which goes at the end."""
    bench = loaded(SITE)
    fixture = subprocess.check_output([ROOT / "molecule/conda_fixture/select.sh", ROOT / ".cache"], text=True).strip()
    conda: dict[str, object] = {}
    if fixture:
        conda = yaml.safe_load(pathlib.Path(fixture).read_text())
        conda["cloud_server_local_volumes"] = [f"{pathlib.Path(fixture).parent}:/srv/conda-fixture:ro"]
    try:
        server = bench.Server(folder, conda)
        given = {"serving_workers": 1, "backup_to": "/mnt/copies", "copies_keys_folder": str(folder / "keys")}
        (server.settings / "zz-mine.yml").write_text(yaml.safe_dump(given))
        server.site()
        yield server.name
    finally:
        subprocess.run(["docker", "rm", "-f", f"{bench.NAME}-{folder.name}"], capture_output=True, check=False)


def inside(name: str, script: str) -> str:
    return subprocess.check_output(["docker", "exec", name, "bash", "-euc", script], text=True).strip()


def asked(name: str, per_second: int, seconds: int, copy: bool, folder: pathlib.Path) -> tuple[list[float], float]:
    """Milliseconds of each answer, of a while with a copy those during it, and the seconds of the while.

    Raises:
        SystemExit: a request was lost or refused, or the copy failed or took longer than ten minutes.
    """
    image = subprocess.check_output(["docker", "inspect", "-f", "{{.Image}}", name], text=True).strip()
    stop, clock = folder / "load.stop", "cut -d' ' -f1 /proc/uptime"
    stop.unlink(missing_ok=True)
    load = subprocess.Popen([
        "docker", "run", "--rm", "--name", f"{name}-load", "--network", f"container:{name}", "-v", f"{folder}:/out",
        "-v", f"{ROOT}/roles/model_server/molecule:/load:ro", "--entrypoint", "python3", image,
        "/load/load.py", str(PORT), str(per_second), "660", "/out/load",
    ])  # fmt: skip
    try:
        # the first requests warm up
        began, ended = inside(name, f"sleep 3; {clock}; {COPY if copy else f'sleep {seconds}'}; {clock}").split()
    finally:
        stop.touch()
        load.wait(60)
    answers = [json.loads(line) for line in (folder / "load").read_text().splitlines()]
    during = [each for each in answers if float(began) <= each["start"] <= float(ended)]
    if bad := [each for each in during if each["status"] != 200]:
        raise SystemExit(f"{len(bad)} of {len(during)} requests failed: {bad[0]}")
    return [1000 * (each["end"] - each["start"]) for each in during], float(ended) - float(began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="", help="a container that is there")
    parser.add_argument("--rate", type=int, default=50, help="requests a second (default: 50)")
    parser.add_argument("--rounds", type=int, default=5, help="copies (default: 5)")
    parser.add_argument("--size", type=int, default=300, help="megabytes of new files a copy (default: 300)")
    arguments = parser.parse_args()
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    took = 20.0
    with tempfile.TemporaryDirectory(prefix="bench-backup-") as made, contextlib.ExitStack() as stack:
        folder = pathlib.Path(made, "backup")
        folder.mkdir()
        name = arguments.server or stack.enter_context(new_server(folder))
        inside(name, WEIGH)
        stack.callback(inside, name, ENOUGH)
        for number in range(arguments.rounds):
            inside(name, FILES.format(size=arguments.size, name=number))
            # in another order each time, since a machine is not always equally busy
            for copy in (False, True) if number % 2 else (True, False):
                times, seconds = asked(name, arguments.rate, int(took) + 1, copy, folder)
                found[copy].append(sorted(times))
                took = seconds if copy else took
    print(
        f"| {arguments.rate} requests a second, one process ({os.cpu_count()} cores, load {os.getloadavg()[2]:.0f})"
        " | no copy | a copy | ratio |\n|---|---|---|---|"
    )
    print(f"| requests | {sum(map(len, found[False]))} | {sum(map(len, found[True]))} | |")
    for label, part in (("p50", 0.5), ("p99", 0.99)):
        without, beside = ([times[int(part * len(times))] for times in found[copy]] for copy in (False, True))
        ratio = statistics.median(one / other for one, other in zip(beside, without, strict=True))
        print(f"| {label}, ms | {statistics.median(without):.1f} | {statistics.median(beside):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
