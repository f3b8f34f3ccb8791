"""Filters are loaded before the workers are forked; a packed module is kept until a module changes."""

import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODULE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
AnsibleModule({}).exit_json(said="%s")
"""
FILTER = """import os
open("%s", "a").write(f"{os.getpid()} {os.getppid()}\\n")
class FilterModule:
    def filters(self):
        return {"twice": lambda word: word * 2}
"""
Run = Callable[[], str]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Runs two tasks with a filter and a module of its own; what it prints."""
    # a copy, for the folder of what is kept is found from the plugin's own place
    shutil.copytree(ROOT / "playbooks/plugins", tmp_path / "playbooks/plugins")
    shutil.copy(ROOT / "ansible.cfg", tmp_path)
    (tmp_path / "inventory").symlink_to(ROOT / "inventory")
    for folder in "library", "filter_plugins":
        (tmp_path / "roles/one" / folder).mkdir(parents=True)
    (tmp_path / "roles/one/library/speak.py").write_text(MODULE % "first")
    (tmp_path / "roles/one/filter_plugins/twice.py").write_text(FILTER % (tmp_path / "loaded"))
    tasks = [
        {"speak": None, "register": "heard"},
        {"debug": {"msg": "{{ heard.said | twice }}"}},
        {"debug": {"msg": "{{ 'again' | twice }}"}},
    ]
    play = {"hosts": "all", "gather_facts": False, "roles": ["one"], "tasks": tasks}
    (tmp_path / "site.yml").write_text(yaml.safe_dump([play]))
    given = {"PATH": os.environ["PATH"], "HOME": f"{tmp_path}/home"}
    given |= {"LC_ALL": "C.UTF-8", "ANSIBLE_CONFIG": f"{tmp_path}/ansible.cfg", "ANSIBLE_STDOUT_CALLBACK": "default"}
    program = str(pathlib.Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "site.yml", "-i", "one,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]

    def run() -> str:
        result: subprocess.CompletedProcess[str] = subprocess.run(
            command, cwd=tmp_path, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "Failure using method" not in result.stderr
        return result.stdout

    return run


def kept(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob(".cache/modules/*/ansible.legacy.speak-*") if path.suffix != ".lock")


@pytest.mark.parametrize("included", [False, True])
def test_filters_are_loaded_once(run: Run, tmp_path: pathlib.Path, included: bool) -> None:
    if included:
        (play,) = yaml.safe_load((tmp_path / "site.yml").read_text())
        again = play["tasks"][-1]
        play["tasks"] = [{"include_role": {"name": play.pop("roles")[0]}}, again, again]
        (tmp_path / "site.yml").write_text(yaml.safe_dump([play]))
    assert "againagain" in run()
    assert len((tmp_path / "loaded").read_text().splitlines()) == 1


def test_a_packed_module_is_kept_until_a_module_changes(run: Run, tmp_path: pathlib.Path) -> None:
    assert "firstfirst" in run()
    (first,) = kept(tmp_path)
    assert first.parent.stat().st_mode & 0o777 == 0o700
    before = first.stat()
    assert "firstfirst" in run()
    assert kept(tmp_path) == [first] and first.stat().st_ino == before.st_ino
    (tmp_path / "roles/one/library/speak.py").write_text(MODULE % "other")
    assert "otherother" in run()
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("place", ["library", "playbooks/library", "home/.ansible/plugins/modules"])
def test_a_module_of_ones_own_is_not_taken_from_an_earlier_run(run: Run, tmp_path: pathlib.Path, place: str) -> None:
    (tmp_path / "roles/one/library/speak.py").unlink()
    (tmp_path / place).mkdir(parents=True)
    if place.startswith("playbooks"):
        (tmp_path / "site.yml").rename(tmp_path / "playbooks/site.yml")
        (tmp_path / "site.yml").write_text("- import_playbook: playbooks/site.yml\n")
    for word in "first", "other":
        (tmp_path / place / "speak.py").write_text(MODULE % word)
        assert word * 2 in run()


def test_what_no_run_uses_is_removed(run: Run, tmp_path: pathlib.Path) -> None:
    for name, days in ("old", 2), ("young", 0.5):
        (tmp_path / ".cache/modules" / name).mkdir(parents=True)
        then = time.time() - days * 86400
        os.utime(tmp_path / ".cache/modules" / name, (then, then))
    run()
    assert not (tmp_path / ".cache/modules/old").exists()
    assert (tmp_path / ".cache/modules/young").exists()


def test_a_folder_that_cannot_be_made_only_costs_time(run: Run, tmp_path: pathlib.Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/modules").write_text("in the way")
    assert "firstfirst" in run()


def test_nothing_is_taken_from_a_folder_that_others_may_write_into(run: Run, tmp_path: pathlib.Path) -> None:
    run()
    (packed,) = kept(tmp_path)
    packed.parent.chmod(0o777)
    packed.write_bytes(b"not a pickle")
    assert "firstfirst" in run()
