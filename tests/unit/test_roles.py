"""Rules for every role: argument specs and defaults hold the same variables."""

import os
import pathlib
import re
import subprocess
from typing import Any

import ansible
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
CARD = {"ssh_hardening", "firewall", "conda", "jupyter_screen", "mlflow_server"}


def read(path: pathlib.Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_roles_of_the_card_are_there() -> None:
    assert set(ROLES) > CARD


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_the_argument_specs(role: str) -> None:
    defaults = read(ROOT / "roles" / role / "defaults/main.yml")
    options = read(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert set(defaults) == set(options)
    for name, option in options.items():
        assert name.startswith(f"{role}_")
        assert option["description"]
        # a default that depends on other variables cannot stand in a specification
        if "{{" not in str(defaults[name]) or "default" in option:
            assert option.get("default") == defaults[name] or option.get("required"), name


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_commented(role: str) -> None:
    text = (ROOT / "roles" / role / "defaults/main.yml").read_text()
    for paragraph in text.removeprefix("---\n").split("\n\n"):
        assert paragraph.startswith("#"), f"{role}: no comment above {paragraph}"


@pytest.mark.parametrize("role", ROLES)
def test_inventory_sets_no_variable_that_a_role_does_not_have(role: str) -> None:
    known = set(read(ROOT / "roles" / role / "defaults/main.yml"))
    used = {name for name in read(ROOT / "inventory/wiring.yml") if name.startswith(f"{role}_")}
    assert used <= known


def test_collections_are_the_versions_of_the_pinned_ansible_package() -> None:
    installed = pathlib.Path(ansible.__file__).parents[1] / "ansible_collections"
    for collection in read(ROOT / "requirements.yml")["collections"]:
        manifest = installed / collection["name"].replace(".", "/") / "MANIFEST.json"
        assert read(manifest)["collection_info"]["version"] == collection["version"]


def test_every_play_on_a_server_speaks_plain_language() -> None:
    """Programs' output is read; a server or an operator may have another language. raw takes no environment."""
    for path in (ROOT / "playbooks").glob("*.yml"):
        for play in read(path):
            if "import_playbook" in play or play.get("become") is False:
                continue
            raw = [task for task in play.get("tasks", []) if "ansible.builtin.raw" in task]
            assert (play.get("environment") == {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}) == (not raw), (
                f"{path.name}: {play['name']}"
            )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "roles").glob("*/tasks/*.yml")), ids=lambda path: "/".join(path.parts[-3:])
)
def test_raw_is_used_only_to_find_the_way_in(path: pathlib.Path) -> None:
    """What a login prints (a .bashrc) is mixed into raw's output."""
    assert ("ansible.builtin.raw" in path.read_text()) == (path.parts[-3:] == ("access", "tasks", "find_login.yml"))


def tasks_of(role: str) -> list[dict[str, Any]]:
    """All tasks of a role, those of blocks too."""
    waiting = [task for path in (ROOT / "roles" / role / "tasks").glob("*.yml") for task in read(path)]
    found = []
    while waiting:
        found.append(task := waiting.pop())
        waiting += [inner for part in ("block", "rescue", "always") for inner in task.get(part, ())]
    return found


@pytest.mark.parametrize("role", ROLES)
def test_a_shell_reads_its_input_before_it_can_end(role: str) -> None:
    """Otherwise the pipe breaks at times, and "Error executing command." is all that Ansible says."""
    for task in tasks_of(role):
        shell = task.get("ansible.builtin.shell")
        if isinstance(shell, dict) and "stdin" in shell:
            before = re.split(r"\$\(cat\)|\bcat >|while read", shell["cmd"], maxsplit=1)
            assert len(before) == 2, f"{role}: {task['name']} does not read its input"
            # what runs in its place, or branches, comes after
            assert not re.search(r"\bexit\b|\bif test \"", before[0]), f"{role}: {task['name']}"


@pytest.mark.parametrize("role", ROLES)
def test_no_task_has_variables_in_its_command_line(role: str) -> None:
    """Ansible puts `environment:` into the command that sudo logs and ps shows; it may hold passwords."""
    for task in tasks_of(role):
        assert "environment" not in task, task["name"]


FILES = ("ansible.builtin.template", "ansible.builtin.copy", "ansible.builtin.file")


@pytest.mark.parametrize("role", ROLES)
def test_no_role_loops_over_files(role: str) -> None:
    """Each call costs a server 0.2 to 0.4 s; managed_files writes a list of files in one."""
    for task in tasks_of(role):
        assert "loop" not in task or not set(FILES) & set(task), f"{role}: {task['name']}: use managed_files"
        used = "managed_files" in task
        assert not used or "managed_files" in read(ROOT / "roles" / role / "meta/main.yml")["dependencies"], role


@pytest.mark.parametrize("role", ROLES)
def test_apt_is_called_for_missing_packages_alone(role: str) -> None:
    """One that finds all installed costs a server 0.8 s; a role's probe asks dpkg for nearly nothing."""
    for task in tasks_of(role):
        # PostgreSQL is an option
        if "ansible.builtin.apt" in task and "postgresql" not in str(task):
            assert re.search("packages|_package|_to_install", str(task.get("when"))), f"{role}: {task['name']}"


def asked(role: str) -> list[str]:
    """The lines of a role's tasks that ask dpkg, without Ansible's variables."""
    shells = [task.get("ansible.builtin.shell") for task in tasks_of(role)]
    commands = [str(shell["cmd"]) for shell in shells if isinstance(shell, dict)]
    return [command for command in commands if "dpkg-query -Wf" in command]


@pytest.mark.parametrize(
    ("role", "auto", "expected"),
    [
        ("jupyter_screen", "", "packages=one two"),
        ("jupyter_screen", "two", "packages=one"),
        ("jupyter_screen", "one two", "packages="),
        ("mlflow_server", "", "packages=one two"),
        ("mlflow_server", "one", "packages=two"),
        ("linux_baseline", "", "packages=one two"),
        ("linux_baseline", "two", "packages=one"),
        ("recommender", "two", "packages=one"),
        ("recommender", "", "packages=one two"),
        ("ssh_hardening", "one", "packages=two"),
        ("ssh_hardening", "", "packages=one two"),
        ("access", "", "packages one two"),
        ("access", "two", "packages one"),
        ("firewall", "", "installed"),
        ("firewall", "nftables", "installed automatically"),
    ],
)
def test_a_package_counts_if_it_is_installed_for_itself(
    role: str, auto: str, expected: str, tmp_path: pathlib.Path
) -> None:
    """One that came with another is not wanted yet: autoremove would take it with the other."""
    states = "".join(f"Package: {name}\nArchitecture: all\nAuto-Installed: 1\n\n" for name in auto.split())
    (tmp_path / "extended_states").write_text(f"{states}Package: other\nAuto-Installed: 0\n")
    # as dpkg-query answers: of a package that is half removed too, and of none that it does not know
    several = "echo config-files gone; echo installed one; echo installed two"
    answer = "echo -n installed" if role == "firewall" else several
    (tmp_path / "dpkg-query").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "dpkg-query").chmod(0o755)
    [command] = asked(role)
    # the lines from the comment to the answer
    begin = re.search(r"^ *(# not those|# as a dependency)", command, re.M)
    assert begin
    lines = command[begin.start() :].split("\n")
    last = next(
        i
        for i, line in enumerate(lines)
        if re.search('xargs|echo "\\$', line) or (role == "firewall" and "awk" in line)
    )
    text = re.sub(r"\{\{.*?\}\}|openssh-server sudo", "one two gone missing", "\n".join(lines[: last + 1]))
    text = text.replace("/var/lib/apt/extended_states", str(tmp_path / "extended_states"))
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(["bash", "-c", text], env=os.environ | path, capture_output=True, text=True, check=False)
    assert said.stdout.strip() == expected, said.stderr


@pytest.mark.parametrize(
    ("role", "words"), [("jupyter_screen", "is not a Python interpreter"), ("mlflow_server", "does not run there")]
)
def test_an_interpreter_that_does_not_run_is_told(role: str, words: str, tmp_path: pathlib.Path) -> None:
    tasks = read(ROOT / "roles" / role / "tasks/preflight.yml")
    variables = {f"{role}_python": "/usr/bin/python9", f"__{role}_host": {"python": ""}}
    play = {"hosts": "localhost", "gather_facts": False, "vars": variables}
    play["tasks"] = [task for task in tasks if "Refuse an interpreter" in task["name"]]
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    command = ["ansible-playbook", str(tmp_path / "play.yml"), "-i", "localhost,", "-c", "local"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and words in " ".join(result.stdout.split()), result.stdout
