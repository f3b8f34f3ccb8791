#!/usr/bin/env python3
"""The served model beside `mlflow models serve` with the same model, and under switches, restarts and killed processes.

Makes a throw-away server with the whole site and prints three tables. The first: latencies, requests a second, memory
and time to the first answer of both, asked by one client in the same container, one after the other. The second: what a
second container, in the network of the first, saw of a load of 500 requests a second (--rate) while 20 new versions are
tried and served and 20 are switched back, with 5 restarts, an upgrade and a kill. The third: five times what one
process can answer, and 1,000 switches.
"""

import argparse
import bisect
import importlib.util
import json
import os
import pathlib
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
PORT, PEER = 8000, 8100
TOOL = "/usr/local/sbin/model-server"
NAME = "dev.movie-recommender"
VERSION = f"http://127.0.0.1:5000/api/2.0/mlflow/model-versions/get?name={NAME}&version="
# Asks one request again and again over so many kept-alive connections; prints latencies in ms, and requests a second.
CLIENT = """
import asyncio, json, sys, time
port, connections, seconds, head, body = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]
heads = [head, "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}", "", body]
request = "\\r\\n".join(heads)
times = []
async def one(end):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        began = time.perf_counter()
        writer.write(request.encode())
        head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
        assert " 200 " in head.splitlines()[0], head
        length = next(line.split(": ")[1] for line in head.splitlines() if line.startswith("content-length"))
        await reader.readexactly(int(length))
        times.append(1000 * (time.perf_counter() - began))
    writer.close()
async def main():
    began = time.perf_counter()
    await asyncio.gather(*(one(began + seconds) for _ in range(connections)))
    return len(times) / (time.perf_counter() - began)
rate = asyncio.run(main())
times.sort()
print(json.dumps([times[len(times) // 2], times[int(0.99 * len(times))], rate]))
"""
# Asks at a steady rate, whatever the answers take, over 64 connections; prints the latencies in ms by status.
OVERLOAD = """
import asyncio, json, sys, time
port, rate, seconds, head, body = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]
heads = [head, "Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}", "", body]
request = "\\r\\n".join(heads).encode()
found, every, first = {}, 64 / rate, time.perf_counter()
async def one(due, end):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while due < end:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        began = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
        length = next(line.split(": ")[1] for line in head.splitlines() if line.startswith("content-length"))
        await reader.readexactly(int(length))
        # an overload counts as one once it has lasted
        if began > first + 2:
            found.setdefault(head.split()[1], []).append(1000 * (time.perf_counter() - began))
        due = max(due + every, time.perf_counter())
    writer.close()
async def main():
    began = time.perf_counter()
    await asyncio.gather(*(one(began + at * every / 64, began + seconds) for at in range(64)))
asyncio.run(main())
print(json.dumps({status: sorted(times) for status, times in found.items()}))
"""
# Switches a process between versions so many times, and prints nothing.
SWITCHES = """
import itertools, socket, sys
path, times, bundles = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
for name in itertools.islice(itertools.cycle(bundles), times):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        line.sendall(f"switch {name}\\n".encode())
        answer = line.makefile().readline()
        assert '"error":' not in answer, answer
"""
TRAIN = "runuser -l analyst -c 'make -s -C /srv/recommender/current train' >/dev/null"
READY = """
import sys, time, urllib.request
began = time.monotonic()
while True:
    try:
        urllib.request.urlopen(sys.argv[1], timeout=1).close()
        break
    except OSError:
        assert time.monotonic() < began + 120
        time.sleep(0.005)
print(time.monotonic())
"""
OURS = "GET /v1/recommend?user=1&k=10 HTTP/1.1", ""
THEIRS = "POST /invocations HTTP/1.1", json.dumps({"dataframe_split": {"columns": ["user", "k"], "data": [["1", 10]]}})
# a few milliseconds of work
REASONS = "GET /v1/recommend?user=1&k=10&reasons=2 HTTP/1.1", ""
PEER_UNIT = (
    "systemd-run --quiet --collect --unit=peer --setenv=MLFLOW_TRACKING_URI=http://127.0.0.1:5000"
    " --setenv=PATH=/opt/mlflow/current/bin:/usr/bin:/bin --setenv=MLFLOW_DISABLE_TELEMETRY=true"
    f" /opt/mlflow/current/bin/mlflow models serve -m models:/{NAME}@champion --env-manager local -h 127.0.0.1"
    f" -p {PEER}"
)


# its servers are these too
SITE = ROOT / "bench/site.py"


def loaded(path: pathlib.Path) -> Any:
    """A file of Python as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Bench:
    """A server with the whole site, and what is asked of it."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def sh(self, script: str) -> str:
        return str(self.server.inside(script)[1]).strip()

    def python(self, script: str, *arguments: str | float) -> str:
        command = ["docker", "exec", self.server.name, "python3", "-c", script, *map(str, arguments)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def asked(self, port: int, request: tuple[str, str], connections: int, seconds: float) -> list[float]:
        found: list[float] = json.loads(self.python(CLIENT, port, connections, seconds, *request))
        return found

    def ready(self, start: str, url: str) -> float:
        """Seconds from a command to the first answer."""
        began = float(self.sh(f"cut -d' ' -f1 /proc/uptime; {start}").split()[0])
        return float(self.python(READY, url)) - began

    def memory(self, unit: str) -> float:
        """Megabytes of all processes of a unit."""
        group = self.sh(f"systemctl show -P ControlGroup {unit}")
        pids = self.sh(f"cat '/sys/fs/cgroup{group}/cgroup.procs'").split()
        return sum(int(self.sh(f"awk '/VmRSS/ {{ print $2 }}' /proc/{pid}/status")) for pid in pids) / 1024

    def beside(self, seconds: float) -> None:
        """Print the first table."""
        unit = "model-server-dev@1.service"
        self.sh(f"systemctl stop {unit}")
        rows = {"ready, s": [self.ready(f"systemctl start --no-block {unit}", f"http://127.0.0.1:{PORT}/health/ready")]}
        rows["ready, s"].append(self.ready(PEER_UNIT, f"http://127.0.0.1:{PEER}/ping"))
        for connections in (1, 16):
            # once to warm up
            ours, theirs = ([self.asked(port, request, connections, part) for part in (seconds / 5, seconds)][1]
                            for port, request in ((PORT, OURS), (PEER, THEIRS)))  # fmt: skip
            for label, mine, other in zip(("p50, ms", "p99, ms", "requests a second"), ours, theirs, strict=True):
                rows[f"{label}, {connections} connections"] = [mine, other]
        rows["memory, MB"] = [self.memory(unit), self.memory("peer.service")]
        self.sh("systemctl stop peer.service")
        print(
            f"| one process each ({os.cpu_count()} cores) | served | mlflow models serve | ratio |\n|---|---|---|---|"
        )
        for label, (mine, other) in rows.items():
            print(f"| {label} | {mine:.2f} | {other:.2f} | {mine / other:.2f} |")
        print(flush=True)

    def stored(self, labels: dict[str, str]) -> str:
        """A folder with a version's arrays and its golden sample, which the unit that tries it can read."""
        answer = json.loads(self.sh(f"curl -sS --fail-with-body '{VERSION}{labels['version']}'"))
        model = answer["model_version"]["source"].removeprefix("models:/")
        folder, store = f"/root/version-{labels['version']}", "/var/lib/mlflow/artifacts"
        self.sh(
            f"cp -r {store}/*/models/{model}/artifacts/artifacts/recommender {folder} && "
            f"cp {store}/*/{labels['run_id']}/artifacts/golden.json {folder} && chmod -R a+rX {folder}"
        )
        return folder

    def switched(
        self, versions: dict[str, dict[str, str]], per_second: int, seconds: int, folder: pathlib.Path
    ) -> None:
        """Print the second table."""
        image = subprocess.check_output(["docker", "inspect", "-f", "{{.Image}}", self.server.name], text=True).strip()
        load = subprocess.Popen([
            "docker", "run", "--rm", "--name", f"{self.server.name}-load",
            "--network", f"container:{self.server.name}", "-v", f"{folder}:/out",
            "-v", f"{ROOT}/roles/model_server/molecule:/load:ro", "--entrypoint", "python3", image,
            "/load/load.py", str(PORT), str(per_second), str(seconds), "/out/load",
        ])  # fmt: skip
        clock = "cut -d' ' -f1 /proc/uptime"
        acknowledged: list[tuple[float, float, str, bool]] = []

        def changed(bundle: str, back: bool) -> None:
            """Serve a version: laid out and tried as a new one is, or switched back to."""
            act = f"{TOOL} switch dev {bundle}"
            if not back:
                labels = shlex.quote(json.dumps(versions[bundle]))
                accept = f"{TOOL} accept dev --model {new} --golden {new}/golden.json --labels {labels}"
                act = f'told=$({accept}) || {{ echo "$told"; exit 3; }}; {act}'
            start, end = self.sh(f"{clock}; {act}; {clock}").split()
            acknowledged.append((float(start), float(end), bundle, back))

        first, second = versions
        new = self.stored(versions[second])
        # the champion is not moved with them
        self.sh("systemctl stop model-server-watch.service")
        for _ in range(20):
            changed(second, False)
            changed(first, True)
        restarting = float(self.sh(clock))
        for at in range(5):
            self.sh(f"systemctl restart model-server-dev@{1 + at % 2}.service")
        self.sh(f"{TOOL} renew dev")
        killed = float(self.sh(clock))
        self.sh("systemctl kill -s KILL model-server-dev@1.service")
        if load.poll() is not None:
            raise SystemExit(f"{seconds} s were too short for the switches. Give --load more.")
        (folder / "load.stop").touch()
        if load.wait(60):
            raise SystemExit("The container that asks failed.")
        answers = [json.loads(line) for line in (folder / "load").read_text().splitlines()]
        refused = sum(each["status"] == 503 for each in answers)
        lost = [each for each in answers if each["status"] not in (200, 503)]
        by_kill = [each for each in lost if killed - 1 < each["end"] < killed + 2]
        old = 0
        for (_, done, bundle, _), (start, *_) in zip(acknowledged, [*acknowledged[1:], (float("inf"),)], strict=True):
            between = [each for each in answers if done < each["start"] and each["end"] < start and each["version"]]
            old += sum(each["version"] != versions[bundle]["version"] for each in between)

        def p99(chosen: Callable[[float], bool]) -> float:
            found = sorted(1000 * (each["end"] - each["start"]) for each in answers if chosen(each["start"]))
            return float(found[int(0.99 * len(found))])

        ends = [end for _, end, _, _ in acknowledged]
        tried = [(start, end) for start, end, _, back in acknowledged if not back]

        def near(at: float) -> bool:
            after = bisect.bisect(ends, at)
            return any(abs(at - end) <= 2 for end in ends[max(0, after - 1) : after + 1])

        def during(at: float) -> bool:
            return not near(at) and any(start <= at <= end for start, end in tried)

        rows = {
            "requests": len(answers), "lost": len(lost) - len(by_kill), "lost with the killed process": len(by_kill),
            "refused with 503, for want of processor time": refused,
            "answers of an old version after a switch": old,
            "p99 within 2 s of a switch, ms": p99(near),
            "p99 while a version is tried, ms": p99(during),
            "p99 otherwise, ms": p99(lambda at: at < restarting and not near(at) and not during(at)),
            "p99 while processes are restarted, ms": p99(lambda at: at >= restarting),
        }  # fmt: skip
        for label, wanted in (
            ("a new version, laid out, tried and served", False),
            ("switching back, in the service", True),
        ):
            times = sorted(end - start for start, end, _, back in acknowledged if back == wanted)
            rows |= {f"{label}, s: median": times[len(times) // 2], f"{label}, s: longest": times[-1]}
        print(f"| {per_second} requests a second, 2 processes | |\n|---|---|")
        for label, value in rows.items():
            print(f"| {label} | {value if isinstance(value, int) else round(value, 2)} |")
        print(flush=True)

    def held_up(self, bundles: list[str], seconds: float) -> None:
        """Print the third table: one process."""
        unit = "model-server-dev@1.service"
        # two: more would be refused
        capacity = self.asked(PORT, REASONS, 2, seconds)[2]
        before = self.memory(unit)
        found = json.loads(self.python(OVERLOAD, PORT, 5 * capacity, seconds, *REASONS))
        after, accepted, refused = self.memory(unit), found.pop("200"), found.pop("503", [])
        if found:
            raise SystemExit(f"There were other answers: {[*found]}")
        print("| one process | |\n|---|---|")
        print(f"| lists with reasons, most a second | {capacity:.0f} |")
        asked, over = ((len(accepted) + len(refused)) / (seconds - 2), len(refused) / (seconds - 2))
        print(f"| asked for, and refused, a second | {asked:.0f}, {over:.0f} |")
        for label, times in (("accepted", accepted), ("refused", refused)):
            print(f"| {label}: p50, p99, ms | {times[len(times) // 2]:.1f}, {times[int(0.99 * len(times))]:.1f} |")
        print(f"| memory before and after, MB | {before:.1f}, {after:.1f} |")
        control = "/run/model-server-dev-1/control"
        self.python(SWITCHES, control, 50, *bundles)
        before = self.memory(unit)
        self.python(SWITCHES, control, 1000, *bundles)
        after = self.memory(unit)
        print(f"| memory before and after 1,000 switches of three versions, MB | {before:.1f}, {after:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement of the first table (default: 10)")
    parser.add_argument("--rate", type=int, default=500, help="requests a second of the second (default: 500)")
    parser.add_argument("--load", type=int, default=1500, help="seconds that it may take at most (default: 1500)")
    arguments = parser.parse_args()
    bench = loaded(SITE)
    fixture = subprocess.check_output([ROOT / "molecule/conda_fixture/select.sh", ROOT / ".cache"], text=True).strip()
    conda: dict[str, object] = {}
    if fixture:
        conda = yaml.safe_load(pathlib.Path(fixture).read_text())
        conda["cloud_server_local_volumes"] = [f"{pathlib.Path(fixture).parent}:/srv/conda-fixture:ro"]
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name:
        folder = pathlib.Path(name, "serving")
        try:
            server = bench.Server(folder, conda)
            mine = server.settings / "zz-mine.yml"
            mine.write_text(yaml.safe_dump({"serving_workers": 1}))
            server.site()
            ours = Bench(server)
            ours.beside(arguments.seconds)
            mine.write_text(yaml.safe_dump({"serving_workers": 2}))
            server.site("--tags", "serving")
            versions = {}
            for more in ("true", *[TRAIN] * 2):
                ours.sh(f"{more} && systemctl start model-server-follow-dev.service")
                served = json.loads(ours.sh(f"{TOOL} status dev"))["served"]
                versions[served.pop("bundle")] = served
            ours.switched(dict([*versions.items()][-2:]), arguments.rate, arguments.load, folder)
            mine.write_text(yaml.safe_dump({"serving_workers": 1}))
            server.site("--tags", "serving")
            ours.held_up([*versions], arguments.seconds)
        finally:
            name = f"{bench.NAME}-{folder.name}"
            subprocess.run(["docker", "rm", "-f", name, f"{name}-load"], capture_output=True, check=False)


if __name__ == "__main__":
    main()
