"""The screen has a line a step and what failed, once and last; the log has everything; -v shows everything."""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    """Runs a play of such tasks with this checkout's plugins: what the screen shows, and what the log holds."""
    # a copy, for the log's folder is found from the plugin's own place
    shutil.copytree(ROOT / "playbooks/plugins", tmp_path / "playbooks/plugins")
    shutil.copy(ROOT / "ansible.cfg", tmp_path)
    (tmp_path / "inventory").symlink_to(ROOT / "inventory")

    def run(
        tasks: list[dict[str, Any]], *more: str, code: int = 0, hosts: str = "one,", **variables: str
    ) -> tuple[str, str]:
        play = {"name": "The play", "hosts": "all", "gather_facts": False, "tasks": tasks}
        (tmp_path / "site.yml").write_text(yaml.safe_dump([play]))
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = kept | {"LC_ALL": "C.UTF-8", "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg")} | variables
        program = pathlib.Path(sys.executable).with_name("ansible-playbook")
        result = subprocess.run(
            [program, "site.yml", "-i", hosts, "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}",
             *more],
            cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert result.returncode == code, result.stdout + result.stderr
        screen = result.stdout + result.stderr
        logs = sorted((tmp_path / ".cache/logs/ansible").glob("*.log"), key=os.path.getmtime)
        return screen, logs[-1].read_text() if logs else ""

    return run


# what the control side does itself: a module of its own for each would take most of these tests' time
CHANGE: dict[str, Any] = {"set_fact": {"done": True}, "changed_when": True}
LOOK: dict[str, Any] = {"set_fact": {"done": True}, "changed_when": False}


def role(folder: pathlib.Path, name: str, **files: list[dict[str, Any]]) -> None:
    (folder / "roles" / name / "tasks").mkdir(parents=True)
    for file, tasks in files.items():
        (folder / f"roles/{name}/tasks/{file}.yml").write_text(yaml.safe_dump(tasks))


def test_a_line_a_step_and_the_rest_in_a_log(run: Run, tmp_path: pathlib.Path) -> None:
    role(
        tmp_path, "web",
        main=[{"import_tasks": "install.yml"}, {"include_tasks": "start_it.yml"}],
        install=[{"name": "Change"} | CHANGE, {"name": "Look"} | LOOK],
        start_it=[{"name": "Look again", "debug": {"msg": "said"}, "when": "nothing is defined"},
                  {"name": "See"} | LOOK],
    )  # fmt: skip
    screen, log = run([{"name": "Own"} | CHANGE, {"include_role": {"name": "web"}}], hosts="one,two,")
    assert re.findall(r"^(\S.*?) {2,}(ok|\d+ changed) +[\d.]+ s$", screen, re.M) == [
        ("The play", "2 changed"), ("web: install", "2 changed"), ("web: start it", "ok"),
    ]  # fmt: skip
    assert len(re.findall(r"^(?:one|two) +: ok=\d+ +changed=2 ", screen, re.M)) == 2
    assert "TASK [" not in screen and "said" not in screen
    for words in ("TASK [Own]", "TASK [web : Look]", "changed: [one]", "ok: [two]", "PLAY RECAP", "changed=2"):
        assert words in log
    (path,) = {tmp_path / name for name in re.findall(r"Log: (\S+)", screen)}
    assert screen.startswith("Log: ") and screen.rstrip().endswith(path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_text() == log


LOST = {"ansible_connection": "ssh", "ansible_port": 1, "ansible_host": "127.0.0.1"}


def test_what_failed_is_told_once_and_last(run: Run) -> None:
    tasks: dict[str, dict[str, Any]] = {
        "one": {"name": "Refuse", "assert": {"that": "item != 2", "fail_msg": "{{ item }} is bad.\nType: mend it"},
                "loop": [1, 2, 3], "when": "inventory_hostname in ['one', 'two']"},
        "three": {"name": "Do", "shell": "echo out; echo err >&2; exit 7"},
        "four": {"name": "Template", "command": "{{ nowhere }}"},
        "five": {"name": "Hide", "fail": {"msg": "a {{ 'secret' | upper }}"}, "no_log": True},
        "six": {"name": "Hide each", "fail": {"msg": "a {{ 'secret' | upper }}"}, "no_log": True, "loop": [1]},
        "seven": {"name": "Ask", "command": "true", "vars": LOST},
    }  # fmt: skip
    screen, log = run(
        [{"when": f"inventory_hostname == '{host}'"} | task for host, task in tasks.items()],
        code=4, hosts="one,two,three,four,five,six,seven,",
    )  # fmt: skip
    assert re.search(r"^The play +FAILED ", screen, re.M)
    assert screen.count("mend it") == 1 and "fatal" not in screen and "1 is bad" not in screen
    assert log.count("failed: [one] (item=2)") == 1
    first, *told = screen.split("\nFAILED on ")
    assert "PLAY RECAP" in first
    assert told[:2] == [
        "one, two: Refuse\n2: 2 is bad.\nType: mend it\n",
        "three: Do\necho out; echo err >&2; exit 7: ended with 7\nerr\nout\n",
    ]
    assert told[2].startswith("four: Template\n") and "'nowhere' is undefined" in told[2]
    for number, name in ((3, "five: Hide"), (4, "six: Hide each")):
        assert told[number].startswith(f"{name}\n") and "'no_log: true' was specified" in told[number]
    assert "SECRET" not in screen + log and "TASK [Hide]" in log
    assert re.fullmatch(r"seven: Ask\n.*Connection refused\n", told[5]) and len(told) == 6


def test_what_is_rescued_or_ignored_is_not_a_failure(run: Run, tmp_path: pathlib.Path) -> None:
    role(tmp_path, "web", main=[{"name": "Fail inside", "fail": {"msg": "swallowed"}}])
    stop = {"name": "Stop", "fail": {"msg": "not mended"}, "when": "inventory_hostname == 'two'",
            "delegate_to": "localhost"}  # fmt: skip
    tasks: list[dict[str, Any]] = [
        {"block": [{"include_role": {"name": "web"}}], "rescue": [{"name": "Mend"} | LOOK, stop]},
        {"name": "Ask", "command": "true", "vars": LOST, "ignore_unreachable": True},
        {"name": "Try", "command": "false", "ignore_errors": True},
    ]
    screen, log = run(tasks, hosts="one,two,", code=2)
    assert screen.count("FAILED on") == 1 and screen.endswith("FAILED on two -> localhost: Stop\nnot mended\n")
    assert "swallowed" not in screen and screen.count("rescued=1") == 2
    assert "swallowed" in log and "UNREACHABLE" in log and "...ignoring" in log


def test_messages_diffs_and_pauses_are_shown_and_warnings_are_not(run: Run, tmp_path: pathlib.Path) -> None:
    tasks: list[dict[str, Any]] = [
        {"name": "Report", "debug": {"msg": "first\n  second"}},
        {"name": "Report lines", "debug": {"msg": ["{{ item }}", "b"]}, "loop": ["a"]},
        {"name": "Report one", "debug": {"var": "inventory_hostname"}},
        {"name": "Wait", "pause": {"seconds": 1, "prompt": "look at it"}},
        {"name": "Write", "copy": {"content": "new\n", "dest": f"{tmp_path}/written"}},
{"name": "Warn", "set_fact": {"it": "{{ lookup('lines', 'exit 1', errors='warn') }}"}},
    ]  # fmt: skip
    screen, log = run(tasks, "--diff", "--check")
    assert "one: Report\nfirst\n  second\n" in screen
    assert "one: Report lines\na\nb\n" in screen
    assert "one: Report one\none\n" in screen
    assert "Pausing for 1 seconds" in screen
    assert screen.count("TASK [Write]") == screen.count("\n+new\n") == 1 and "+new" in log
    assert "1 to change" in screen
    assert "[WARNING]" in log and "[WARNING]" not in screen


def test_verbose_shows_everything(run: Run) -> None:
    tasks = [{"name": "Change", "command": "echo out"}, {"name": "Stop", "fail": {"msg": "why"}}]
    screen, log = run(tasks, "-v", code=2)
    for words in ("TASK [Change]", "changed: [one] => ", "stdout: out", "fatal: [one]: FAILED!", "PLAY RECAP"):
        assert words in screen and words in log
    assert re.search(r"^Log: \.cache/logs/ansible/\S+-site-\S+\.log$", screen, re.M)


def test_the_log_that_is_asked_for_and_a_folder_that_cannot_be_written(run: Run, tmp_path: pathlib.Path) -> None:
    tasks = [{"name": "Change"} | CHANGE]
    screen, log = run(tasks, ANSIBLE_LOG_PATH="mine.log")
    assert log == "" and screen.startswith(f"Log: {tmp_path}/mine.log\n" if "Log: /" in screen else "Log: mine.log\n")
    assert "TASK [Change]" in (tmp_path / "mine.log").read_text()
    # what the first run kept there
    shutil.rmtree(tmp_path / ".cache")
    (tmp_path / ".cache").write_text("not a folder")
    (tmp_path / "tmp").mkdir()
    screen, _ = run(tasks, TMPDIR=str(tmp_path / "tmp"))
    (path,) = (tmp_path / "tmp").glob("*-site-*.log")
    assert "TASK [Change]" in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"Log: {path}" in screen or f"Log: {path.relative_to(tmp_path)}" in screen


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("V=1", "ANSIBLE_STDOUT_CALLBACK := default"), ("FAST=1", "ANSIBLE_STRATEGY := fast")],
    # the test's name stands in what make prints
    ids=("V", "FAST"),
)
def test_a_word_for_make_sets_what_ansible_reads(word: str, wanted: str) -> None:
    show = ["make", "-pn", "-o", ".venv/.complete", "status"]
    # `make test FAST=1` exports its own words
    clean = {name: value for name, value in os.environ.items() if name not in ("FAST", "V", "MAKEFLAGS", "MFLAGS")}
    assert wanted in subprocess.check_output([*show, word], cwd=ROOT, env=clean, text=True)
    assert wanted not in subprocess.check_output(show, cwd=ROOT, env=clean, text=True)


def test_what_a_program_says_neither_moves_the_cursor_nor_fills_the_screen(run: Run) -> None:
    escape = {"name": "Hide", "command": {"argv": ["printf", "a\\033[1A\\033[2Kb\\r\\nc"]}, "failed_when": True}
    screen, _ = run([escape], code=2)
    assert "a?[1A?[2Kb\nc" in screen
    long = {"name": "Talk", "shell": "seq 1 5000; false"}
    screen, log = run([long], code=2)
    assert "… 4900 lines before these are in the log\n4901\n" in screen
    assert "\n2500\n" not in screen and "2500" in log


def test_a_diff_names_its_server_and_a_play_without_one_is_told(run: Run, tmp_path: pathlib.Path) -> None:
    write = {"name": "Write", "copy": {"content": "new\n", "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}"}}
    screen, _ = run([write], "--diff", hosts="one,two,")
    assert re.search(r"^one:$[\s\S]*^\+new$[\s\S]*^two:$[\s\S]*^\+new$|^two:$[\s\S]*^\+new$[\s\S]*^one:$", screen, re.M)
    screen, _ = run([write], hosts=str(empty(tmp_path)))
    assert "The play: no server is meant, nothing is done" in screen


def empty(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "hosts.ini"
    path.write_text("[servers]\n")
    return path


def test_the_variable_of_a_loop_is_shown(run: Run) -> None:
    screen, _ = run([{"name": "Show", "debug": {"var": "item"}, "loop": ["first", "second"]}])
    assert "first" in screen and "second" in screen
