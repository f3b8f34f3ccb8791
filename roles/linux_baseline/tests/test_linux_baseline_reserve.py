"""The script that lets a group write into ext4's reserved blocks, with stand-ins for the system's commands."""

import pathlib
import shutil
import subprocess

import jinja2
import pytest

ROLE = pathlib.Path(__file__).parents[1]
STAND_INS = {
    "getent": "case $2 in system|950) echo system:x:950: ;; other|960) echo other:x:960: ;; *) exit 2 ;; esac",
    "systemd-detect-virt": 'test -e "$TEST/container"',
    "findmnt": """
        folder="${*: -1}"
        while read -r mount rest; do
            if [ "$mount" = / ] || [[ $folder/ == "$mount"/* ]]; then found="$mount $rest"; fi
        done <"$TEST/mounts"
        echo "$found"
    """,
    "dumpe2fs": """
        echo "Reserved block count:     $(cat "$TEST/blocks")"
        echo "Block size:               4096"
        echo "Reserved GDT blocks:      256"
    """,
    "mount": 'echo "$*" >>"$TEST/mounted"; test ! -e "$TEST/refuse"',
}


@pytest.fixture
def script(tmp_path: pathlib.Path) -> pathlib.Path:
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "blocks").write_text("256000")
    return tmp_path


def run(script: pathlib.Path, verb: str, mounts: str, group: str = "system") -> subprocess.CompletedProcess[str]:
    (script / "mounts").write_text(mounts)
    values = {
        "linux_baseline_reserve_group": group,
        "linux_baseline_reserve_folders": ["/", "/usr", "/usr/bin", "/nowhere"],
    }
    text = jinja2.Template((ROLE / "templates/reserve.sh.j2").read_text()).render(values, ansible_managed="test")
    bash = shutil.which("bash") or "bash"
    environment = {"TEST": str(script), "PATH": f"{script}:/usr/bin:/bin"}
    return subprocess.run([bash, "-c", text, "reserve", verb], env=environment, capture_output=True, text=True)


def mounted(script: pathlib.Path) -> list[str]:
    path = script / "mounted"
    return path.read_text().splitlines() if path.exists() else []


def test_each_ext4_file_system_is_remounted_once(script: pathlib.Path) -> None:
    done = run(script, "apply", "/ ext4 /dev/vda1 rw,relatime\n/usr/bin ext4 /dev/vdb rw,resgid=950\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "/: 1000 MB are reserved for root and the group system from now on, before for root alone",
        "/usr/bin: 1000 MB are reserved for root and the group system",
    ]
    assert mounted(script) == ["--options-source mtab -o remount,resgid=950 /"]


def test_a_second_run_changes_nothing(script: pathlib.Path) -> None:
    done = run(script, "apply", "/ ext4 /dev/vda1 rw,resgid=950,errors=remount-ro\n")
    assert done.returncode == 0
    assert "from now on" not in done.stdout
    assert mounted(script) == []


def test_another_group_s_turn(script: pathlib.Path) -> None:
    done = run(script, "apply", "/ ext4 /dev/vda1 rw,resgid=960\n")
    assert "for root and the group system from now on, before for root and the group other" in done.stdout


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        ("/ overlay overlay rw\n", "/: overlay reserves no blocks: no reserve"),
        ("/ xfs /dev/vda1 rw\n", "/: xfs reserves no blocks: no reserve"),
        ("/ btrfs /dev/vda1 rw\n", "/: btrfs reserves no blocks: no reserve"),
        ("/ ext4 /dev/vda1 ro,relatime\n", "/: read-only: no reserve"),
    ],
)
def test_other_file_systems_are_named_and_left_alone(script: pathlib.Path, mounts: str, said: str) -> None:
    done = run(script, "apply", mounts)
    assert (done.returncode, done.stdout.splitlines()) == (0, [said])
    assert mounted(script) == []


def test_no_reserved_blocks_are_named_with_the_remedy(script: pathlib.Path) -> None:
    (script / "blocks").write_text("0")
    for verb in ("apply", "status"):
        done = run(script, verb, "/ ext4 /dev/vda1 rw\n")
        assert done.returncode == 0
        assert "made without reserved blocks" in done.stdout
        assert "tune2fs -m 5 /dev/vda1" in done.stdout
    assert mounted(script) == []


def test_a_container_leaves_its_host_s_file_system_alone(script: pathlib.Path) -> None:
    (script / "container").touch()
    done = run(script, "apply", "/ ext4 /dev/vda1 rw\n")
    assert (done.returncode, done.stdout) == (0, "/: belongs to this container's host: no reserve\n")
    assert mounted(script) == []


def test_status_changes_nothing(script: pathlib.Path) -> None:
    done = run(script, "status", "/ ext4 /dev/vda1 rw\n")
    assert done.stdout == "/: 1000 MB are reserved for root alone\n"
    assert mounted(script) == []


@pytest.mark.parametrize(
    ("options", "expected"), [("rw,resgid=950", ["--options-source mtab -o remount,resgid=0 /"]), ("rw,resgid=960", [])]
)
def test_release_takes_back_only_its_own_group(script: pathlib.Path, options: str, expected: list[str]) -> None:
    assert run(script, "release", f"/ ext4 /dev/vda1 {options}\n").returncode == 0
    assert mounted(script) == expected


def test_a_refused_mount_and_a_missing_group_are_failures(script: pathlib.Path) -> None:
    (script / "refuse").touch()
    done = run(script, "apply", "/ ext4 /dev/vda1 rw\n")
    assert done.returncode == 1
    assert "/: the reserve stays for root alone: mount refused" in done.stderr
    done = run(script, "apply", "/ ext4 /dev/vda1 rw\n", group="nobody-has-it")
    assert done.returncode == 1
    assert "there is no group nobody-has-it" in done.stderr
    assert run(script, "release", "/ ext4 /dev/vda1 rw\n", group="nobody-has-it").returncode == 0
