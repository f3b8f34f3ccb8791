"""Copies of data that is written all the time.

Debian 12 copies into a folder; Debian 13 sends its copies to Debian 12, where they can only be appended to.

Faults are planted into copies in a folder on either, by a second configuration of the same program.
"""

import importlib.util
import json
import pathlib
import shlex

import pytest

FOLDER = "export SERVER_BACKUP_ETC=/etc/second SERVER_BACKUP_VAR=/var/lib/second SERVER_BACKUP_LOCK=/run/second.lock;"
RESTIC = "restic --repo /mnt/second/copies --password-file /etc/second/key"
# a pack that holds files' contents: the largest
PACK = "$(ls -S /mnt/second/copies/data/*/* | head -1)"
# Reads the copy apart, changes something, and makes it the newest one.
FORGED = f"""
rm -rf /root/forged && {RESTIC} restore latest --target /root/forged >/dev/null &&
(cd /root/forged && %s) &&
unshare -m sh -c 'mkdir -p /var/lib/second/now /srv/data/files /home/ana &&
  mount --bind /root/forged/var/lib/second/now /var/lib/second/now &&
  mount --bind /root/forged/srv/data/files /srv/data/files && mount --bind /root/forged/home/ana /home/ana &&
  {RESTIC} backup --host $(hostname) --tag server-backup --tag id=$(jq -r .id /var/lib/second/state.json) \
    /var/lib/second/now /srv/data/files /home/ana /etc/ssh/ssh_host_ed25519_key.pub >/dev/null'
"""
spec = importlib.util.spec_from_file_location(
    "backup_place", pathlib.Path(__file__).parents[3] / "filter_plugins/backup_place.py"
)
place = importlib.util.module_from_spec(spec)
spec.loader.exec_module(place)
DEFECTS = {
    "missing pack": (f"rm {PACK}", "restic check|could not be restored|restic restore"),
    "truncated pack": (f"truncate -s -100 {PACK}", "restic check"),
    "damaged pack": (f"printf damage | dd of={PACK} bs=1 seek=200 conv=notrunc", "restic restore|restic check"),
    "missing index": ("rm /mnt/second/copies/index/*", "restic check|restic restore"),
    "another key": ("echo another key than before >/etc/second/key", "key of this server does not open"),
    "a later format": (
        FORGED % r"sed -i 's/\"format\": 1/\"format\": 9/' var/lib/second/now/manifest.json",
        "format 9",
    ),
    "missing file": (FORGED % "rm srv/data/files/1", "file 1 is not what its row says"),
    "changed file": (FORGED % "echo >>srv/data/files/2", "file 2 is not what its row says"),
    "row drift": (FORGED % "echo -n 5 >var/lib/second/now/data/count", r"rows, and 5 were counted"),
    "missing repository": ("mkdir -p /root/away && mv /mnt/second/copies /root/away/", "repository|no such file"),
    "full disk": (
        "mkdir -p /root/kept && cp -a /var/lib/second/. /root/kept/ &&"
        " mount -t tmpfs -o size=200k tmpfs /var/lib/second && cp /root/kept/state.json /var/lib/second/",
        "free|no space left",
    ),
    "the clock": (
        FORGED.replace("backup --host", 'backup --time "2031-01-01 00:00:00" --host') % "true",
        "the clock was wrong then, or is now",
    ),
    "deleted copy": (
        f"{RESTIC} forget --tag server-backup --keep-last 1 --prune latest",
        "is not in the repository any more",
    ),
}


def sh(host, command, code=0):
    """What a command says; it must end with the code."""
    done = host.run("/bin/bash -c %s", f"exec 2>&1; set -o pipefail; {command}")
    assert done.rc == code, f"{command} ended with {done.rc}: {done.stdout}{done.stderr}"
    return done.stdout


def state(host, folder="/var/lib/server-backup"):
    return json.loads(sh(host, f"cat {folder}/state.json"))


def test_a_sample_came_back_before_the_timers_started(host):
    proven = int(state(host)["proven"]["time"])
    timers = ["run", "drill"] + (["prune"] if is_folder(host) else [])
    for verb in timers:
        sh(host, f"systemctl is-enabled server-backup-{verb}.timer && systemctl is-active server-backup-{verb}.timer")
        began = sh(host, f"systemctl show --timestamp=unix -P ActiveEnterTimestamp server-backup-{verb}.timer")
        assert int(began.strip().lstrip("@")) >= proven
    assert sh(host, "stat -c %a /etc/server-backup/key /etc/server-backup/settings.json").split() == ["600", "600"]


def is_folder(host):
    return json.loads(sh(host, "cat /etc/server-backup/settings.json"))["repository"].startswith("/")


def test_copies_under_writes_are_whole(host):
    for _ in range(4):
        sh(host, "systemctl start server-backup-run.service")
    sh(host, "systemctl start server-backup-drill.service")
    now = state(host)
    assert not now["run"]["error"] and not now["drill"]["error"], now
    assert now["drill"]["snapshot"] == now["run"]["snapshot"]
    assert sh(host, "server-backup late") == ""
    assert " copies; the newest holds" in sh(host, "server-backup list")


def test_a_copy_is_brought_back_beside(host):
    sh(
        host,
        "echo one >/home/ana/notebook; chown ana: /home/ana/notebook; mkdir -p /home/ana/.cache/x; server-backup run",
    )
    assert "is in /root/back" in sh(host, "rm -rf /root/back; server-backup restore --to /root/back notebooks:ana")
    assert sh(
        host,
        "cd /root/back && find home -type f -name notebook -printf '%u %f\n'; ls -A home/ana | grep -c cache || true",
    ) == ("ana notebook\n0\n")
    assert sh(host, "ls /root/back/srv 2>&1", 2)
    assert "has to be the path of a folder that is empty" in sh(
        host, "server-backup restore --to /root/back notebooks", 1
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--to /root/x mlfow", "mlfow is not a part of the copies. Name one of: data, notebooks, keys."),
        ("--to /root/x notebooks:bea", "notebooks:bea is not in the copies. Name one of: notebooks:ana."),
        ("--to /root/x --at yesterday", "yesterday is neither the beginning of a copy's id nor a time"),
        ("--to /root/x --at 2020-01-01", "The first copy is of"),
    ],
)
def test_a_wrong_word_says_what_is_there(host, words, said):
    assert said in sh(host, f"server-backup restore {words}", 1)
    assert not host.file("/root/x").exists


def test_one_persons_files_come_back_into_place_as_theirs(host):
    as_ana = "cd /home/ana && runuser -u ana -- sh -c"
    sh(host, f"{as_ana} 'echo two >notebook; echo late >later; ln -sfn /etc led'; server-backup run")
    sh(host, f"{as_ana} 'rm led; mkdir led; echo three >notebook; echo new >new'")
    assert "notebooks:ana: in place" in sh(host, "server-backup restore --replace notebooks:ana")
    assert sh(host, "cd /home/ana && cat notebook later new .replaced-*/notebook") == "two\nlate\nnew\nthree\n"
    assert sh(host, "cd /home/ana && stat -c %U notebook .replaced-*; readlink led").split() == ["ana", "ana", "/etc"]


def test_a_file_with_holes_is_left_out_and_told(host):
    sh(host, "truncate -s 15T /home/ana/holes")
    try:
        sh(host, "timeout 300 server-backup run")
        assert "backup: /home/ana/holes is larger than its disk" in sh(host, "server-backup late")
    finally:
        sh(host, "rm /home/ana/holes")
    sh(host, "server-backup run")
    assert sh(host, "server-backup late") == ""


# kill: the program, restic or the program that saves, at a moment of the run
@pytest.mark.parametrize("moment", [0.02, 0.4, 0.8, 1.4])
def test_a_killed_run_is_followed_by_a_good_one(host, moment):
    sh(
        host,
        f"server-backup run & sleep {moment}; kill -KILL $! $(pgrep -x restic) $(pgrep rclone) 2>/dev/null; wait; true",
    )
    sh(host, "server-backup run")


def test_a_full_disk_here_is_told_and_forgotten(host):
    sh(host, "mkdir -p /root/kept && cp -a /var/lib/server-backup/. /root/kept/")
    sh(
        host,
        "mount -t tmpfs -o size=64k tmpfs /var/lib/server-backup && cp /root/kept/state.json /var/lib/server-backup/",
    )
    try:
        assert "o space left" in sh(host, "server-backup run", 1)
    finally:
        sh(host, "umount /var/lib/server-backup")
    sh(host, "server-backup run")


# A second configuration, with copies in a folder: made once, and put back for each test.
SECOND = f"""
umount /var/lib/second /mnt/second 2>/dev/null
folders="/etc/second /var/lib/second /mnt/second"
rm -rf $folders /root/away /root/kept
if test -e /root/second.tar; then exec tar -xf /root/second.tar -C /; fi
mkdir -p $folders && cp /etc/server-backup/key /etc/second/ && python3 - <<'END' || exit
import json, socket
given = json.load(open("/etc/server-backup/settings.json"))
given |= {{"name": socket.gethostname(), "repository": "/mnt/second/copies", "options": [], "append_only": False}}
json.dump(given, open("/etc/second/settings.json", "w"))
END
{FOLDER} server-backup prove && server-backup run && server-backup run && server-backup drill &&
  tar -cf /root/second.tar $folders
"""


def second(host):
    sh(host, SECOND)


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_drill_finds(host, defect):
    plant, said = DEFECTS[defect]
    second(host)
    sh(host, plant)
    found = sh(host, f"{FOLDER} server-backup drill", 1)
    assert any(words in found for words in said.split("|")), found
    assert "drill: " in sh(host, f"{FOLDER} server-backup late")


def test_a_lock_of_another_host_is_told(host):
    """Nobody knows whether that one lives; only what deletes minds it."""
    second(host)
    # a lock that is being written has another name until it is whole
    sh(
        host,
        f"cd /mnt/second/copies/locks; rm -f *;"
        f" unshare -u sh -c 'hostname elsewhere; sleep 60 2>/dev/null | {RESTIC} backup --stdin >/dev/null 2>&1 &"
        ' timeout 60 sh -c "until ls | grep -qxE [0-9a-f]+; do :; done"; pkill -KILL -x restic\'',
    )
    assert "Another program has locked the repository" in sh(host, f"{FOLDER} server-backup prune", 1)
    assert "prune: Another program has locked" in sh(host, f"{FOLDER} server-backup late")
    sh(host, f"{FOLDER} server-backup run")


def test_a_full_disk_there_is_told_and_forgotten(host):
    second(host)
    sh(host, "mv /mnt/second/copies /root/away")
    sh(host, "mount -t tmpfs -o size=$(($(du -sk /root/away | cut -f1) + 200))k tmpfs /mnt/second")
    sh(host, "cp -a /root/away /mnt/second/copies; head -c 3000000 /dev/urandom >/home/ana/large")
    try:
        assert "There is no space left" in sh(host, f"{FOLDER} server-backup run", 1)
        sh(host, "mount -o remount,size=50M /mnt/second")
        sh(host, f"{FOLDER} server-backup run && server-backup drill")
    finally:
        sh(host, "rm /home/ana/large; umount /mnt/second")


@pytest.mark.parametrize("kind", ["sftp", "s3"])
def test_sftp_and_s3_keep_copies(host, kind):
    """By SFTP, and in a store with the S3 API."""
    if is_folder(host):
        pytest.skip("it is that other host")
    second(host)
    address = sh(host, "cut -d' ' -f1 /etc/server-backup/known_hosts").strip()
    to = {"sftp": f"sftp:files@{address}:/home/files/copies", "s3": f"s3:http://{address}:5055/models"}[kind]
    given = json.loads(sh(host, "cat /etc/second/settings.json")) | place.place(to, "one", {}, True, [address])
    if kind == "s3":
        keys = json.loads(sh(host, "cat /root/store"))
        given["environment"] = {
            f"AWS_{name}": keys[key]
            for name, key in (("ACCESS_KEY_ID", "access_key"), ("SECRET_ACCESS_KEY", "secret_key"))
        }
    sh(host, f"echo {shlex.quote(json.dumps(given))} >/etc/second/settings.json; rm -r /var/lib/second/cache")
    sh(host, f"{FOLDER} server-backup prove && server-backup run && server-backup run && server-backup drill")
    assert "2 copies; the newest holds" in sh(host, f"{FOLDER} server-backup list")
    sh(host, f"{FOLDER} server-backup prune && server-backup restore --to /root/from-{kind} notebooks:ana")


def test_old_copies_go(host):
    second(host)
    sh(host, f"{FOLDER} server-backup prune")
    assert not state(host, "/var/lib/second")["prune"]["error"]


def test_history_cannot_be_deleted_with_the_servers_own_key(host):
    if is_folder(host):
        pytest.skip("a folder of the server itself")
    settings = json.loads(sh(host, "cat /etc/server-backup/settings.json"))
    [option] = settings["options"]
    restic = f"restic -o {option!r} --repo {settings['repository']} --password-file /etc/server-backup/key"
    before = sh(host, f"{restic} snapshots --no-lock --json 2>/dev/null | jq length")
    assert "403" in sh(host, f"{restic} forget --keep-last 1 || true")
    login = option.partition("=")[2].removesuffix(" rclone")
    # whatever is asked for, the forced command answers
    sh(host, f"timeout 10 {login} rm -rf /srv/copies </dev/null >/dev/null; true")
    assert sh(host, f"{restic} snapshots --no-lock --json 2>/dev/null | jq length") == before


def test_a_new_server_of_that_name_brings_everything_back(host):
    sh(host, "echo precious >/home/ana/notebook; server-backup run; systemctl stop writer")
    rows = sh(host, "sqlite3 /srv/data/rows.db 'SELECT count(*) FROM file'; ls /srv/data/files | wc -l")
    sh(host, "systemctl start writer; server-backup run; systemctl stop writer")
    # another server: other numbers of accounts, nothing of the data, no memory of copies
    sh(
        host,
        "cp -a /etc/ssh/ssh_host_ed25519_key.pub /root/; rm -rf /srv/data/* /home/ana; userdel ana;"
        " useradd -u 3456 other && useradd -m -u 4567 ana && mkdir /srv/data/files && rm -r /var/lib/server-backup/*;"
        " writer-state save /tmp 2>/dev/null; systemctl start writer",
    )
    sh(host, "server-backup in-use", 3)
    assert "were made by an earlier server of that name" in sh(host, "server-backup run", 1)
    assert "earlier server" in sh(host, "server-backup late") or "no copy was proven" in sh(host, "server-backup late")
    said = sh(host, "server-backup restore --replace")
    assert "rows and files" in said and "keys: in place" not in said
    sh(host, "systemctl is-active writer && systemctl stop writer")
    after = sh(host, "sqlite3 /srv/data/rows.db 'SELECT count(*) FROM file'; ls /srv/data/files | wc -l")
    assert all(int(now) >= int(before) for now, before in zip(after.split(), rows.split(), strict=True))
    assert sh(host, "cat /home/ana/notebook; stat -c %U /home/ana/notebook") == "precious\nana\n"
    sh(
        host,
        "systemctl start writer; server-backup in-use; server-backup prove; server-backup run; server-backup drill",
    )
