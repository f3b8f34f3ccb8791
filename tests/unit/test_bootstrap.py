"""playbooks/bootstrap.yml refuses a Jupyter for the wrong accounts, and names the remedy."""

import os
import pathlib
import re
import subprocess
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEOPLE = [
    {"name": "deploy", "role": "operator"},
    {"name": "analyst", "role": "analyst", "state": "present"},
    {"name": "ana", "role": "analyst"},
    {"name": "tina", "role": "tunnel"},
    {"name": "nas", "role": "command"},
    {"name": "gone", "role": "analyst", "state": "absent"},
]


def trusted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: trusted(part) for key, part in value.items()}
    return trust_as_template(value) if isinstance(value, str) else value


def refusal(*jupyters: str, analyst: str = "analyst") -> str:
    """The message of the refusal, in one line; empty where the list is fine."""
    plays = yaml.safe_load((ROOT / "playbooks/bootstrap.yml").read_text())
    (task,) = (
        task
        for play in plays
        for task in play.get("tasks", [])
        if task["name"] == "Refuse a Jupyter for accounts that cannot have one"
    )
    lists = {"people": PEOPLE, "analyst": analyst, "jupyter_people": [{"name": name} for name in jupyters],
             "inventory_hostname": "one"}  # fmt: skip
    templar = Templar(DataLoader(), variables={**trusted(task["vars"]), **lists})
    if templar.template(trust_as_template("{{ " + task["ansible.builtin.assert"]["that"] + " }}")):
        return ""
    return " ".join(templar.template(trust_as_template(task["ansible.builtin.assert"]["fail_msg"])).split())


def test_analysts_may_have_one() -> None:
    assert refusal() == refusal("ana") == ""


@pytest.mark.parametrize(("name", "role"), [("tina", "tunnel"), ("nas", "command"), ("deploy", "operator")])
def test_others_may_not(name: str, role: str) -> None:
    said = refusal("ana", name)
    assert f"{name} has a Jupyter (jupyter_people) and is of role {role} in people" in said
    assert f"give {name} role: analyst" in said
    assert "ana has" not in said


@pytest.mark.parametrize(
    ("name", "why", "otherwise"),
    [
        ("gone", "is revoked in people", "people must have {name: gone, role: analyst"),
        ("nobody", "is not in people", "people must have {name: nobody, role: analyst"),
    ],
)
def test_those_who_left_are_to_be_taken_out(name: str, why: str, otherwise: str) -> None:
    """The first remedy named is not to add them again."""
    said = refusal(name)
    assert why in said
    assert said.index(f"take {name} out of jupyter_people") < said.index(otherwise)


def test_the_default_analyst_is_one_of_the_list() -> None:
    assert "Set analyst to an account that may run one" in refusal(analyst="deploy")


def test_your_public_keys_are_read_once_a_run(tmp_path: pathlib.Path) -> None:
    """Each task that asked for the list of people read the files again, or asked the agent."""
    plays = yaml.safe_load((ROOT / "playbooks/bootstrap.yml").read_text())
    reads = [task for play in plays for task in play.get("tasks", []) if task["name"] == "Read your public keys once"]
    variables = {
        "operator_keys": f"{{{{ lookup('ansible.builtin.pipe', 'echo >> {tmp_path}/asked; echo key').splitlines() }}}}",
        "people": [{"name": name, "keys": "{{ operator_keys }}"} for name in ("deploy", "analyst")],
    }
    show = {"name": "Show", "ansible.builtin.debug": {"msg": "{{ people }}"}}
    play = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [*reads, show, show, show]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")]
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert result.stdout.count("- key") == 6, result.stdout + result.stderr
    assert len((tmp_path / "asked").read_text()) == 1


@pytest.mark.parametrize(
    ("tags", "asked"), [(["access"], True), (["secure"], True), (["all"], False), (["secure", "workbench"], False)]
)
def test_a_run_without_jupyter_says_who_waits_for_one(tags: list[str], asked: bool) -> None:
    (play,) = yaml.safe_load((ROOT / "playbooks/secure.yml").read_text())
    look, say = (task for task in play["post_tasks"] if task.get("tags") == ["access"])
    variables = {
        **trusted(say["vars"]), "analyst": "analyst", "jupyter_people": [{"name": "ana"}, {"name": "ben"}],
        "inventory_hostname": "one", "inventory_dir": "/x/inventory/vultr", "group_names": ["dev", "workbench"],
        "ansible_run_tags": tags,
        "jupyters": {"stdout_lines": ["jupyter-screen@analyst.service.d", "jupyter-screen@ana.service.d"]},
    }  # fmt: skip
    templar = Templar(DataLoader(), variables=variables)
    assert all(templar.template(trust_as_template("{{ " + condition + " }}")) for condition in look["when"]) is asked
    said = templar.template(trust_as_template(say["ansible.builtin.debug"]["msg"]))
    assert said.startswith("ben will have a Jupyter on one after: ansible-playbook site.yml -i inventory/vultr")


@pytest.mark.parametrize(
    ("tags", "user", "looked"),
    [
        (("access",), "deploy", False),
        (("access_configure",), "deploy", False),
        (("access",), "root", True),
        (("all",), "deploy", True),
        (("access", "workbench"), "deploy", True),
        (("ssh_port",), "deploy", True),
    ],
)
def test_a_change_of_people_alone_does_not_look_at_memory_disk_and_clock(
    tags: tuple[str, ...], user: str, looked: bool
) -> None:
    (play,) = (
        play
        for play in yaml.safe_load((ROOT / "playbooks/bootstrap.yml").read_text())
        if play["name"] == "Check the server"
    )
    variables = {"ansible_user": user, "operator": "deploy", "ansible_run_tags": tags}
    assert Templar(DataLoader(), variables=variables).template(trusted(play["vars"]["is_looked_at"])) is looked
    # what reads their findings depends on it too
    reads = [task["name"] for task in play["tasks"] if "is_looked_at" in str(task.get("when"))]
    assert reads == [task["name"] for task in play["tasks"] if re.search("free_disk|setup|memtotal", str(task))]
