#!/usr/bin/env python3
"""Hurt the throw-away server of `make up` in many ways, and look whether it recovers and has lost nothing.

usage: chaos.py [-i inventory/local] [--seed N] [--count N] [--only NAME] [--rounds N]

Each fault ends in one of two ways: all is green within a minute, or `make status` names a command, which is typed here.
Exit code 1 when a fault ends otherwise, or when something is gone.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import servers

ROOT = servers.ROOT
INVENTORY, HOST = "inventory/local", "local-server"
# metrics that MLflow acknowledges before each fault, which may lose them
FIRST = 10
# seconds: to become green, for a fault to have an effect, for one command, for all of them
PATIENCE, EFFECT, LONGEST, ALL = 60, 30, 240, 3600
VARIABLES = {
    "name": "{{ cloud_server_name | default('') }}",
    "user": "{{ operator }}",
    "analyst": "{{ analyst }}",
    "mlflow": "{{ mlflow_port }}",
    "jupyter": "{{ jupyter_port }}",
    "environments": "{{ served_environments }}",
    "model": "{{ training_names.model | default('movie-recommender', true) }}",
}
# Functions for the faults' own shell. over: a folder on a small file system of its own, with its content; back: undone.
SHELL = r"""set -eu
pid() { systemctl show -P MainPID "$1"; }
soon() { for _ in $(seq 150); do ! "$@" || return 0; sleep 0.1; done; return 1; }
gone() { ! kill -0 "$1" 2>/dev/null; }
killed() { was=$(pid "$1"); kill -"${2:-KILL}" "$was"; soon gone "$was"; }
over() { # FOLDER OPTIONS UNIT...
  folder=$1 options=$2; shift 2
  mkdir -p /run/chaos/under; echo "$@" > /run/chaos/units
  systemctl stop "$@"
  mount --bind "$folder" /run/chaos/under
  mount -t tmpfs -o "$options" tmpfs "$folder"
  cp -a /run/chaos/under/. "$folder/"
  systemctl start "$@"
}
back() { # FOLDER
  read -r units < /run/chaos/units
  # shellcheck disable=SC2086
  systemctl stop $units
  find /run/chaos/under -mindepth 1 -xdev -delete
  cp -a "$1/." /run/chaos/under/
  umount "$1"; umount /run/chaos/under
  # shellcheck disable=SC2086
  systemctl start $units
}
megabytes() { echo "size=$(($(du -sm "$1" | cut -f1) + 4))M"; }
fill() { ! dd if=/dev/zero of="$1/filler" bs=64k count=8192 2>/dev/null; }
squeezed() { # UNIT COMMAND: no memory for its processes until the kernel has killed one; COMMAND makes it want some
  was=$(pid "$1") group=/sys/fs/cgroup$(systemctl show -P ControlGroup "$1")
  if [ -e "$group/memory.max" ]; then
    kept=$(cat "$group/memory.max")
    echo 0 > "$group/memory.max"
  else
    # version 1: a group of our own in the container's part of the tree
    mkdir -p /run/chaos/memory; mount -t cgroup -o memory cgroup /run/chaos/memory; mkdir -p /run/chaos/memory/squeezed
    echo 0 > /run/chaos/memory/squeezed/memory.limit_in_bytes
    for process in $(cat "$group/cgroup.procs"); do echo "$process" > /run/chaos/memory/squeezed/cgroup.procs; done
  fi
  for _ in $(seq 40); do
    ! gone "$was" || break
    timeout 1 sh -c "$2" >/dev/null 2>&1 || true
  done
  if [ -e "$group/memory.max" ]; then echo "$kept" > "$group/memory.max"
  else soon rmdir /run/chaos/memory/squeezed 2>/dev/null; umount /run/chaos/memory; fi
  gone "$was"
}
"""
# Asks the server. argv: settings as JSON; prints what is not well, and what must not be lost.
PROBE = r"""
import hashlib, json, pathlib, subprocess, sys, urllib.parse, urllib.request
asked = json.loads(sys.argv[1])
wrong, state = [], {}
def get(path, port=asked["mlflow"], **words):
    data = json.dumps(words).encode() if words else None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=5))
def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode:
        raise OSError((done.stderr or done.stdout).strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout
def mlflow():
    api = "/api/2.0/mlflow/"
    for model in get(api + "registered-models/search").get("registered_models", []):
        aliases = {each["alias"]: each["version"] for each in model.get("aliases", [])}
        state.setdefault("models", {})[model["name"]] = aliases
    for each in get(api + "model-versions/search?max_results=1000").get("model_versions", []):
        state.setdefault("versions", {})[f"{each['name']} {each['version']}"] = [each["run_id"], each["source"]]
    found = get(api + "experiments/search", max_results=1000, filter="name != ''")["experiments"]
    state["experiments"] = {each["experiment_id"]: each["name"] for each in found}
    runs = get(api + "runs/search", experiment_ids=list(state["experiments"]), max_results=1000).get("runs", [])
    get(api + "runs/set-tag", run_id=asked["run"], key="looked", value="yes")
    state["runs"] = {each["info"]["run_id"]: [each["info"]["status"], each["data"].get("params")] for each in runs}
def served():
    aliases = {name: each.get("champion") for name, each in state.get("models", {}).items()}
    for environment in asked["environments"]:
        status = json.loads(run("model-server", "status", environment))
        about, champion = status["served"], aliases.get(f"{environment}.{asked['model']}")
        answers = [each.get("served") for each in status["processes"].values()]
        if champion and (about is None or about["version"] != champion):
            wrong.append(f"{environment}: champion {champion}, served {about and about['version']}")
        if len(answers) < status["wanted"] or (about and {*answers} != {about["bundle"]}):
            wrong.append(f"{environment}: processes {status['processes']}")
def units():
    for unit in asked["units"]:
        found = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True).stdout.strip()
        if found != "active":
            wrong.append(f"{unit} is {found}")
def files():
    places = [pathlib.Path("/var/lib/mlflow/artifacts"), *pathlib.Path("/home").glob("*")]
    found = (path for place in places for path in place.rglob("*" if "mlflow" in str(place) else "*.ipynb"))
    state["files"] = {str(path): hashlib.sha256(path.read_bytes()).hexdigest()
                      for path in found if path.is_file() and ".ipynb_checkpoints" not in str(path)}
checks = {"units": units, "MLflow": mlflow, "served model": served,
          "JupyterLab": lambda: get("/api", asked["jupyter"])["version"],
          "firewall": lambda: run("nft", "list", "table", "inet", "firewall")}
for name, check in (checks | ({"files": files} if asked["files"] else {})).items():
    try:
        check()
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        wrong.append(f"{name}: {error}")
print(json.dumps({"wrong": wrong, "state": state}))
"""
# Writes a metric's steps until its input ends. Prints each step, and whether MLflow has acknowledged it.
WRITER = r"""
import json, select, sys, time, urllib.request
port, run, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
while not select.select([0], [], [], 0.1)[0]:
    step += 1
    word = json.dumps({"run_id": run, "key": "step", "value": step, "step": step, "timestamp": int(time.time() * 1000)})
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/log-metric", word.encode(),
                                     {"Content-Type": "application/json"})
    try:
        said = "kept" if urllib.request.urlopen(request, timeout=3).status == 200 else "refused"
    except OSError:
        said = "refused"
    print(step, said, flush=True)
"""
ASK = r"""
import json, sys, urllib.request
port, path, words = sys.argv[1:]
request = urllib.request.Request(f"http://127.0.0.1:{port}/api/2.0/mlflow/{path}", words.encode() or None,
                                 {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=120).read().decode())
"""
MLFLOW, MODEL, WATCH = "mlflow.service", "model-server-dev@1.service", "model-server-watch.service"
JUPYTER = "jupyter-screen@$ANALYST.service"
HELD = "until find /var/lib/mlflow/artifacts -newer /run/chaos-mark -name config.yaml | grep -q .; do sleep 0.05; done"


@dataclass(frozen=True)
class Fault:
    """What is done to the server by its root, and what must follow."""

    name: str
    # shell inside the container
    do: str = "true"
    # ends a condition that `do` made; then removes what it needed
    undo: str = ""
    clear: str = ""
    # succeeds as soon as the fault has an effect
    bites: str = ""
    # MLflow must have refused to write before the fault ends
    refuses: bool = False
    # what docker does to the container after `do`
    docker: tuple[str, ...] = ()
    # promotions that are under way meanwhile
    promotions: int = 0
    # skipped where this fails
    needs: str = ""
    # nobody but a person mends it: what make status says, as a pattern
    says: str = ""


def of_a_service(name: str, unit: str, poke: str) -> list[Fault]:
    """Faults that each service has."""
    return [
        Fault(f"{name} killed", f"killed {unit}"),
        Fault(f"{name} terminated", f"killed {unit} TERM"),
        Fault(f"{name} stopped", f"systemctl stop {unit}", says=r"STOPPED; sudo systemctl start|Type:\ndocker restart"),
        Fault(f"{name} out of memory", f"squeezed {unit} '{poke}'"),
    ]


def ask_port(port: str) -> str:
    return f'python3 -c "import urllib.request as r; r.urlopen(\\"http://127.0.0.1:{port}\\")"'


FAULTS = [
    *of_a_service("mlflow", MLFLOW, ask_port("$MLFLOW_PORT/health")),
    *of_a_service("model-server", MODEL, "model-server status dev"),
    *of_a_service("jupyter-screen", JUPYTER, ask_port("$JUPYTER_PORT/api")),
    *of_a_service("sshd", "ssh.service", "ssh-keyscan -T 1 127.0.0.1"),
    *of_a_service("model-server-watch", WATCH, "sleep 1"),
    Fault("JupyterLab killed in its screen", 'soon pkill -KILL -u "$ANALYST" -f bin/jupyter-lab'),
    Fault(
        "screen session quit",
        f'was=$(pid {JUPYTER}); runuser -u "$ANALYST" -- screen -S jupyter -X quit; soon gone "$was"',
    ),
    Fault(
        "model-server hangs",
        f"was=$(pid {MODEL}); kill -STOP $was; for _ in 1 2 3; do soon gone $was && break; done; gone $was",
    ),
    Fault("firewall stopped", "systemctl stop firewall", says="STOPPED; sudo systemctl start"),
    Fault("firewall's rules flushed", "nft flush ruleset", says="firewall has no rules: sudo systemctl restart"),
    Fault(
        "disk of MLflow full",
        f"over /var/lib/mlflow $(megabytes /var/lib/mlflow) {MLFLOW}; fill /var/lib/mlflow",
        undo="rm -f /var/lib/mlflow/filler", clear="back /var/lib/mlflow", refuses=True,
    ),
    Fault(
        "inodes of MLflow's disk full",
        f"over /var/lib/mlflow nr_inodes=$(($(find /var/lib/mlflow | wc -l) + 20)) {MLFLOW};"
        " mkdir /var/lib/mlflow/filler;"
        " for number in $(seq 1000); do touch /var/lib/mlflow/filler/$number 2>/dev/null || break; done",
        undo="rm -rf /var/lib/mlflow/filler", clear="back /var/lib/mlflow",
        bites="! runuser -u mlflow -- touch /var/lib/mlflow/more",
    ),
    Fault(
        "disk of MLflow read-only",
        f"over /var/lib/mlflow $(megabytes /var/lib/mlflow) {MLFLOW}; killed {MLFLOW};"
        " soon mount -o remount,ro /var/lib/mlflow 2>/dev/null",
        undo="mount -o remount,rw /var/lib/mlflow", clear="back /var/lib/mlflow", refuses=True,
    ),
    Fault(
        "disk of the served model full",
        f"over /var/lib/model-server $(megabytes /var/lib/model-server) {WATCH} $(systemctl list-units --plain"
        f" --no-legend 'model-server-*@[0-9]*.service' | cut -d' ' -f1); fill /var/lib/model-server; killed {MODEL}",
        undo="rm -f /var/lib/model-server/filler", clear="back /var/lib/model-server",
        bites="! sh -c 'echo more > /var/lib/model-server/more' 2>/dev/null",
    ),
    Fault(
        "disk of the notebooks full",
        f'over /home/$ANALYST $(megabytes /home/$ANALYST) {JUPYTER}; fill /home/$ANALYST; killed {JUPYTER}',
        undo="rm -f /home/$ANALYST/filler", clear="back /home/$ANALYST",
        bites='! runuser -u "$ANALYST" -- sh -c "echo more > ~/more" 2>/dev/null',
    ),
    Fault(
        "journal's disk full",
        # the journal before is larger than this, and stays below
        "mount -t tmpfs -o size=20M,mode=755 tmpfs /var/log/journal; systemctl restart systemd-journald.service;"
        " journalctl --flush; fill /var/log/journal;"
        f" for _ in $(seq 2000); do echo 'chaos fills the journal'; done | logger; killed {MLFLOW}; killed {MODEL}",
        undo="rm -f /var/log/journal/filler",
        clear="umount -l /var/log/journal; systemctl restart systemd-journald.service; journalctl --flush",
        bites="! sh -c 'echo more > /var/log/journal/more' 2>/dev/null",
    ),
    Fault(
        "DNS gone",
        f"cp /etc/resolv.conf /run/chaos-resolv; : > /etc/resolv.conf; killed {MLFLOW}; killed {MODEL}",
        undo="cat /run/chaos-resolv > /etc/resolv.conf", bites="! getent hosts deb.debian.org",
    ),
    Fault(
        "unit of MLflow broken",
        "mkdir -p /run/systemd/system/mlflow.service.d; printf '[Service]\\nExecStart=/nowhere/mlflow\\nExecStart=\\n'"
        " > /run/systemd/system/mlflow.service.d/chaos.conf; systemctl daemon-reload;"
        f" ! systemctl restart {MLFLOW}; killed {MLFLOW}",
        undo="rm -rf /run/systemd/system/mlflow.service.d; systemctl daemon-reload", says="mlflow.service",
    ),
    Fault("restart while a version is promoted", docker=("restart",), promotions=1),
    Fault("two promotions at once", promotions=2),
    Fault(
        "restart while a copy is made",
        "systemctl start --no-block server-backup-run.service; soon pgrep -x restic", docker=("restart",),
        needs="test -x /usr/local/sbin/server-backup",
    ),
    Fault("power cut", docker=("kill", "start")),
]  # fmt: skip


class Probe(NamedTuple):
    """What is not well, and what must not be lost."""

    wrong: list[str]
    state: dict[str, dict[str, Any]]


class Outcome(NamedTuple):
    """A line of the table: how a fault ended, and what is wrong about that."""

    fault: str
    ended: str
    problems: list[str]


def refusal(inventory: str, server: dict[str, Any]) -> str:
    """Why faults are not made there; empty for the throw-away server."""
    if pathlib.PurePath(os.path.normpath(inventory)) != pathlib.PurePath(INVENTORY):
        return f"faults are made on the throw-away server of make up alone, not in {inventory}. Type: make chaos"
    if not server.get("name") or server.get("host") != "127.0.0.1":
        return f"{HOST} of {inventory} is not the container of make up. Type: make down up"
    return ""


def chosen(faults: list[Fault], seed: int, count: int, only: str, rounds: int) -> list[Fault]:
    """Faults in the order of the seed, each `rounds` times. Raises SystemExit where none has the name."""
    named = [fault for fault in faults if re.search(only, fault.name)]
    if not named:
        raise SystemExit(f"chaos: no fault is called {only}. There are: {', '.join(fault.name for fault in faults)}")
    order = named * rounds
    random.Random(seed).shuffle(order)
    return order[:count] if count else order


def lost(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], promoted: bool) -> list[str]:
    """What is gone or different. A promotion may move the aliases of staging, and a run may end."""
    found = []
    for kind, things in before.items():
        for name, value in things.items():
            if name not in after.get(kind, {}):
                found.append(f"lost: {kind} {name}")
            elif after[kind][name] != value and not (promoted and kind == "models" and name.startswith("staging.")):
                found.append(f"changed: {kind} {name}: {value}, now {after[kind][name]}")
    return found


def commands(said: str) -> list[str]:
    """What `make status` tells to type: commands that mend, not those that show."""
    return re.findall(r"sudo (systemctl (?:start|restart) [\w@.-]+)", said)


class Chaos:
    """The server of `make up`, and a run in its MLflow that is written to all the time."""

    def __init__(self, server: dict[str, Any], seed: int) -> None:
        self.server, self.name = server, str(server["name"])
        self.environment = [
            f"ANALYST={server['analyst']}",
            f"MLFLOW_PORT={server['mlflow']}",
            f"JUPYTER_PORT={server['jupyter']}",
        ]
        found = self.sh(
            "systemctl list-units --state=active --plain --no-legend ssh.service firewall.service"
            " 'jupyter-screen@*.service' mlflow.service 'model-server-*@[0-9]*.service' model-server-watch.service"
        )
        self.units = [line.split()[0] for line in found.stdout.splitlines()]
        experiment = self.mlflow("experiments/create", name=f"chaos-{seed}-{os.getpid()}")["experiment_id"]
        self.experiment = str(experiment)
        self.run = self.mlflow("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
        self.kept: set[int] = set()
        self.refused = self.step = 0

    def inside(self, *command: str, seconds: float = LONGEST, stdin: str = "") -> subprocess.CompletedProcess[str]:
        given = [word for each in self.environment for word in ("-e", each)]
        try:
            return subprocess.run(
                ["docker", "exec", "-i", *given, self.name, "timeout", str(int(seconds)), *command],
                input=stdin, capture_output=True, text=True, timeout=seconds + 10,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no end within {seconds:.0f} s")

    def docker(self, verb: str) -> None:
        subprocess.run(["docker", verb, self.name], check=True, capture_output=True, timeout=120)

    def sh(self, script: str, seconds: float = LONGEST) -> subprocess.CompletedProcess[str]:
        return self.inside("bash", "-c", SHELL + script, seconds=seconds)

    def mlflow(self, path: str, **words: Any) -> dict[str, Any]:
        """Answer of MLflow. Raises SystemExit when it fails."""
        done = self.inside("python3", "-c", ASK, str(self.server["mlflow"]), path, json.dumps(words) if words else "")
        if done.returncode:
            raise SystemExit(
                f"chaos: MLflow of {self.name} does not answer: {done.stderr.strip()[-500:]}. Type: make up"
            )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def probe(self, files: bool = False) -> Probe:
        """The services from inside, and a new login of the operator from outside."""
        what = {name: self.server[name] for name in ("mlflow", "jupyter", "environments", "model")}
        done = self.inside(
            "python3",
            "-c",
            PROBE,
            json.dumps({**what, "run": self.run, "units": self.units, "files": files}),
            seconds=60,
        )
        try:
            found = json.loads(done.stdout)
            probe = Probe(found["wrong"], found["state"])
        except ValueError:
            probe = Probe([f"the container does not answer: {(done.stderr or done.stdout).strip()[-300:]}"], {})
        login = [*servers.ssh(self.server, "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "ControlPath=none")]
        try:
            new = subprocess.run(
                [*login, f"{self.server['user']}@{self.server['host']}", "sudo -n true"], cwd=ROOT,
                capture_output=True, text=True, timeout=15,
            )  # fmt: skip
            if new.returncode:
                probe.wrong.append(f"login: {new.stderr.strip()[-200:]}")
        except subprocess.TimeoutExpired:
            probe.wrong.append("login: no answer")
        return probe

    def green(self, seconds: float = PATIENCE) -> tuple[float, Probe]:
        """Seconds until all is well, and the last look, which is bad where the time was over."""
        began = time.monotonic()
        while True:
            found = self.probe()
            took = time.monotonic() - began
            if not found.wrong or took > seconds:
                return took, found
            time.sleep(0.5)

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        return end(self.begin(*words))

    def begin(self, *words: str) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        # a connection from before the fault would hide that nobody gets in any more
        environment["ANSIBLE_SSH_ARGS"] = "-o ControlMaster=no -o ControlPath=none -o ConnectTimeout=10"
        return subprocess.Popen(
            ["make", "--no-print-directory", *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @contextlib.contextmanager
    def writing(self) -> Iterator[pathlib.Path]:
        """A client writes to MLflow meanwhile; the file has each step, and whether it was acknowledged."""
        with tempfile.TemporaryDirectory() as folder:
            said = pathlib.Path(folder, "said")
            with said.open("w") as file:
                writer = subprocess.Popen(
                    ["docker", "exec", "-i", self.name, "python3", "-c", WRITER, str(self.server["mlflow"]), self.run,
                     str(self.step)],
                    stdin=subprocess.PIPE, stdout=file, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            try:
                yield said
            finally:
                # the end of its input ends it; where the container has gone, it has too
                with contextlib.suppress(OSError):
                    writer.communicate(timeout=15)
                lines = [line.split() for line in said.read_text().splitlines()]
                self.kept |= {int(step) for step, word in lines if word == "kept"}
                self.step = max([self.step, *(int(step) for step, _ in lines)]) + 1

    def lost_steps(self) -> list[str]:
        history = self.mlflow(f"metrics/get-history?run_id={self.run}&metric_key=step&max_results=100000").get(
            "metrics", []
        )
        gone = self.kept - {int(each["step"]) for each in history}
        return [f"lost: {len(gone)} metrics that MLflow had acknowledged, of {len(self.kept)}"] if gone else []

    @contextlib.contextmanager
    def another(self) -> Iterator[None]:
        """Staging's champion is no copy of dev's meanwhile, so that dev's can be promoted again."""
        name = f"staging.{self.server['model']}"
        models = self.mlflow("registered-models/search").get("registered_models", [])
        aliases = {
            each["alias"]: each["version"]
            for model in models
            if model["name"] == name
            for each in model.get("aliases", [])
        }
        if not (version := aliases.get("champion")):
            yield
            return
        tags = self.mlflow(f"model-versions/get?name={name}&version={version}")["model_version"].get("tags", [])
        digest = next((each["value"] for each in tags if each["key"] == "artifact_digest"), "")
        words = {"name": name, "version": version, "key": "artifact_digest"}
        self.mlflow("model-versions/set-tag", **words, value="chaos")
        try:
            yield
        finally:
            self.mlflow("model-versions/set-tag", **words, value=digest)

    def meet(self, fault: Fault) -> Outcome:
        """Make one fault, wait for its end, and compare."""
        if fault.needs and self.sh(fault.needs).returncode:
            return Outcome(fault.name, f"skipped: {fault.needs} fails here", [])
        # limits of restarts are for faults of days, not of minutes
        self.sh("systemctl reset-failed")
        before, problems = self.probe(files=True), []
        if before.wrong:
            return Outcome(fault.name, "not made", [f"not green before: {each}" for each in before.wrong])
        with contextlib.ExitStack() as stack:
            said = stack.enter_context(self.writing())
            if fault.promotions:
                stack.enter_context(self.another())
            ended, found = self.suffer(fault, said)
            problems += found
        after = self.probe(files=True)
        problems += after.wrong
        if after.wrong:
            # so that the next fault finds a sound server
            self.docker("restart")
            self.green()
            after = self.probe(files=True)
        problems += lost(before.state, after.state, bool(fault.promotions)) + self.lost_steps()
        return Outcome(fault.name, ended, problems)

    def suffer(self, fault: Fault, said: pathlib.Path) -> tuple[str, list[str]]:
        """The fault from its beginning to its end: how it ended, and problems."""
        problems: list[str] = []
        deadline = time.monotonic() + EFFECT
        while said.read_text().count("kept") < FIRST:
            if time.monotonic() > deadline:
                problems.append("MLflow acknowledged too little before the fault")
                break
            time.sleep(0.2)
        self.sh("touch /run/chaos-mark")
        under_way = [self.begin("promote", "FROM=dev", "TO=staging") for _ in range(fault.promotions)]
        if under_way:
            self.sh(HELD, seconds=90)
        notes = []
        try:
            done = self.sh(fault.do)
            if done.returncode:
                problems.append(f"the fault could not be made: {(done.stderr or done.stdout).strip()[-500:]}")
            for verb in fault.docker:
                self.docker(verb)
            if not self.bitten(fault, said):
                problems.append("the fault had no effect")
            if fault.says:
                ended, more = self.told(fault)
                problems += more
                notes.append(ended)
            elif fault.undo:
                notes.append("red meanwhile" if self.probe().wrong else "green meanwhile")
        finally:
            if fault.undo and (undone := self.sh(fault.undo)).returncode:
                problems.append(f"the fault could not be undone: {undone.stderr.strip()[-300:]}")
        took, found = self.green()
        if found.wrong:
            notes.append(f"not green after {PATIENCE} s: {'; '.join(found.wrong)}")
            print(f"{fault.name}: {notes[-1]}", flush=True)
            ended, more = self.told(fault)
            problems += more
            notes.append(ended)
        else:
            notes.insert(0, f"green after {took:.0f} s")
        if fault.clear:
            if (cleared := self.sh(fault.clear)).returncode:
                problems.append(f"its file system could not be removed: {cleared.stderr.strip()[-300:]}")
            self.green()
        ends = [end(process) for process in under_way]
        if fault.promotions:
            problems += self.promoted(ends, "restart" in fault.docker)
        return "; ".join(notes), problems

    def bitten(self, fault: Fault, said: pathlib.Path) -> bool:
        """Whether the fault has an effect, which may take a while."""
        deadline = time.monotonic() + EFFECT
        while (fault.refuses and "refused" not in said.read_text()) or (
            fault.bites and self.sh(fault.bites).returncode
        ):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def told(self, fault: Fault) -> tuple[str, list[str]]:
        """What `make status` says, once its commands are typed; problems where it is content or vague."""
        status = self.make("status")
        text = " / ".join(status.stdout.rpartition("\nFAILED on")[2].strip().splitlines()[1:5])
        if not status.returncode:
            return "make status is content", ["make status says that all is well"]
        if fault.says and not re.search(fault.says, status.stdout):
            return f"make status: {text}", [f"make status does not say {fault.says}: {status.stdout[-1500:]}"]
        # a person would mend the cause first; undoing it again does no harm
        self.sh(fault.undo)
        typed = list(dict.fromkeys(commands(status.stdout)))
        for command in typed:
            self.sh(command)
        # of a server that does not answer
        if (again := f"docker restart {self.name}") in status.stdout:
            self.docker("restart")
            typed.append(again)
        return f"make status: {text}" + "".join(f"; typed: {command}" for command in typed), []

    def promoted(self, ends: list["subprocess.CompletedProcess[str]"], interrupted: bool) -> list[str]:
        """What is wrong about the promotions that ran, and whether the next one works."""
        problems = []
        if not interrupted and not any(each.returncode == 0 for each in ends):
            problems += [f"no promotion ended well: {each.stdout[-600:]}" for each in ends]
        problems += [
            f"a promotion failed without saying why: {each.stdout[-600:]}"
            for each in ends
            if each.returncode
            and not re.search(r"is being changed by|connection|Connection|undone|Type|lost", each.stdout)
        ]
        again = self.make("promote", "FROM=dev", "TO=staging")
        return problems + ([f"the next promotion fails: {again.stdout[-600:]}"] if again.returncode else [])

    def close(self) -> None:
        """The run ends, and is deleted with its experiment."""
        self.mlflow("runs/update", run_id=self.run, status="FINISHED")
        self.mlflow("experiments/delete", experiment_id=self.experiment)


def end(process: "subprocess.Popen[str]") -> subprocess.CompletedProcess[str]:
    """A command's end, within its time."""
    try:
        output, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + f"\nno end within {LONGEST} s"
    return subprocess.CompletedProcess(process.args, process.returncode, output, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-i", "--inventory", default=INVENTORY)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the order")
    parser.add_argument("--count", type=int, default=0, help="faults; 0: all (default: 0)")
    parser.add_argument("--only", default="", help="names of the faults that are wanted, as a pattern")
    parser.add_argument("--rounds", type=int, default=1, help="how often each fault is made (default: 1)")
    arguments = parser.parse_args()
    if said := refusal(arguments.inventory, {"name": "not read yet", "host": "127.0.0.1"}):
        raise SystemExit(f"chaos: {said}")
    order = chosen(FAULTS, arguments.seed, arguments.count, arguments.only, arguments.rounds)
    try:
        server = servers.read(INVENTORY, HOST, VARIABLES)[HOST]
    except LookupError as error:
        raise SystemExit(f"chaos: {error}") from error
    if not isinstance(server, dict) or (said := refusal(arguments.inventory, server)):
        raise SystemExit(f"chaos: {said if isinstance(server, dict) else server}")
    print(
        f"==> {len(order)} faults on {server['name']}; again in this order: make chaos SEED={arguments.seed}",
        flush=True,
    )
    began, chaos, outcomes = time.monotonic(), Chaos(server, arguments.seed), []
    for fault in order:
        if time.monotonic() - began > ALL:
            outcomes.append(Outcome(fault.name, f"not made: {ALL} s are over", []))
            continue
        outcomes.append(outcome := chaos.meet(fault))
        print(f"{fault.name}: {outcome.ended}", *(f"  WRONG {each}" for each in outcome.problems), sep="\n", flush=True)
    chaos.close()
    bad = [outcome for outcome in outcomes if outcome.problems]
    print(
        f"==> {len(outcomes)} faults, {len(bad)} ended badly; {len(chaos.kept)} metrics were acknowledged;"
        f" seed {arguments.seed}"
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
