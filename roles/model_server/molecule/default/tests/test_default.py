"""Two services as their users and their host see them. Models are made of random numbers; MLflow is not needed.

debian12 asks for keys and runs one process a service; debian13 runs two.
"""

import collections
import json
import pathlib
import shlex
import time
from typing import Any

import pytest
from testinfra.host import Host

HERE = pathlib.Path(__file__).parents[1]
TOOL = "/usr/local/sbin/model-server"
PORT = 8002
# A whole manifest of arrays that do not belong together.
CROSSED = """
import hashlib, json, numpy
with numpy.load("recommender.npz") as stored:
    arrays = {name: stored[name] for name in stored.files}
arrays["rated"] = arrays["rated"] + 10000
numpy.savez("recommender.npz", **arrays)
manifest = json.load(open("manifest.json"))
digest = hashlib.sha256(open("recommender.npz", "rb").read()).hexdigest()
manifest["files"]["recommender.npz"]["sha256"] = digest
json.dump(manifest, open("manifest.json", "w"))
"""
# A bundle whose recorded answers are others, with digests and a name that fit.
OTHER_ANSWERS = """
import json, pathlib, sys
sys.path.insert(0, "/opt/model-server/current/src")
from recommender.serving import manifest
from recommender.serving.app import bundle
folder = pathlib.Path(sys.argv[1])
golden, about = json.loads((folder / "golden.json").read_text()), json.loads((folder / "about.json").read_text())
golden["pairs"]["estimate"][0] += 2e-6
(folder / "golden.json").write_text(json.dumps(golden))
changed = {"sha256": manifest.sha256(folder / "golden.json"), "bytes": (folder / "golden.json").stat().st_size}
about["files"]["golden.json"] = changed
(folder / "about.json").write_text(json.dumps(about))
folder.rename(folder.with_name(bundle._name(about["labels"], about["files"])))
"""
# How far ahead a service's clock is, in seconds.
AHEAD = f"""
import email.utils, time, urllib.request
said = urllib.request.urlopen("http://127.0.0.1:{PORT}/health/ready").headers["date"]
print(email.utils.parsedate_to_datetime(said).timestamp() - time.time())
"""
# What is asked in public: what the command line says, or the same again and again by four at once.
REQUESTS = "print(json.dumps([ask(path, *more) for path, *more in json.loads(sys.argv[1])]))"
MANY = """
import collections, threading
found, end = collections.Counter(), time.monotonic() + 8
def again():
    while time.monotonic() < end:
        found[ask("/health/live")[0]] += 1
threads = [threading.Thread(target=again) for _ in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(json.dumps(found))
"""
# A certificate of nobody's that ends within the hour, and who issued the one in use.
OLD_CERTIFICATE = """
cd /var/lib/caddy/.local/share/caddy/certificates/*/api.example.test
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=api.example.test \\
  -addext subjectAltName=DNS:api.example.test -keyout api.example.test.key -out api.example.test.crt \\
  -not_before 20260101000000Z -not_after $(date -u -d '+1 hour' +%Y%m%d%H%M%SZ)
systemctl restart caddy
"""
ISSUER = "openssl s_client -connect 127.0.0.1:443 -servername api.example.test </dev/null | openssl x509 -noout -issuer"
DEBIAN12, DEBIAN13 = (pytest.mark.usefixtures(f"debian{release}") for release in (12, 13))


def is_debian12(host: Host) -> bool:
    return str(host.system_info.release).startswith("12")


@pytest.fixture
def debian12(host: Host) -> None:
    """Molecule names all hosts, and what it names wins over testinfra_hosts."""
    if not is_debian12(host):
        pytest.skip("debian12 asks for keys")


@pytest.fixture
def debian13(host: Host) -> None:
    if is_debian12(host):
        pytest.skip("debian13 runs two processes, and asks for no keys")


def run(host: Host, command: str, *arguments: str) -> str:
    """Standard output of a command of root's that must not fail."""
    result = host.run(command, *arguments)
    assert result.rc == 0, f"{command} {arguments}: {result.stdout}{result.stderr}"
    return str(result.stdout)


def status(host: Host, environment: str = "prod") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(host, f"{TOOL} status {environment}"))
    return found


def get(host: Host, path: str, key: str = "", method: str = "GET", port: int = PORT) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer."""
    script = (
        "import json, sys, urllib.request\n"
        "request = urllib.request.Request(sys.argv[1], headers=json.loads(sys.argv[2]), method=sys.argv[3])\n"
        "try: reply = urllib.request.urlopen(request, timeout=30)\n"
        "except urllib.error.HTTPError as error: reply = error\n"
        "text = reply.read().decode()\n"
        "print(json.dumps([reply.status, json.loads(text) if 'json' in reply.headers['content-type'] else text]))"
    )
    headers = json.dumps({"Authorization": f"Bearer {key}"} if key else {})
    code, answer = json.loads(
        run(host, "python3 -c %s %s %s %s", script, f"http://127.0.0.1:{port}{path}", headers, method)
    )
    return code, answer


def put(host: Host, name: str) -> None:
    text = (HERE / name).read_text() if (HERE / name).exists() else (HERE.parent / name).read_text()
    run(host, "printf %%s %s > /root/%s", text, name)


def model(host: Host, name: str, seed: int, *size: int) -> str:
    """A saved model on the host; returns its folder."""
    put(host, "make_model.py")
    folder = f"/root/{name}"
    release = "/opt/model-server/current"
    run(
        host, f"test -d {folder} || PYTHONPATH={release}/src {release}/environment/bin/python /root/make_model.py "
        f"{folder} {seed} {' '.join(map(str, size))}",
    )  # fmt: skip
    return folder


def accept(host: Host, folder: str, version: int) -> dict[str, Any]:
    labels = {
        "name": "prod.films", "version": str(version), "run_id": f"{version:032x}", "algorithm": "SVD",
        "trained_at": "2026-11-29T00:00:00+00:00", "model_digest": "", "dataset_digest": "", "artifact_digest": "",
    }  # fmt: skip
    result = host.run(
        f"{TOOL} accept prod --model {folder} --golden {folder}/golden.json --labels %s", json.dumps(labels)
    )
    assert result.rc in (0, 3), result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def serve(host: Host, version: int) -> str:
    """Accept and serve one of two models; returns its bundle."""
    found = accept(host, model(host, f"model{version % 2}", version % 2), version)
    assert not found["refused"], found
    run(host, f"{TOOL} switch prod {found['bundle']}")
    return str(found["bundle"])


def test_nothing_is_served_yet(host: Host) -> None:
    if status(host, "staging")["served"] is not None:
        pytest.fail("staging serves something that nobody promoted")
    code, answer = get(host, "/health/ready", port=8001)
    assert (code, "make promote" in answer["detail"]) == (503, True)
    assert get(host, "/health/live", port=8001)[0] == 200


def test_units_are_confined(host: Host) -> None:
    for environment in ("staging", "prod"):
        unit = f"model-server-{environment}@1.service"
        found = run(host, f"systemd-analyze security --no-pager {unit} | tail -1")
        assert float(found.split("exposure level for")[1].split(":")[1].split()[0]) <= 1.5, found
        limits = run(host, f"systemctl show -p MemoryMax -p WatchdogUSec -p User {unit}")
        assert set(limits.split()) == {f"MemoryMax={600 << 20}", "WatchdogUSec=20s", f"User=model-server-{environment}"}
    drop_in = "/run/systemd/system/model-server-prod@9.service.d"
    look = (
        "ls /etc /var/lib /srv /root /home /var/log; cat /etc/shadow /etc/model-server/staging/clients.json; "
        "ls /var/lib/model-server /etc/model-server; touch /opt/model-server/x; "
        "python3 -c 'import socket; socket.socket()'"
    )
    unit = f'[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=-/bin/sh -c "{look}"\nStandardError=inherit\n'
    run(host, f"mkdir -p {drop_in} && printf %%s %s > {drop_in}/look.conf && systemctl daemon-reload", unit)
    run(host, "systemctl start model-server-prod@9.service")
    seen = run(host, "journalctl -u model-server-prod@9.service -o cat --no-pager")
    run(host, f"rm -r {drop_in} && systemctl daemon-reload")
    for part in ("/etc/shadow: No such file", "staging/clients.json: No such file", "Address family not supported",
                 "/opt/model-server/x': Read-only file system"):  # fmt: skip
        assert part in seen, seen
    assert (
        "passwd" not in seen.split("\n") and "dpkg" not in seen and "staging" not in seen.replace("staging/clients", "")
    )
    # others of the host do not read whose ratings are in it
    assert host.run("su -s /bin/sh nobody -c 'ls /var/lib/model-server/prod'").rc != 0


def test_a_port_belongs_to_systemd(host: Host) -> None:
    listeners = run(host, f"ss -Hltnp sport = :{PORT}")
    assert "127.0.0.1" in listeners and '"systemd"' in listeners
    run(host, "systemctl stop 'model-server-prod@*'")
    bind = f"import socket; socket.socket().bind(('127.0.0.1', {PORT}))"
    assert "Address already in use" in host.run("su -s /bin/sh nobody -c %s", f'python3 -c "{bind}"').stderr
    run(host, "systemctl start model-server-prod@1.service")
    if not is_debian12(host):
        run(host, "systemctl start model-server-prod@2.service")


def test_a_version_is_served_and_its_place_taken(host: Host) -> None:
    for version in (2, 3):
        bundle = serve(host, version)
        now = status(host)
        assert {each["served"] for each in now["processes"].values()} == {bundle}
        assert (now["served"]["version"], now["refused"]) == (str(version), None)
    made = json.loads(run(host, f"{TOOL} add-key prod shop")) if is_debian12(host) else {"key": ""}
    key = made["key"]
    code, answer = get(host, "/v1/models", key)
    assert (code, answer["served"]["version"], answer["previous"]["version"]) == (200, "3", "2")
    code, answer = get(host, "/v1/recommend?user=7&k=3", key)
    assert code == 200 and len(answer["items"]) == 3 and answer["model"] == {"name": "prod.films", "version": "3"}
    if key:
        run(host, f"{TOOL} remove-key prod {made['id']}")


def test_a_copy_of_a_bundle_is_proven_elsewhere(host: Host) -> None:
    bundles, copy = "/var/lib/model-server/prod/bundles", "/root/restored"
    before = status(host)
    name = before["served"]["bundle"]
    run(host, f"rm -rf {copy} && mkdir -m 700 {copy} && cp -a {bundles}/{name} {copy}/")
    found = json.loads(run(host, f"{TOOL} prove {copy}/{name}"))
    assert (found["bundle"], found["name"], found["version"]) == (name, "prod.films", "3")
    for change, says in (
        # other answers, with digests and a name that fit them
        (
            f"/opt/model-server/current/environment/bin/python -c {shlex.quote(OTHER_ANSWERS)} {copy}/*",
            "at the training",
        ),
        (f"rm {copy}/*/golden.json", "not a whole bundle"),
        (f"printf x | dd of=$(ls {copy}/*/arrays/* | head -1) bs=1 seek=200 conv=notrunc", "damaged or was changed"),
        (f"mv {copy}/* {copy}/0000000000000000", "it was changed"),
        (f"mv {copy}/* {copy}/latest", "not a folder with the name of a bundle"),
    ):
        run(host, change)
        folder = run(host, f"echo {copy}/*").strip()
        refused = host.run(f"{TOOL} prove {folder}")
        assert (refused.rc, refused.stdout, refused.stderr.count("\n")) == (1, "", 1), refused
        assert refused.stderr.startswith(f"model-server: {folder}") or says == "at the training", refused
        assert says in refused.stderr, refused
    after = status(host)
    assert (after["served"], after["refused"]) == (before["served"], before["refused"])
    assert run(host, f"ls -A {bundles}").count(".part") == 0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("truncated", "damaged or was changed"),
        ("digest", "damaged or was changed"),
        ("missing", "missing"),
        ("unreadable", "not a manifest"),
        ("other schema", "format 99"),
        ("golden differs", "at the training"),
        ("NaN", "nan"),
        ("crashes", "does not answer"),
        ("slow", "th percentile"),
        ("too large for memory", "memory"),
    ],
)
@DEBIAN13
def test_a_bad_candidate_is_refused(host: Host, fault: str, says: str) -> None:
    before = status(host)
    folder = f"/root/bad-{fault.replace(' ', '-')}"
    size = {"slow": (120000, 64), "too large for memory": (600000, 150)}.get(fault, ())
    if fault == "slow":
        for user in range(20):
            get(host, f"/v1/recommend?user={user}")
    model(host, folder.removeprefix("/root/"), 5, *size)
    change = {
        "truncated": "truncate -s -100 recommender.npz",
        "digest": "printf x | dd of=recommender.npz bs=1 seek=300 conv=notrunc",
        "missing": "rm recommender.npz",
        "unreadable": "echo '{' > manifest.json",
        "other schema": 'sed -i \'s/"format": 3/"format": 99/\' manifest.json',
        "golden differs": 'sed -i \'s/"estimate": \\[[0-9.]*/"estimate": [1.0/\' golden.json',
        "NaN": 'sed -i \'s/"estimate": \\[[0-9.]*/"estimate": [NaN/\' golden.json',
        "crashes": f"/opt/model-server/current/environment/bin/python -c {shlex.quote(CROSSED)}",
    }.get(fault, "true")
    run(host, f"cd {folder} && {change}")
    found = accept(host, folder, 9)
    assert says in found["refused"], found
    run(host, f"rm -r {folder}")
    after = status(host)
    assert (after["served"], after["refused"]["version"]) == (before["served"], "9")
    assert {n: each["served"] for n, each in after["processes"].items()} == {
        n: each["served"] for n, each in before["processes"].items()
    }
    # nothing is left on the disk
    left = run(host, "ls -A /var/lib/model-server/prod/bundles").split()
    assert not [name for name in left if name.startswith(".part")]
    assert get(host, "/v1/recommend?user=1")[0] == 200


@DEBIAN12
def test_keys(host: Host) -> None:
    assert get(host, "/v1/models")[0] == 401
    assert get(host, "/v1/models", "wrong")[0] == 401
    assert get(host, "/health/ready")[0] == 200
    started = run(host, "systemctl show -P MainPID model-server-prod@1.service")
    made = [json.loads(run(host, f"{TOOL} add-key prod shop")) for _ in range(2)]
    first, second = (each["key"] for each in made)
    assert first != second and get(host, "/v1/models", first)[0] == get(host, "/v1/models", second)[0] == 200
    stored = run(host, "cat /etc/model-server/prod/keys.json")
    assert first not in stored and second not in stored
    assert run(host, "stat -c '%U %G %a' /etc/model-server/prod/keys.json").strip() == "root model-server-prod 640"
    assert json.loads(run(host, f"{TOOL} keys prod"))["shop"][-2:] == [each["id"] for each in made]
    run(host, f"{TOOL} remove-key prod {made[0]['id']}")
    assert (get(host, "/v1/models", first)[0], get(host, "/v1/models", second)[0]) == (401, 200)
    codes = collections.Counter(get(host, "/v1/models", second)[0] for _ in range(3))
    assert codes[200] >= 1
    flood = (
        "import collections, json, sys, urllib.request\n"
        "def ask():\n"
        "    request = urllib.request.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]})\n"
        "    try: return urllib.request.urlopen(request).status, ''\n"
        "    except urllib.error.HTTPError as error: return error.status, error.headers['retry-after']\n"
        "print(json.dumps([ask() for _ in range(200)]))"
    )
    answers = json.loads(run(host, "python3 -c %s %s %s", flood, f"http://127.0.0.1:{PORT}/v1/models", second))
    refused = [again for code, again in answers if code == 429]
    assert {code for code, _ in answers} == {200, 429} and set(refused) == {"1"}
    assert "shop" not in host.run(f"{TOOL} add-key prod unheard-of").stdout
    assert "serving_clients has no unheard-of" in host.run(f"{TOOL} add-key prod unheard-of").stderr
    assert run(host, "systemctl show -P MainPID model-server-prod@1.service") == started


@DEBIAN12
def test_requests_in_the_journal_name_nobody(host: Host) -> None:
    assert get(host, "/v1/recommend?user=somebody-secret")[0] == 401
    said = run(host, "journalctl -u 'model-server-prod@*' -o cat --no-pager")
    assert '"route"' in said and "somebody-secret" not in said


@DEBIAN13
def test_no_request_is_lost(host: Host) -> None:
    """Promotions, rollbacks, a restart, an upgrade and a killed process while lists are asked for."""
    put(host, "load.py")
    serve(host, 2)
    run(host, "rm -f /root/load.jsonl*")
    run(host, f"systemd-run --quiet --collect --unit=load python3 /root/load.py {PORT} 80 900 /root/load.jsonl")
    acknowledged: list[tuple[float, float, str]] = []

    def clock() -> float:
        return float(run(host, "cut -d' ' -f1 /proc/uptime"))

    for version in (3, 2, 3, 2):
        began = clock()
        serve(host, version)
        acknowledged.append((began, clock(), str(version)))
        # for answers after it
        run(host, "sleep 2")
    run(host, "systemctl restart model-server-prod@1.service")
    run(host, f"{TOOL} renew prod")
    killed = clock()
    run(host, "systemctl kill -s KILL model-server-prod@2.service")
    for version in (3, 2):
        began = clock()
        serve(host, version)
        acknowledged.append((began, clock(), str(version)))
        # for answers after it
        run(host, "sleep 2")
    run(host, "systemctl is-active load && touch /root/load.jsonl.stop")
    run(host, "timeout 200 sh -c 'while systemctl is-active --quiet load; do sleep 0.5; done'")
    answers = [json.loads(line) for line in run(host, "cat /root/load.jsonl").splitlines()]
    assert len(answers) > 1000
    lost = [each for each in answers if each["status"] != 200 and not killed - 1 < each["end"] < killed + 2]
    assert lost == []
    # those in flight at the killed process
    assert sum(each["status"] != 200 for each in answers) <= 16
    assert {each["version"] for each in answers} >= {"2", "3"}
    for (_, done, version), (began, *_) in zip(acknowledged, [*acknowledged[1:], (float("inf"),)], strict=True):
        late = [each for each in answers if done < each["start"] and each["end"] < began and each["status"] == 200]
        assert {each["version"] for each in late} == {version}, (
            f"an old answer after version {version} was acknowledged"
        )


@DEBIAN13
def test_one_client_cannot_stop_it_for_others(host: Host) -> None:
    put(host, "abuse.py")

    def memory() -> int:
        """Kilobytes of both processes."""
        pids = run(host, "systemctl show -P MainPID model-server-prod@1.service model-server-prod@2.service").split()
        return sum(int(run(host, f"awk '/VmRSS/ {{ print $2 }}' /proc/{pid}/status")) for pid in pids)

    run(host, f"python3 /root/abuse.py {PORT}")
    before = memory()
    found = json.loads(run(host, f"python3 /root/abuse.py {PORT}"))
    assert found["lists"] == [200] * 40
    # the rest of a body that is too large is not read: the connection may be reset
    assert (found["announced"], found["stopped"]) == (413, 408) and found["endless"] in (0, 413)
    assert memory() <= 1.1 * before


@DEBIAN13
def test_an_upgrade_that_does_not_start_leaves_what_runs(host: Host) -> None:
    before = run(host, "readlink /opt/model-server/current")
    release = "/opt/model-server/releases/broken"
    run(host, f"cp -r $(readlink -f /opt/model-server/current) {release}")
    run(host, f"echo 'raise SystemExit(1)' > {release}/src/recommender/serving/app/server.py")
    processes = run(host, "systemctl show -P MainPID model-server-prod@1.service model-server-prod@2.service")
    result = host.run(f"{TOOL} --release {release} apply staging prod")
    assert result.rc == 1 and "journalctl" in result.stderr
    assert run(host, "readlink /opt/model-server/current") == before
    assert run(host, "systemctl show -P MainPID model-server-prod@1.service model-server-prod@2.service") == processes
    assert get(host, "/v1/recommend?user=1")[0] == 200
    run(host, f"rm -r {release}")
    assert json.loads(run(host, f"{TOOL} apply staging prod"))["changed"] == []


@DEBIAN13
def test_a_hanging_process_is_restarted(host: Host) -> None:
    process = run(host, "systemctl show -P MainPID model-server-staging@1.service").strip()
    assert int(process) > 1
    run(host, f"kill -STOP {process}")
    end = time.monotonic() + 120
    while run(host, "systemctl show -P MainPID model-server-staging@1.service").strip() in (process, "0"):
        assert time.monotonic() < end, run(host, "systemctl status model-server-staging@1.service || true")
        time.sleep(1)
    assert get(host, "/health/live", port=8001)[0] == 200


@DEBIAN12
def test_a_full_disk_and_a_wrong_clock_stop_nothing(host: Host) -> None:
    place, unit = "/var/lib/model-server/prod", "model-server-prod@1.service"
    drop_in, ahead = f"/run/systemd/system/{unit}.d", "FAKETIME=+1h FAKETIME_DONT_FAKE_MONOTONIC=1"
    serve(host, 3)
    folder, key = model(host, "model0", 0), json.loads(run(host, f"{TOOL} add-key prod shop"))["key"]
    run(host, "apt-get install -qy faketime")
    library = run(host, "ls /usr/lib/*/faketime/libfaketimeMT.so.1").strip()
    run(
        host,
        f"mkdir -p {drop_in} && printf '[Service]\nEnvironment={ahead} LD_PRELOAD={library}\n' > {drop_in}/clock.conf",
    )
    run(host, f"cp -a {place} /root/prod && mount -t tmpfs -o size=40m tmpfs {place} && cp -a /root/prod/. {place}")
    try:
        run(host, f"head -c 60M /dev/zero > {place}/filler || test $(df --output=avail {place} | tail -1) = 0")
        run(host, f"systemctl daemon-reload && systemctl restart {unit}")
        assert abs(float(run(host, "python3 -c %s", AHEAD)) - 3600) < 60
        assert [get(host, f"/v1/recommend?user={user}", key)[0] for user in range(3)] == [200] * 3
        found = host.run(f"{TOOL} accept prod --model {folder} --golden {folder}/golden.json --labels '{{}}'")
        assert found.rc and "No space left on device" in found.stdout + found.stderr, found
        assert get(host, "/v1/models", key)[1]["served"]["version"] == "3"
    finally:
        run(
            host,
            f"systemctl stop {unit}; umount {place}; rm -r {drop_in}; systemctl daemon-reload; systemctl start {unit}",
        )
    serve(host, 2)
    assert get(host, "/v1/models", key)[1]["served"]["version"] == "2"


@DEBIAN13
def test_staging_is_public(host: Host) -> None:
    """With a certificate of a real ACME server, by name alone, and with a key."""
    ask = (
        "import http.client, json, ssl, sys, time\n"
        "context = ssl.create_default_context(cafile='/usr/local/share/acme-test.crt')\n"
        "deadline = time.monotonic() + 60\n"
        "def ask(path, key='', method='GET'):\n"
        "    connection = http.client.HTTPSConnection('api.example.test', context=context, timeout=30)\n"
        "    connection.request(method, path, headers={'Authorization': 'Bearer ' + key} if key else {})\n"
        "    reply = connection.getresponse()\n"
        "    return reply.status, dict(reply.getheaders())\n"
        "while True:\n"
        "    try:\n"
        "        ask('/health/live')\n"
        "        break\n"
        "    except ssl.SSLError:\n"
        "        assert time.monotonic() < deadline\n"
        "        time.sleep(1)\n" + REQUESTS
    )

    def asked(*requests: list[str]) -> list[tuple[int, dict[str, str]]]:
        found: list[tuple[int, dict[str, str]]] = json.loads(run(host, "python3 -c %s %s", ask, json.dumps(requests)))
        return found

    (live, headers), (metrics, _), (models, _), (page, _) = asked(["/health/live"], ["/metrics"], ["/v1/models"], ["/"])
    assert (live, metrics, models, page) == (200, 404, 401, 200)
    wanted = {"Strict-Transport-Security", "X-Content-Type-Options", "Content-Security-Policy", "X-Frame-Options"}
    assert wanted <= headers.keys() and "Server" not in headers
    # one that is near its end is renewed
    run(host, OLD_CERTIFICATE)
    deadline = time.monotonic() + 60
    while "Caddy Local Authority" not in run(host, ISSUER):
        assert time.monotonic() < deadline, run(host, "journalctl -u caddy -n 50 --no-pager")
        time.sleep(0.5)
    # killed processes lose no GET
    run(host, "printf %%s %s > /root/asking.py", ask.replace(REQUESTS, MANY))
    run(host, "systemd-run --quiet --collect --unit=asking -p StandardOutput=file:/root/asking python3 /root/asking.py")
    for number in (1, 2):
        time.sleep(3)
        run(host, f"systemctl kill -s KILL model-server-staging@{number}.service")
    run(host, "timeout 100 sh -c 'while systemctl is-active --quiet asking; do sleep 0.5; done'")
    answers = json.loads(run(host, "cat /root/asking"))
    assert answers.keys() == {"200"} and answers["200"] > 20
    # the same on the loopback
    assert get(host, "/v1/models", port=8001)[0] == 401
    # prod is not public
    assert get(host, "/v1/models")[0] in (200, 503)
    listeners = run(host, "ss -Hltn").splitlines()
    everywhere = {
        line.split()[3].rpartition(":")[2] for line in listeners if line.split()[3].startswith(("*", "0.0.0.0"))
    }
    assert everywhere == {"22", "443"}
    # the socket by which the proxy is configured is its own
    assert host.run("su -s /bin/sh nobody -c 'ls /run/caddy'").rc != 0
    assert ":2019" not in run(host, "ss -Hltn")
