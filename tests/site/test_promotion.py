"""A model's way from dev to staging to prod and back, over SSH, and faults on that way: each leaves a whole champion.

dev and staging share the registry of a server with Debian 12, that of test_vultr.py, which runs before: dev has the
versions 1 and 2, and version 2 is worse. prod has a server of its own with Debian 13. Both ask for a login. The tests
run in the order written.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from conftest import Vultr, recap

INVENTORY = "INVENTORY=inventory/vultr"
MLFLOW = "/opt/mlflow/current/bin/python"
MODEL = "movie-recommender"

CONNECT = """
import importlib.util, json, os, pathlib, sys
os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_TRACKING_URI="http://127.0.0.1:5000")
login = pathlib.Path("/etc/mlflow/admin.env")
os.environ.update(line.split("=", 1) for line in (login.read_text().split() if login.exists() else ()))
"""
# Answers of the champion, by a process that has what the server has and nothing else, and where that finds Surprise.
ANSWER = """
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
pairs = model.predict(pandas.DataFrame({"user": ["1", "42", "stranger"], "item": ["318", "1", "1"]}))
lists = model.predict(pandas.DataFrame({"user": ["1"]}))
print(json.dumps([pairs.estimate.tolist(), lists.item.tolist(), importlib.util.find_spec("surprise") is not None]))
"""
LEFT = """
import mlflow
client, name = mlflow.MlflowClient(), sys.argv[1]
model = client.get_registered_model(name)
versions = client.search_model_versions(f"name='{name}'")
runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
print(json.dumps({
    "aliases": {alias: str(version) for alias, version in model.aliases.items()},
    "versions": sorted(str(each.version) for each in versions),
    "runs of no version": len({run.info.run_id for run in runs} - {each.run_id for each in versions}),
    "unfinished": [str(each) for each in versions if "promotion_pending" in each.tags] + sorted(model.tags),
}))
"""
# Everything that MLflow's client can name, without what a running writer still adds.
EVERYTHING = """
import mlflow
client = mlflow.MlflowClient()
print(json.dumps({
    "runs": {
        run.info.run_id: [run.data.params, run.data.metrics if run.info.status == "FINISHED" else {}, sorted(
            each.path for each in client.list_artifacts(run.info.run_id))]
        for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])},
    "models": {model.name: model.aliases for model in client.search_registered_models()},
    "versions": [[each.name, str(each.version), each.run_id, each.source, each.tags]
                 for each in client.search_model_versions()]}, default=str))
"""
# Thirty metrics a second; /root/acknowledged has the last step that MLflow has taken.
WRITE = """
import mlflow, time
run = mlflow.MlflowClient().create_run("0")
for step in range(9000):
    mlflow.MlflowClient().log_metric(run.info.run_id, "step", step, step=step)
    pathlib.Path("/root/acknowledged.new").write_text(f"{run.info.run_id} {step}")
    os.replace("/root/acknowledged.new", "/root/acknowledged")
    time.sleep(0.03)
"""
STEPS = """
import mlflow
print(json.dumps([each.step for each in mlflow.MlflowClient().get_metric_history(sys.argv[1], "step")]))
"""
# All that belongs to a promotion on its server; the brackets keep pkill from its own shell.
SIGNAL = "pkill -{signal} -f '[m] recommender promote'"
KILL = f"{SIGNAL.format(signal='KILL')}; pkill -KILL -f '[r]ecommender-registry'"
COPYING = "until find /var/lib/mlflow/artifacts -newer /mark -name config.yaml | grep -q .; do sleep 0.02; done"
# not by taking the lock for a moment: the promotion would be refused in that moment
LOCK = "/var/lib/recommender-registry/prod.lock"
HELD = f"until grep -q FLOCK.*:$(stat -c %i {LOCK})' ' /proc/locks; do sleep 0.02; done"
# A connection that ends once so many bytes have gone to the server.
CUT_AFTER = """
import os, select, socket, sys
connection, left = socket.create_connection((sys.argv[1], int(sys.argv[2]))), int(sys.argv[3])
while left > 0:
    ready, _, _ = select.select([0, connection], [], [])
    if connection in ready:
        sys.stdout.buffer.write(connection.recv(65536) or sys.exit())
        sys.stdout.buffer.flush()
    if 0 in ready:
        data = os.read(0, 65536) or sys.exit()
        connection.sendall(data)
        left -= len(data)
"""
# systemd holds the port, so the request waits for the server
ANSWERS = """python3 -c 'import urllib.request as r; r.urlopen("http://127.0.0.1:5000/health", timeout=150)'"""


class Server:
    """A container as a server."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inside(self, *command: str) -> str:
        result = subprocess.run(
            ["docker", "exec", self.name, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert result.returncode == 0, f"{command}: {result.stdout}"
        return result.stdout

    def asked(self, code: str, *words: str) -> Any:
        """What a client of MLflow prints as JSON. Its warnings come by the other stream, at any moment."""
        command = ["docker", "exec", self.name, MLFLOW, "-c", CONNECT + code, *words]
        result = subprocess.run(command, text=True, capture_output=True)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return json.loads(result.stdout.splitlines()[-1])

    def sh(self, command: str) -> str:
        return self.inside("timeout", "180", "sh", "-c", command)

    def answers(self, uri: str) -> list[object]:
        answers: list[object] = self.asked(ANSWER, uri)
        return answers

    def left(self, environment: str) -> dict[str, object]:
        left: dict[str, object] = self.asked(LEFT, f"{environment}.{MODEL}")
        return left


class Site:
    """The server of test_vultr.py, which takes staging as well, and one for prod."""

    def __init__(self, vultr: Vultr) -> None:
        self.checkout, self.vultr = vultr.checkout, vultr
        self.staging, self.prod = Server(vultr.container), Server(f"promotion-prod-{os.getpid()}")
        self.before = yaml.safe_load(vultr.mine.read_text())

    def start(self) -> None:
        """Makes prod's container, and lists both servers."""
        address = self.vultr.create(self.prod.name, "trixie", 32700 + os.getpid() % 60)
        # another container may have had the address before
        (self.checkout.folder / ".known_hosts").unlink(missing_ok=True)
        groups = {
            "dev": {"hosts": {"recommender-dev": {"ansible_host": self.vultr.address}}},
            # its copies go to the other server, which lets it only add to them
            "prod": {"hosts": {"recommender-prod": {"ansible_host": address, "backup_to": "append:recommender-dev"}}},
        }
        self.vultr.hosts.write_text(yaml.safe_dump(groups))
        self.set()

    def set(self, **settings: object) -> None:
        """Rewrites zz-mine.yml."""
        # this machine, as the containers see it: a promotion a second is more than the firewall lets in from elsewhere
        mine = {"registry_servers": {"staging": "recommender-dev"}, "trusted_addresses": ["172.16.0.0/12"]}
        self.vultr.mine.write_text(yaml.safe_dump({**self.before, **mine, **settings}))

    def make(self, *words: str, code: int = 0) -> str:
        """Output of a verb as typed; its exit code must be `code`."""
        output = self.checkout.run("make", words[0], INVENTORY, *words[1:], code=2 if code else 0)
        # this machine's make may speak German too
        assert code == 0 or re.search(rf"(Error|Fehler) {code}\n", output)
        return output

    @contextlib.contextmanager
    def promoting(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A promotion to prod that is under way; files that it writes there are newer than /mark."""
        self.prod.sh("touch /mark")
        process = subprocess.Popen(
            ["make", "promote", INVENTORY, "FROM=staging", "TO=prod", *words], cwd=self.checkout.folder,
            env=self.checkout.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def serves(self, environment: str = "prod") -> str:
        """The version that each process of an environment's service answers with."""
        server = self.prod if environment == "prod" else self.staging
        status = json.loads(server.sh(f"model-server status {environment}"))
        assert {each["served"] for each in status["processes"].values()} == {status["served"]["bundle"]}
        assert len(status["processes"]) == 2
        return str(status["served"]["version"])

    def prod_is(self, champion: str, previous: str, versions: list[str]) -> None:
        assert self.serves() == champion
        assert self.prod.left("prod") == {
            "aliases": {"champion": champion, "previous": previous}, "versions": versions, "runs of no version": 0,
            "unfinished": [],
        }  # fmt: skip


def end(process: subprocess.Popen[str], code: int) -> str:
    output, _ = process.communicate(timeout=300)
    print(output)
    assert process.returncode == code, output
    return output


@pytest.fixture(scope="module")
def site(vultr: Vultr) -> Iterator[Site]:
    site = Site(vultr)
    try:
        site.start()
        output = site.checkout.run(".venv/bin/ansible-playbook", "site.yml", "-i", "inventory/vultr", fast=True)
        assert recap(output)["failed"] == 0
        yield site
    finally:
        subprocess.run(["docker", "rm", "-f", site.prod.name], check=True, stdout=subprocess.DEVNULL)


def test_prod_asks_for_a_login_and_each_person_has_one(site: Site) -> None:
    url = "http://127.0.0.1:5000/api/2.0/mlflow/registered-models/search"
    asked = f"python3 -c 'import urllib.request as r; r.urlopen(\"{url}\")' 2>&1 || true"
    assert "HTTP Error 401" in site.prod.sh(asked)
    assert "mlflow_tracking_username = deploy" in site.prod.sh("cat /home/deploy/.mlflow/credentials")


def test_dev_to_staging_on_one_server(site: Site) -> None:
    output = site.make("promote", "FROM=dev", "TO=staging", "VERSION=1")
    assert f"staging.{MODEL} 1 is champion, copied from dev.{MODEL} 1." in output
    # MLflow's own environment of Debian 12
    assert re.search(r"loads +passed +python 3\.11\.\d+, .*, without Surprise", output)
    again = site.make("promote", "FROM=dev", "TO=staging", "VERSION=1")
    assert f"staging.{MODEL} 1 is dev.{MODEL} 1, and is champion already." in again
    assert "every process of staging answers with it" in output
    assert site.serves("staging") == "1"


def test_what_is_worse_or_skips_a_step_is_refused(site: Site) -> None:
    output = site.make("promote", "FROM=dev", "TO=staging", code=3)
    assert re.search(rf"metrics: rmse 0\.\d+, 0\.\d+ of staging\.{MODEL} 1: gain -0\.\d+, asked is \+0\.0", output)
    assert "If you know better: OVERRIDE=metrics" in output
    output = site.make("promote", "FROM=dev", "TO=prod", code=3)
    assert "order: dev to prod leaves out staging. Promote to staging first." in output
    assert "prod: no model is registered." in site.make("models")


def test_staging_to_prod_over_ssh(site: Site) -> None:
    output = site.make("promote", "FROM=staging", "TO=prod")
    assert re.search(r"loads +passed +python 3\.13\.\d+, .*, without Surprise", output)
    assert re.search(r"golden +passed +\d{3} estimates differ by at most \d\.\de[+-]\d\d", output)
    assert f"prod.{MODEL} 1 is champion, copied from staging.{MODEL} 1." in output
    mine, theirs = site.staging.answers(f"models:/dev.{MODEL}/1"), site.prod.answers(f"models:/prod.{MODEL}@champion")
    assert theirs[2] is False
    assert theirs[0] == pytest.approx(mine[0], abs=1e-6)
    assert theirs[1] == mine[1]
    site.make("promote", "FROM=dev", "TO=staging", "OVERRIDE=metrics")
    table = site.make("models")
    rows = [line.split() for line in table.splitlines()]
    assert ["2", "champion"] in [row[:2] for row in rows]
    assert re.search(r"dev 1 \(run \w{8}\) > staging 1 \(run \w{8}\), promoted by \S+@\S+", table)
    assert re.search(r"dev 2 \(run \w{8}\), promoted by .*; overridden metrics: rmse 0\.", table)


def test_killed_in_the_middle(site: Site) -> None:
    before = site.prod.answers(f"models:/prod.{MODEL}@champion")
    with site.promoting("OVERRIDE=metrics") as process:
        site.prod.sh(f"{COPYING}; {KILL}; true")
        end(process, 2)
    left = site.prod.left("prod")
    assert left["aliases"] == {"champion": "1"}
    assert left["runs of no version"] == 1
    assert site.prod.answers(f"models:/prod.{MODEL}@champion") == before


def test_two_at_once_and_the_first_cleans_up_after_the_killed_one(site: Site) -> None:
    with site.promoting("OVERRIDE=metrics") as process:
        site.prod.sh(f"{HELD}; {COPYING}; {SIGNAL.format(signal='STOP')}")
        output = site.make("promote", "FROM=staging", "TO=prod", "VERSION=1", code=75)
        assert re.search(r"prod is being changed by \S+@\S+.*, process \d+\. Nothing was done", output)
        site.prod.sh(SIGNAL.format(signal="CONT"))
        output = end(process, 0)
    assert "left from an interrupted promotion" in output
    site.prod_is("2", "1", ["1", "2"])


def test_rollback_and_forward(site: Site) -> None:
    assert f"prod.{MODEL} 1 is champion, 2 is previous." in site.make("rollback", "ENV=prod")
    site.prod_is("1", "2", ["1", "2"])
    site.make("rollback", "ENV=prod")
    site.prod_is("2", "1", ["1", "2"])


def test_an_alias_that_moved_on_mlflows_page_is_followed(site: Site) -> None:
    move = f"import mlflow\nmlflow.MlflowClient().set_registered_model_alias('prod.{MODEL}', 'champion', sys.argv[1])"
    for version in ("1", "2"):
        site.prod.inside(MLFLOW, "-c", CONNECT + move, version)
        deadline = time.monotonic() + 150
        while site.serves() != version:
            assert time.monotonic() < deadline, site.prod.sh("journalctl -u model-server-follow-prod --no-pager")
            time.sleep(1)


def test_connection_lost_while_sending(site: Site, tmp_path: pathlib.Path) -> None:
    (tmp_path / "cut.py").write_text(CUT_AFTER)
    proxy = f"-o ProxyCommand='/usr/bin/python3 {tmp_path}/cut.py %h %p 5000000'"
    site.set(ansible_ssh_common_args=f"{proxy} -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=.known_hosts")
    output = site.make("promote", "FROM=staging", "TO=prod", "VERSION=1", code=255)
    site.set()
    assert "no connection, or it was lost." in output
    site.prod.sh("flock -w 60 /var/lib/recommender-registry/prod.lock true")
    site.prod_is("2", "1", ["1", "2"])
    assert site.prod.sh("ls /var/lib/recommender-registry").split() == ["prod.lock"]


def test_connection_lost_while_copying(site: Site) -> None:
    with site.promoting("VERSION=1") as process:
        site.prod.sh(f"{COPYING}; {SIGNAL.format(signal='STOP')}; pkill -KILL -f '[s]shd-session: deploy'")
        output = end(process, 2)
        assert "is carried out to its end" in output
        site.prod.sh(f"{SIGNAL.format(signal='CONT')}; flock -w 120 /var/lib/recommender-registry/prod.lock true")
    site.prod_is("3", "2", ["1", "2", "3"])


def test_disk_full(site: Site) -> None:
    before = site.prod.answers(f"models:/prod.{MODEL}@champion")
    site.prod.sh(
        "cd /var/lib/mlflow && systemctl stop mlflow && mv artifacts kept && mkdir artifacts &&"
        "mount -t tmpfs -o size=$(($(du -sm kept | cut -f1) + 3))M tmpfs artifacts &&"
        f"cp -a kept/. artifacts/ && chown mlflow: artifacts && systemctl start mlflow && {ANSWERS} && touch /mark"
    )
    output = site.make("promote", "FROM=staging", "TO=prod", "OVERRIDE=metrics", code=1)
    assert "An unfinished promotion is undone" in output
    site.prod_is("3", "2", ["1", "2", "3"])
    assert site.prod.answers(f"models:/prod.{MODEL}@champion") == before
    # what was written of it is gone, so that the disk is not full any more
    assert site.prod.sh("find /var/lib/mlflow/artifacts -type f -newer /mark") == ""
    site.prod.sh("mount -t tmpfs -o size=1M tmpfs /var/lib/recommender-registry")
    output = site.make("promote", "FROM=staging", "TO=prod", "OVERRIDE=metrics", code=1)
    assert "No space left on device" in output
    assert site.prod.sh("ls /var/lib/recommender-registry").split() == ["prod.lock"]
    site.prod.sh(
        "cd /var/lib/mlflow && umount /var/lib/recommender-registry && systemctl stop mlflow && umount artifacts &&"
        f"rmdir artifacts && mv kept artifacts && systemctl start mlflow && {ANSWERS}"
    )


def test_a_service_that_cannot_switch_refuses_the_promotion(site: Site) -> None:
    site.prod.sh("systemctl stop 'model-server-prod@*'")
    output = site.make("promote", "FROM=staging", "TO=prod", "OVERRIDE=metrics", code=1)
    assert "No process of prod runs: systemctl status" in output
    site.prod.sh("systemctl start model-server-prod@1 model-server-prod@2")
    site.prod_is("3", "2", ["1", "2", "3"])


def test_tampered_artifact(site: Site) -> None:
    site.staging.sh("for file in $(find /var/lib/mlflow/artifacts -name mlflow_model.py); do echo >> $file; done")
    output = site.make("promote", "FROM=staging", "TO=prod", "OVERRIDE=order,golden,metrics,latency,size", code=3)
    assert re.search(r"digest: the files have \w{12}, training recorded \w{12}\. Do not use it", output)
    assert "loads" not in output


def test_wrong_words(site: Site) -> None:
    assert "from and to are both dev" in site.make("promote", "FROM=dev", "TO=dev", code=2)
    assert "invalid choice: 'stage' (choose from" in site.make("promote", "FROM=dev", "TO=stage", code=2)
    output = site.make("promote", "FROM=dev", "TO=staging", "VERSION=99", code=2)
    assert f"dev.{MODEL} has no version 99. Available versions: 2, 1." in output
    site.set(registry_servers={})
    output = site.make("promote", "FROM=dev", "TO=staging", code=2)
    assert "staging has no server in inventory/vultr: put one into its group of hosts.yml" in output


def test_the_copy_outlives_its_source(site: Site) -> None:
    before = site.prod.answers(f"models:/prod.{MODEL}@champion")
    remove = """
import mlflow
client = mlflow.MlflowClient("http://127.0.0.1:5000")
for model in client.search_registered_models():
    client.delete_registered_model(model.name)
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        client.delete_run(run.info.run_id)
"""
    site.staging.inside(MLFLOW, "-c", CONNECT + remove)
    gc = "/opt/mlflow/current/bin/mlflow gc --backend-store-uri sqlite:////var/lib/mlflow/mlflow.db"
    login = "HOME=/var/lib/mlflow MLFLOW_TRACKING_URI=http://127.0.0.1:5000 $(cat /etc/mlflow/admin.env)"
    site.staging.sh(f"runuser -u mlflow -- env {login} {gc}")
    assert site.prod.answers(f"models:/prod.{MODEL}@champion") == before


def test_a_server_that_was_lost_comes_back(site: Site) -> None:
    """Copied while it works, destroyed, made again: nothing of before the copy is lost."""
    prod = site.prod

    def everything() -> dict[str, Any]:
        found: dict[str, Any] = prod.asked(EVERYTHING)
        return found

    prod.sh("cd /home/deploy && runuser -u deploy -- sh -c 'mkdir -p notebooks && echo {} >notebooks/own.ipynb'")
    subprocess.run(["docker", "exec", "-d", prod.name, MLFLOW, "-c", CONNECT + WRITE], check=True)
    prod.sh("until test -e /root/acknowledged; do sleep 0.1; done")
    users = prod.sh("cd /etc/mlflow/users && sha256sum *")
    before, answers = everything(), prod.answers(f"models:/prod.{MODEL}@champion")
    served = site.serves()
    run, step = prod.sh("cat /root/acknowledged").split()
    output = site.make("backup", "HOST=recommender-prod")
    assert "1 copies; the newest holds" in output
    assert "drill: the last one that found nothing never" in output
    prod.sh('systemctl start server-backup-drill.service && test -z "$(server-backup late)"')
    subprocess.run(["docker", "rm", "-f", prod.name], check=True, stdout=subprocess.DEVNULL)
    site.start()
    began = time.monotonic()
    output = site.make("restore", "HOST=recommender-prod")
    print(f"restored in {time.monotonic() - began:.0f} s")
    assert "mlflow: in place" in output and "serving: in place" in output and "notebooks: in place" in output
    after = everything()
    assert {name: after["runs"].get(name) for name in before["runs"]} == before["runs"]
    assert (after["models"], after["versions"]) == (before["models"], before["versions"])
    assert prod.sh("cd /etc/mlflow/users && sha256sum *") == users
    steps = prod.asked(STEPS, run)
    assert steps == list(range(len(steps))) and len(steps) > int(step)
    found = prod.answers(f"models:/prod.{MODEL}@champion")
    assert found[0] == pytest.approx(answers[0], abs=1e-6) and found[1:] == answers[1:]
    assert site.serves() == served
    assert prod.sh("stat -c %U /home/deploy/notebooks/own.ipynb").strip() == "deploy"
    # it continues, and what it had before is only brought back beside
    site.make("backup", "HOST=recommender-prod")
    output = site.make("restore", "HOST=recommender-prod", "ONLY=notebooks:deploy", "BESIDE=/root/beside")
    assert "is in /root/beside, for root" in output
    assert prod.sh("cat /root/beside/home/deploy/notebooks/own.ipynb") == "{}\n"
