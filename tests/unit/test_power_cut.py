"""Environments are on disk before their marker; a power cut's half-made ones are not used.

The shell of the tasks is run for real, with programs that only tell what they were called for.
"""

import fcntl
import os
import pathlib
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = pathlib.Path(__file__).parents[2]
# makes the environment that `python -m venv FOLDER` would; without pip it has no uv either
PYTHON = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exit 0
if [ "$3" = --without-pip ]; then mkdir -p "$4/bin" && cp /bin/true "$4/bin/python"; exit; fi
mkdir -p "$3/bin"
printf '#!/bin/sh\\nexit 0\\n' > "$3/bin/pip"
cp "$3/bin/pip" "$3/bin/python"
cat > "$3/bin/uv" <<'UV'
#!/bin/sh
echo "uv $*" >> "$LOG"
case "$*" in *sync*) [ ! -e "$LOG.cut" ] || kill -9 $PPID; [ ! -e "$LOG.broken" ] || exit 1 ;; esac
UV
chmod +x "$3"/bin/*
"""
SYNC = """#!/bin/sh
echo "sync $* $(find "$ENVIRONMENTS" -name .complete)" >> "$LOG"
"""


class Build:
    """The shell that makes an environment, in a folder of its own."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.log = folder / "log"
        self.environment = folder / "environments/a"
        self.cache = folder / "uv"
        (folder / "bin").mkdir()
        self.environment.parent.mkdir()
        programs = [("python3", PYTHON), ("sync", SYNC)]
        # macOS has none
        programs += [] if shutil.which("flock") else [("flock", "#!/bin/sh\n")]
        for program, text in programs:
            (folder / "bin" / program).write_text(text)
            (folder / "bin" / program).chmod(0o755)

    def command(self) -> list[str]:
        if self.name == "ml":
            folder = self.folder / "job"
            if not folder.exists():
                folder.mkdir()
                for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
                    shutil.copy(ROOT / "ml" / name, folder)
            return ["make", "-C", str(folder), f"VENV={self.environment}", f"{self.environment}/.complete"]
        variables: dict[str, Any] = {
            "locked_environment_python": str(self.folder / "bin/python3"),
            "locked_environment_path": str(self.environment),
            "locked_environment_current": str(self.folder / "current"),
            "locked_environment_kept": str(self.folder / "kept"),
            "locked_environment_download": "/dev/null",
            "locked_environment_proof": "pass",
            "__locked_environment_builds": str(self.folder / "lock"),
        }
        [task] = yaml.safe_load((ROOT / "roles/locked_environment/tasks/main.yml").read_text())
        shell = task["ansible.builtin.shell"]
        text = Templar(DataLoader(), variables=variables).template(trust_as_template(shell["cmd"]))
        return ["sh", "-c", text]

    def start(self) -> subprocess.Popen[bytes]:
        """A run; what it calls is in the log."""
        self.log.write_text("")
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        variables = {"PATH": path, "LOG": str(self.log), "ENVIRONMENTS": str(self.environment.parent)}
        variables["UV_CACHE_DIR"] = str(self.cache)
        return subprocess.Popen(self.command(), env=os.environ | variables, stdin=subprocess.DEVNULL)

    def run(self) -> int:
        """Status of a run."""
        return self.start().wait()

    def called(self) -> str:
        return self.log.read_text()


@pytest.fixture(params=["locked_environment", "ml"])
def build(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Build:
    return Build(tmp_path, request.param)


def test_it_is_on_disk_before_its_marker(build: Build) -> None:
    assert build.run() == 0
    assert (build.environment / ".complete").exists()
    steps = build.called().splitlines()
    assert steps[-1].startswith("sync -f ")
    # no marker was there yet
    assert ".complete" not in steps[-1]
    assert not any("cache" in step for step in steps if step.startswith("uv"))


def test_all_but_the_one_in_use_and_the_one_to_go_back_to_are_removed(tmp_path: pathlib.Path) -> None:
    build = Build(tmp_path, "locked_environment")
    for name in ("before", "current", "older"):
        (build.environment.parent / name).mkdir(parents=True)
    (tmp_path / "current").symlink_to(build.environment.parent / "current")
    (tmp_path / "kept").write_text(f"{build.environment.parent / 'before'}\n")
    assert build.run() == 0
    left = [path.name for path in build.environment.parent.iterdir() if path.is_dir()]
    assert sorted(left) == sorted(["before", "current", build.environment.name])


def test_pip_is_needed_once(tmp_path: pathlib.Path) -> None:
    build = Build(tmp_path, "locked_environment")
    assert build.run() == 0
    shutil.rmtree(build.environment)
    # would install nothing that runs
    (build.folder / "bin/python3").write_text(PYTHON.replace("exit 0", "exit 1"))
    assert build.run() == 0
    assert "\nuv pip sync " in build.called()
    assert not [path for path in build.cache.iterdir() if not path.name.startswith("uv-")]


def test_one_that_was_cut_off_is_made_without_what_uv_kept(build: Build) -> None:
    build.log.with_suffix(".cut").touch()
    assert build.run() != 0
    assert build.environment.exists()
    build.log.with_suffix(".cut").unlink()
    assert build.run() == 0
    assert (build.environment / ".complete").exists()
    assert build.called().startswith(("uv --quiet cache clean", "uv pip sync --no-cache"))


def test_a_build_that_was_cut_off_costs_the_next_one_of_another_role_its_cache(tmp_path: pathlib.Path) -> None:
    builds = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        builds.append(Build(tmp_path / name, "locked_environment"))
        builds[-1].cache = tmp_path / "uv"
    first, second = builds
    first.log.with_suffix(".cut").touch()
    assert first.run() != 0
    # one that fails before it has come so far leaves the mark
    (second.folder / "bin/python3").rename(second.folder / "bin/python")
    assert second.run() != 0
    (second.folder / "bin/python").rename(second.folder / "bin/python3")
    assert second.run() == 0
    assert "uv --quiet cache clean" in second.called()
    assert not (tmp_path / "uv.in-use").exists()


def test_one_that_failed_is_tried_again_with_what_uv_kept(build: Build) -> None:
    """Otherwise a bad connection would never end."""
    build.log.with_suffix(".broken").touch()
    assert build.run() != 0
    assert not build.environment.exists()
    build.log.with_suffix(".broken").unlink()
    assert build.run() == 0
    assert not any("cache" in step for step in build.called().splitlines() if step.startswith("uv"))


@pytest.mark.skipif(not shutil.which("flock"), reason="servers have it, macOS has not")
def test_a_build_waits_for_another_and_uses_what_that_has_made(tmp_path: pathlib.Path) -> None:
    build = Build(tmp_path, "locked_environment")
    with (build.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = build.start()
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        build.environment.mkdir()
        (build.environment / ".complete").touch()
    assert waiting.wait() == 0
    assert not build.called()
    assert [path.name for path in build.environment.parent.iterdir()] == ["a"]


def test_no_account_can_hold_the_lock(tmp_path: pathlib.Path) -> None:
    build = Build(tmp_path, "locked_environment")
    assert build.run() == 0
    assert (build.folder / "lock").stat().st_mode & 0o777 == 0o600
