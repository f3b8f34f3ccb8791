"""The rescue of secure.yml after a failed change of sshd, with stub roles."""

import os
import pathlib
import subprocess
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(folder: pathlib.Path, lost: str = "", **settings: Any) -> str:
    """Runs the rescue of `Harden sshd` while sshd has the new port until the rollback.

    The role that is lost finds no network. Returns which roles were called, each with what it was told.
    """
    (play,) = yaml.safe_load((ROOT / "playbooks/secure.yml").read_text())
    (harden,) = [task for task in play["tasks"] if task["name"] == "Harden sshd"]
    harden["block"] = [{"name": "First", "ansible.builtin.fail": {"msg": "what failed first"}}]
    variables = {"ssh_port": 2222, "ssh_port_before": [22], "firewall_allow": [{"port": 22}, {"port": 2222}]}
    about = {"hosts": "all", "gather_facts": False, "tasks": [harden]}
    (folder / "play.yml").write_text(yaml.safe_dump([about]))
    (folder / "host_vars").mkdir()
    (folder / "host_vars/server.yml").write_text(yaml.safe_dump(variables | settings))
    called = (
        "echo {{ role_name }} {{ commit_confirmed_name | default(firewall_allow | map(attribute='port') | join()) }}"
    )
    for name, file, command in (
        ("commit_confirmed", "settle", f"{called} >> {folder}/called; echo port 22 > {folder}/port"),
        ("firewall", "main", f"{called} >> {folder}/called"),
    ):
        tasks = folder / "roles" / name / "tasks"
        tasks.mkdir(parents=True)
        task: dict[str, Any] = {"name": "Call", "ansible.builtin.shell": command}
        if name == lost:
            task["vars"] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
        (tasks / f"{file}.yml").write_text(yaml.safe_dump([task]))
    (folder / "port").write_text("port 2222\n")
    (folder / "called").touch()
    sshd = folder / "sshd"
    sshd.write_text(f"#!/bin/sh\ncat {folder}/port\n")
    sshd.chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_SSH_RETRIES": "0",
    }
    result = subprocess.run(
        ["ansible-playbook", "play.yml", "-i", "server,"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2, result.stdout + result.stderr
    # what failed first is what the last message tells
    assert "First: what failed first" in result.stdout.split("TASK [Stop]")[1], result.stdout
    return (folder / "called").read_text()


HERE = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}


def test_the_port_closes_once_the_change_is_taken_back(tmp_path: pathlib.Path) -> None:
    assert run(tmp_path, **HERE) == "commit_confirmed sshd\nfirewall 22\n"


@pytest.mark.parametrize(
    "settings",
    [
        {**HERE, "ssh_port_before": []},
        # nothing listens on that port, and the timer's time is over
        {"ansible_host": "127.0.0.1", "ansible_port": 1, "ssh_hardening_revert_after": -9},
    ],
)
def test_nothing_is_done_where_no_port_moves_or_the_network_is_lost(
    settings: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    assert run(tmp_path, **settings) == ""


def test_a_network_that_is_lost_while_the_change_is_taken_back(tmp_path: pathlib.Path) -> None:
    # and the port stays open, because sshd still has it
    assert run(tmp_path, lost="commit_confirmed", **HERE) == ""


def test_the_tag_ssh_port_opens_the_new_port_moves_sshd_and_closes_the_old_one() -> None:
    """A task that was left out would close the old port before sshd has moved, or leave it open."""
    (play,) = yaml.safe_load((ROOT / "playbooks/secure.yml").read_text())
    (firewall,) = (role for role in play["roles"] if role["role"] == "firewall")
    (harden,) = (task for task in play["tasks"] if task["name"] == "Harden sshd")
    after = [task for task in play["post_tasks"] if "ssh_port" in str(task)]
    assert [task["name"] for task in after] == ["Drop sshd's old port from the rules", "Close it"]
    tasks = [*play["pre_tasks"], firewall, harden, *after]
    assert all(task["tags"] == ["ssh_port"] for task in tasks)
    # tags of an include are not those of the tasks in it
    included = [task["ansible.builtin.include_role"] for task in tasks if "ansible.builtin.include_role" in task]
    assert [role["apply"] for role in included] == [{"tags": ["ssh_port"]}] * 2
