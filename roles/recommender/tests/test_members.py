"""Members of the job's group: recommender_members, and no former ones."""

import os
import pathlib
import subprocess

import yaml

TASKS = pathlib.Path(__file__).parents[1] / "tasks/install.yml"


def run(folder: pathlib.Path, line: str, *more: str) -> tuple[list[str], str]:
    """What gpasswd was called with for such a line of /etc/group, with ana a member, and what Ansible said."""
    called = folder / "called"
    called.write_text("")
    answer = f"echo {line}" if line else "exit 2"
    for name, script in {"getent": answer, "gpasswd": f'echo "$@" >>{called}'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    names = ("Read the group's members", "Remove former members from the group")
    tasks = [task for task in yaml.safe_load(TASKS.read_text()) if task["name"] in names]
    given = {
        "recommender_user": "recommender",
        "recommender_members": ["ana"],
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    play = {"hosts": "localhost", "gather_facts": False, "connection": "local", "vars": given, "tasks": tasks}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    command = ["ansible-playbook", "-i", "localhost,", "play.yml", *more]
    path = {"PATH": f"{folder}:{os.environ['PATH']}", "ANSIBLE_STDOUT_CALLBACK": "default"}
    done = subprocess.run(command, capture_output=True, cwd=folder, text=True, env=os.environ | path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return called.read_text().splitlines(), done.stdout


def test_who_is_no_member_loses_the_group(tmp_path: pathlib.Path) -> None:
    called, said = run(tmp_path, "recommender:x:990:ana,eva,tom")
    assert called == ["--delete eva recommender", "--delete tom recommender"]
    called, said = run(tmp_path, "recommender:x:990:ana,eva", "--check")
    assert called == [] and "item=eva" in said and "changed=1" in said


def test_nothing_changes_where_all_are_members(tmp_path: pathlib.Path) -> None:
    for line in ("recommender:x:990:ana", ""):
        called, said = run(tmp_path, line)
        assert called == [] and "changed=0" in said
