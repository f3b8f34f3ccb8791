"""The role's request for a champion, and its reading of the answer."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = pathlib.Path(__file__).parents[1]
PACKED = '{"digest": "a", "inputs": "b", "commit": "-", "archive": "/home/ana/my jobs/c.tar"}'
VARS = {
    "recommender_home": "/srv/recommender", "recommender_user": "recommender", "recommender_train_timeout": 60,
    "recommender_config": "conf/mine.yaml", "recommender_tracking_uri": "http://127.0.0.1:5000",
    "recommender_credentials": "/etc/mlflow/users/recommender.env", "recommender_source": str(ROLE),
    "ansible_python_interpreter": "{{ ansible_playbook_python }}", "__recommender_pack": {"stdout": PACKED},
}  # fmt: skip


# what the job answered, the reason that a person reads, and the verdict
ANSWERS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "nothing": ({"msg": "no such program"}, ["no such program"], ""),
    "error": ({"stderr": "fold\nrecommender: no\nso\nmake: *** [Makefile:9] Error 2"}, ["recommender: no", "so"], ""),
    "verdict": ({"stderr": "", "stdout_lines": ["warning", '{"what": "back", "champion": "1"}']}, [], "back"),
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the role's variables after each answer: one play, since it takes a second to start."""
    folder = tmp_path_factory.mktemp("evaluated")
    names = ("unit", "deploy", "reason", "verdict")
    play = {
        "hosts": "all", "gather_facts": False, "connection": "local", "vars_files": [str(ROLE / "vars/main.yml")],
        "vars": VARS | {"__recommender_deployed": "{{ answers[inventory_hostname] }}",
                        "answers": {name: deployed for name, (deployed, *_) in ANSWERS.items()}},
        "tasks": [{"ansible.builtin.copy": {
            "content": "{{ {" + ", ".join(f"'{name}': __recommender_{name}" for name in names) + "} | to_json }}",
            "dest": f"{folder}/{{{{ inventory_hostname }}}}.json", "mode": "0600",
        }}],
    }  # fmt: skip
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    command = ["ansible-playbook", "-i", ",".join([*ANSWERS, ""]), "play.yml"]
    result = subprocess.run(command, capture_output=True, cwd=folder, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_login_stands_in_no_command_line() -> None:
    for task in yaml.safe_load((ROLE / "tasks/train.yml").read_text()):
        assert "environment" not in task
        assert "password" not in json.dumps(task).lower() and "ansible.builtin.uri" not in task


@pytest.mark.parametrize("name", ANSWERS)
def test_what_the_job_answers(evaluated: pathlib.Path, name: str) -> None:
    answer = json.loads((evaluated / f"{name}.json").read_text())
    _, reason, what = ANSWERS[name]
    assert (answer["reason"], answer["verdict"]["what"]) == (reason, what)
    assert "--uid=recommender" in answer["unit"]
    assert "--property=EnvironmentFile=-/etc/mlflow/users/recommender.env" in answer["unit"]
    assert answer["deploy"] == ["make", "-s", "-C", "/srv/recommender/current", "deploy", "CONF=conf/mine.yaml"]


def test_the_job_does_not_read_what_a_person_installed_beside_it(tmp_path: pathlib.Path) -> None:
    """With an interpreter outside a virtual environment, like conda's."""
    python = str(pathlib.Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
    variables = VARS | {
        "recommender_python": python, "__recommender_report": "report.json", "recommender_tracking_account": "",
        "recommender_operators": [], "recommender_environment": "dev", "__recommender_inputs": "a",
        "__recommender_commit": "-", "ansible_managed": "",
    }  # fmt: skip
    template = trust_as_template((ROLE / "templates/local.mk.j2").read_text())
    (tmp_path / "local.mk").write_text(Templar(DataLoader(), variables=variables).template(template))
    shutil.copy(ROLE.parents[1] / "ml/Makefile", tmp_path)
    (tmp_path / "src/recommender").mkdir(parents=True)
    (tmp_path / "src/recommender/__main__.py").write_text("print('trained')\n")
    home = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "HOME": str(tmp_path)
    }
    where = [python, "-c", "import site; print(site.getusersitepackages())"]
    beside = pathlib.Path(subprocess.check_output(where, env=home, text=True).strip())
    beside.mkdir(parents=True)
    (beside / "usercustomize.py").write_text("print('shadowed')\n")
    assert "shadowed" in subprocess.check_output(where, env=home, text=True)
    train = ["make", "-s", "-C", str(tmp_path), "train"]
    assert subprocess.check_output(train, env=home, text=True) == "trained\n"
