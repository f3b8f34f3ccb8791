"""A cluster of three servers: what outsiders and other accounts reach, and trainings that outlive its faults.

The training runs on this machine, through a tunnel, as `make train` does.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[5]
PYTHON = ROOT / "ml/.venv/bin/python"
HERE = pathlib.Path(__file__).parents[2]
SPARK = "/opt/spark-cluster/current"
# Surprise's SVD on the same fold.
SVD = 0.8738

# All of the cluster is one thing: no test is repeated for each server.
testinfra_hosts = ["local://"]

# Frames of eth0, until it is ended.
SNIFF = """
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
raw.bind(("eth0", 0))
with open("/root/frames", "wb", buffering=0) as file:
    while True:
        file.write(raw.recv(65535))
"""
# A request of Spark's protocol without any authentication; prints the type of the answer, 0 where there is none.
ASK = """
import socket, struct, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as line:
    body = b"\\x00" * 20
    line.sendall(struct.pack(">QBQI", 21 + len(body), 3, 7, len(body)) + body)
    line.settimeout(10)
    try:
        said = line.recv(9)
    except OSError:
        said = b""
print(said[8] if len(said) > 8 else 0)
"""
FAILURE = 5
# Fails unless the arrays of two files are equal to 1e-6; numpy is where recommender is.
SAME = """
import sys
import numpy as np
one, other = map(np.load, sys.argv[1:])
for name in one.files:
    np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-6, err_msg=name)
"""
# Sixty tasks that sleep for five seconds.
TASKS = """
from recommender.algorithms import spark
with spark.connection() as there:
    sleep = "java_method('java.lang.Thread', 'sleep', 5000 + id * 0)"
    print(len(there.range(0, 60, 1, 60).selectExpr(sleep).collect()))
"""


def run(*command: str | pathlib.Path, code: int | None = 0, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, **options)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def servers() -> dict[str, dict[str, Any]]:
    # the training's own environment
    run("make", "--silent", "-C", ROOT / "ml", ".venv/.complete", "COMPILE=")
    said = json.loads(run(sys.executable, ROOT / "molecule/hosts.py"))
    hosts: dict[str, dict[str, Any]] = said["_meta"]["hostvars"]
    return hosts


def workers(said: Any) -> int:
    """How many the master counts as alive."""
    return [worker["state"] for worker in said["workers"]].count("ALIVE")


class Cluster:
    def __init__(self, hosts: dict[str, dict[str, Any]]) -> None:
        self.hosts = hosts
        self.containers = {name: str(host["cloud_server_name"]) for name, host in hosts.items()}

    def on(self, name: str, command: str, *words: str, account: str = "root", code: int | None = 0) -> str:
        line = ["docker", "exec", "-u", account, self.containers[name], "sh", "-c", command, "sh", *words]
        return run(*line, code=code)

    def master(self) -> Any:
        """What the master's page tells."""
        page = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/json/', timeout=9).read().decode())"
        return json.loads(self.on("spark1", 'python3 -c "$1"', page))

    def wait(self, what: Any, seconds: int = 120) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError, ValueError):
                if what(self.master()):
                    return
            assert time.monotonic() < end, self.on("spark1", "journalctl -u 'spark-*' -n 40 --no-pager", code=None)
            time.sleep(1)

    @contextlib.contextmanager
    def tunnel(self, port: int) -> Iterator[int]:
        host = self.hosts["spark1"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            here = free.getsockname()[1]
        login = ["ssh", "-N", "-p", str(host["ansible_port"]), "-i", host["ansible_private_key_file"]]
        login += ["-o", "ExitOnForwardFailure=yes", *str(host["ansible_ssh_common_args"]).split()]
        line = [*login, "-L", f"127.0.0.1:{here}:127.0.0.1:{port}", "root@127.0.0.1"]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 30
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", here), 5).close()
                    break
                time.sleep(0.2)
            yield here
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="session")
def cluster(servers: dict[str, dict[str, Any]]) -> Cluster:
    return Cluster(servers)


@pytest.fixture(scope="session")
def token(cluster: Cluster) -> str:
    return cluster.on("spark1", "cat /etc/spark-cluster/token").strip()


def environment(port: int, token: str) -> dict[str, str]:
    return os.environ | {"RECOMMENDER_SPARK": f"127.0.0.1:{port}", "SPARK_CONNECT_AUTHENTICATE_TOKEN": token}


def fit(port: int, token: str, out: pathlib.Path, epochs: int = 8) -> float:
    line = [PYTHON, HERE / "fit.py", out, str(epochs)]
    done = subprocess.run(line, env=environment(port, token), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return float(json.loads(done.stdout.splitlines()[-1])["rmse"])


def test_both_workers_are_there_and_a_session_cannot_have_all(cluster: Cluster) -> None:
    said = cluster.master()
    assert sorted(worker["host"] for worker in said["workers"] if worker["state"] == "ALIVE") == [
        "spark2.spark",
        "spark3.spark",
    ]
    assert sum(worker["cores"] for worker in said["workers"]) == 4
    cluster.on("spark1", "grep -x SPARK_CORES_MAX=3 /etc/spark-cluster/cores.env && pgrep -f spark.cores.max=3")


def test_outsiders_find_port_22_alone(cluster: Cluster) -> None:
    spec = importlib.util.spec_from_file_location("scan", ROOT / "tests/site/conftest.py")
    assert spec and spec.loader
    scan = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scan)
    for container in cluster.containers.values():
        assert scan.only_open(container, 22)


@pytest.mark.parametrize("name", ["spark1", "spark2"])
def test_no_other_account_reads_the_secret(cluster: Cluster, name: str) -> None:
    secret = cluster.on("spark1", "cat /etc/spark-cluster/secret").strip()
    assert len(secret) == 64
    everywhere = (
        "cat /etc/spark-cluster/* /run/spark-*/* /proc/[0-9]*/environ 2>&1; ps -eo args; systemctl show 'spark-*'"
    )
    assert secret not in cluster.on(name, everywhere, account="nobody", code=None)
    assert secret not in cluster.on(name, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; journalctl --no-pager")
    # the same search as root finds it: it is there to be found
    assert secret in cluster.on(name, everywhere, code=None)


def test_only_the_listed_accounts_read_the_token(cluster: Cluster, token: str) -> None:
    assert len(token) == 64
    assert cluster.on("spark1", "runuser -u games -- cat /etc/spark-cluster/token").strip() == token
    assert "Permission denied" in cluster.on("spark1", "cat /etc/spark-cluster/token", account="nobody", code=1)
    assert "No such file" in cluster.on("spark2", "cat /etc/spark-cluster/token", code=1)


def test_a_worker_and_a_program_without_the_secret_are_refused(cluster: Cluster) -> None:
    """From a member, whose packets pass: by an account of its own, with a wrong secret and without one."""
    prepare = (
        "cd /tmp; export SPARK_CONF_DIR=/tmp JAVA_HOME=$(ls -d /usr/lib/jvm/java-*-openjdk-* | head -1);"
        f" export SPARK_HOME=$(echo {SPARK}/lib/python3*/site-packages/pyspark);"
        " for key in authenticate network.crypto.enabled; do echo spark.$key true; done >wrong.conf;"
        " echo spark.authenticate.secret wrong >>wrong.conf;"
    )
    worker = "org.apache.spark.deploy.worker.Worker --port 7090 --work-dir /tmp/w --properties-file wrong.conf"
    said = cluster.on(
        "spark2",
        f"{prepare} timeout 60 {SPARK}/bin/spark-class {worker} spark://spark1.spark:7077",
        account="games",
        code=124,
    )
    assert "Failed to connect to master spark1.spark:7077" in said
    program = "--master spark://spark1.spark:7077 $(find $SPARK_HOME/ -name pi.py | head -1) 1"
    said = cluster.on("spark2", f"{prepare} timeout 90 {SPARK}/bin/spark-submit {program}", account="games", code=None)
    assert "Failed to connect to master spark1.spark:7077" in said
    assert "Pi is roughly" not in said
    known = cluster.master()
    assert workers(known) == 2
    assert [app["name"] for app in known["activeapps"]] == ["Spark Connect"]


@pytest.mark.parametrize("port", [7077, 7079, 7080])
def test_a_request_without_authentication_gets_nothing(cluster: Cluster, port: int) -> None:
    """To the master, to the driver, and for a block."""
    assert int(cluster.on("spark2", 'python3 -c "$1" spark1.spark "$2"', ASK, str(port), account="nobody")) in (
        0,
        FAILURE,
    )


def test_rest_is_off_and_pages_kill_nothing(cluster: Cluster) -> None:
    assert "Connection refused" in cluster.on("spark1", 'python3 -c "$1" spark1.spark 6066', ASK, code=1)
    (app,) = cluster.master()["activeapps"]
    post = """
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen("http://127.0.0.1:8080" + sys.argv[1], sys.argv[2].encode(), timeout=9).read()
except urllib.error.HTTPError as error:
    print(error.code)
"""
    for page, what in (("/app/kill/", f"id={app['id']}&terminate=true"), ("/workers/kill/", "host=spark2.spark")):
        cluster.on("spark1", 'python3 -c "$1" "$2" "$3"', post, page, what, account="nobody")
    said = cluster.master()
    assert [app["id"] for app in said["activeapps"]] == [app["id"]]
    assert workers(said) == 2


@pytest.mark.parametrize("wrong", ["", "wrong"])
def test_connect_refuses_other_tokens(cluster: Cluster, tmp_path: pathlib.Path, wrong: str) -> None:
    with cluster.tunnel(15002) as port:
        line = [PYTHON, HERE / "fit.py", tmp_path / "out"]
        said = run(*line, code=1, env=environment(port, wrong or "-"))
    assert "RecommenderError" in said
    assert "nvalid" in said or "nauthenticated" in said.lower()


def test_cluster_and_local_mode_find_the_same_factors_and_nothing_is_readable_on_the_wire(
    cluster: Cluster, token: str, tmp_path: pathlib.Path
) -> None:
    sniffer = subprocess.Popen(["docker", "exec", "-u", "root", cluster.containers["spark1"], "python3", "-c", SNIFF])
    try:
        with cluster.tunnel(15002) as port:
            rmse = fit(port, token, tmp_path / "cluster.npz")
    finally:
        cluster.on("spark1", "pkill -f 'SOCK_RA[W]'")
        sniffer.wait()
    assert rmse <= SVD
    # the first messages of a connection are no secret, and show that there was something to read
    assert int(cluster.on("spark1", "grep -a -c sparkSaslUser /root/frames")) > 0
    assert int(cluster.on("spark1", "stat -c %s /root/frames")) > 1_000_000
    known = "org.apache.spark|CoarseGrainedScheduler|ratings_"
    assert cluster.on("spark1", f"grep -a -c -E '{known}' /root/frames", code=1).strip() == "0"
    # the same, by a process that has one core and no cluster
    options = {
        "spark.connect.grpc.binding.port": "15003", "spark.driver.port": "0", "spark.driver.host": "127.0.0.1",
        "spark.blockManager.port": "0", "spark.ui.enabled": "false",
        "spark.checkpoint.dir": "/var/lib/spark-cluster/tmp",
        "spark.sql.warehouse.dir": "/var/lib/spark-cluster/tmp", "spark.dynamicAllocation.enabled": "false",
    }  # fmt: skip
    cluster.on(
        "spark1",
        "systemd-run --quiet --unit=spark-local --uid=spark --setenv=SPARK_LOCAL_IP=127.0.0.1"
        " --setenv=JAVA_HOME=$(ls -d /usr/lib/jvm/java-*-openjdk-* | head -1)"
        " --setenv=SPARK_LOCAL_DIRS=/var/lib/spark-cluster/local"
        f" --setenv=SPARK_HOME=$(echo {SPARK}/lib/python3*/site-packages/pyspark)"
        f" {SPARK}/bin/spark-submit --master 'local[1]' --properties-file /run/spark-connect/spark.conf"
        " --class org.apache.spark.sql.connect.service.SparkConnectServer "
        + " ".join(f"--conf {name}={value}" for name, value in options.items())
        + " spark-internal",
    )
    try:
        listens = "ss -Hltn 'sport = :15003' | grep -q ."
        cluster.on("spark1", f"for n in $(seq 150); do {listens} && exit; sleep 1; done; exit 1")
        with cluster.tunnel(15003) as port:
            assert fit(port, token, tmp_path / "local.npz") == pytest.approx(rmse, abs=1e-6)
    finally:
        cluster.on("spark1", "systemctl stop spark-local", code=None)
    subprocess.run([PYTHON, "-c", SAME, tmp_path / "cluster.npz", tmp_path / "local.npz"], check=True)


# A disk of 64 MB, for a worker that starts on it.
SMALL_DISK = "systemctl stop spark-worker; mount -t tmpfs -o size=64m,mode=1777 none /var/lib/spark-cluster/local"
NO_NETWORK = """nft -f - <<'RULES'
table inet cut {
  chain in { type filter hook input priority -300; iif != lo drop; }
  chain out { type filter hook output priority -300; oif != lo drop; }
}
RULES"""
# The server, what happens to it in the middle of a training, and what brings it back.
FAULTS = {
    "worker killed": ("spark2", "systemctl kill --signal=KILL spark-worker", "true"),
    "master killed": ("spark1", "systemctl kill --signal=KILL spark-master", "true"),
    "worker stopped": ("spark2", "systemctl stop spark-worker", "systemctl start spark-worker"),
    "worker cut off": ("spark2", NO_NETWORK, "nft delete table inet cut"),
    "worker out of disk": (
        "spark2",
        "dd if=/dev/zero of=/var/lib/spark-cluster/local/fill bs=64k 2>&1 | grep -q 'No space left'",
        "systemctl stop spark-worker; umount /var/lib/spark-cluster/local; systemctl start spark-worker",
    ),
    "worker rebooted": ("spark2", "systemctl reboot --force --force", ""),
}
# The first checkpoint: five rounds are over.
BEGUN = (
    "for n in $(seq 600); do find /srv/spark/spark1/checkpoints -name 'rdd-*' -newer /tmp/before | grep -q . && exit;"
    " sleep 0.5; done; exit 1"
)
# SPARK_FAULTS=all takes the long ones too: they wait for what does not answer any more.
CHOSEN = FAULTS if os.environ.get("SPARK_FAULTS") == "all" else ["worker killed", "master killed"]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, token: str, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The error of a training that nothing happens to."""
    with cluster.tunnel(15002) as port:
        return fit(port, token, tmp_path_factory.mktemp("whole") / "out.npz", epochs=12)


@pytest.mark.parametrize("fault", CHOSEN)
def test_a_training_outlives_a_fault(
    cluster: Cluster, token: str, tmp_path: pathlib.Path, whole: float, fault: str
) -> None:
    server, breaks, mends = FAULTS[fault]
    if fault == "worker out of disk":
        cluster.on(server, f"{SMALL_DISK} && systemctl start spark-worker")
        cluster.wait(lambda said: workers(said) == 2)
    cluster.on("spark1", "touch /tmp/before")
    with cluster.tunnel(15002) as port:
        training = subprocess.Popen(
            [PYTHON, HERE / "fit.py", tmp_path / "out.npz", "12"],
            stdout=subprocess.PIPE, text=True, env=environment(port, token),
        )  # fmt: skip
        cluster.on("spark1", BEGUN)
        # a reboot ends the command as well
        cluster.on(server, breaks, code=None if "reboot" in breaks else 0)
        if not mends:
            run("docker", "start", cluster.containers[server])
        said = training.communicate(timeout=900)[0]
        assert training.returncode == 0
        assert json.loads(said.splitlines()[-1])["rmse"] == pytest.approx(whole, abs=1e-6)
        if mends:
            cluster.on(server, mends)
        # systemd and the master bring everything back
        cluster.wait(lambda said: workers(said) == 2 and len(said["activeapps"]) == 1)
        # and a new training is taken
        assert fit(port, token, tmp_path / "after.npz", epochs=12) == pytest.approx(whole, abs=1e-6)
    # what trainings stored is gone with them
    assert cluster.on("spark1", "ls /srv/spark/spark1/tables").strip() == ""


def test_connect_and_master_come_back_when_both_are_killed(
    cluster: Cluster, token: str, tmp_path: pathlib.Path
) -> None:
    """The master remembers the Connect that was killed with it for twenty seconds."""
    (before,) = cluster.master()["activeapps"]
    cluster.on("spark1", "systemctl kill --signal=KILL spark-master spark-connect")
    cluster.wait(lambda said: before["id"] not in [app["id"] for app in said["activeapps"]] and said["activeapps"])
    with cluster.tunnel(15002) as port:
        fit(port, token, tmp_path / "out.npz", epochs=1)


def converge(gone: str = "") -> str:
    """Runs the scenario's playbook without a member; what it printed."""
    return run("molecule", "converge", "--", "-e", f"gone={gone}", cwd=HERE.parent)


def test_a_worker_leaves_while_something_runs_and_comes_back(
    cluster: Cluster, token: str, tmp_path: pathlib.Path
) -> None:
    # pyspark takes what python -c runs for a doctest of its own
    tasks = tmp_path / "tasks.py"
    tasks.write_text(TASKS)
    (before,) = cluster.master()["activeapps"]
    with cluster.tunnel(15002) as port:
        there = environment(port, token) | {"PYTHONPATH": str(ROOT / "ml/src")}
        running = subprocess.Popen([PYTHON, tasks], stdout=subprocess.PIPE, text=True, env=there)
        cluster.wait(lambda said: said["coresused"] == 3)
        converge(gone="spark3")
        # nothing on the master was started again, and no task was lost
        assert [app["id"] for app in cluster.master()["activeapps"]] == [before["id"]]
        assert running.communicate(timeout=900)[0] == "60\n"
    cluster.wait(lambda said: workers(said) == 1)
    left = "/etc/spark-cluster /opt/spark-cluster /var/lib/spark-cluster /etc/systemd/system/spark-worker.service"
    for found in (*(f"ls -d {path}" for path in left.split()), "id spark", "grep spark1 /etc/hosts", "pgrep java"):
        cluster.on("spark3", f"! {found}")
    converge()
    cluster.wait(lambda said: workers(said) == 2)


def test_a_version_of_spark_is_served_where_no_java_is(cluster: Cluster, token: str, tmp_path: pathlib.Path) -> None:
    """In the container image of the served model, which the contract tests ask as they ask any other."""
    with cluster.tunnel(15002) as port:
        there = environment(port, token) | {"PYTHONPATH": "src"}
        run(PYTHON, "-m", "tests.served", tmp_path, "SparkALS", "SparkPicks", cwd=ROOT / "ml", env=there)
    # without the plugins of this run
    there = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    there |= {"IMAGE_TEST_MODELS": str(tmp_path), "IMAGE_TEST_NAME": "image-test-spark"}
    names = "what_serves_alone or a_client_gets_from_it"
    said = run(sys.executable, "-m", "pytest", "-q", ROOT / "tests/image/test_image.py", "-k", names, env=there)
    assert "2 passed" in said


def test_a_version_of_spark_is_promoted(cluster: Cluster, token: str, tmp_path: pathlib.Path) -> None:
    """By the commands that `make train` and `make promote` run on servers."""
    line = [PYTHON, "-m", "recommender"]
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPATH": str(ROOT / "ml/src")}
    with cluster.tunnel(15002) as port:
        there = environment(port, token) | store
        options = ["--config", ROOT / "ml/conf/default.yaml", "--set", "evaluation.folds=2"]
        said = run(*line, "train", "--engine", "spark", *options, cwd=tmp_path, env=there)
    assert "A cluster does not pay" in said
    there = os.environ | store
    archive = tmp_path / "version.zip"
    run(*line, "export", "--environment", "dev", "--model", "movie-recommender", "--output", archive, env=there)
    run(*line, "promote", "--archive", archive, "--to", "staging", "--by", "test", cwd=tmp_path, env=there)
    said = run(*line, "models", "dev", "staging", cwd=tmp_path, env=there)
    assert "staging.movie-recommender" in said and "champion" in said and "SparkALS" in said


def test_the_notebook_of_the_data_asks_the_cluster(cluster: Cluster, token: str, tmp_path: pathlib.Path) -> None:
    cells = json.loads((ROOT / "ml/notebooks/1-data.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    notebook = tmp_path / "notebook.py"
    notebook.write_text(code.replace("%matplotlib inline", ""))
    with cluster.tunnel(15002) as port:
        there = environment(port, token) | {"PYTHONPATH": str(ROOT / "ml/src")}
        said = run(PYTHON, notebook, env=there)
    assert "Spark: the same ratings: True" in said
    # pandas' line, and Spark's
    assert re.search(r"^9 +5\.0 +13211$", said, re.M) and re.search(r"^\| +5\.0\|13211\|$", said, re.M)
