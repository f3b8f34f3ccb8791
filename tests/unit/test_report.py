"""Root reads the training's report safely, whatever a person puts in its place."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT: dict[str, Any] = {
    "model": {"name": "dev.movie-recommender", "version": "1", "alias": "champion"},
    "dataset": {"name": "ml", "ratings": 3, "users": 2, "items": 2},
    "algorithm": "SVD",
    "metrics": {"rmse": 0.8, "mae": 0.6, "k": 10, "list_ndcg": 0.4151, "popular_ndcg": 0.2165},
    "recommendations": {
        "user": "1",
        "items": [{"item": "7", "title": "Amélie", "estimate": 4.5, "rank": 1, "because": "Delicatessen (4)"}],
    },
}


def read(path: pathlib.Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-IB", str(ROOT / "playbooks/files/read_report.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, env={"LC_ALL": "C"}, check=False)


def test_a_report_is_printed_without_what_a_terminal_obeys(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(REPORT, ensure_ascii=False), encoding="utf-8")
    assert json.loads(read(path).stdout) == REPORT
    bad = {**REPORT, "algorithm": "\x1b]0;mine\x07SVD"}
    path.write_text(json.dumps(bad), encoding="utf-8")
    assert json.loads(read(path).stdout)["algorithm"] == "?]0;mine?SVD"
    # of an earlier release
    [item] = REPORT["recommendations"]["items"]
    listed = [{key: value for key, value in item.items() if key != "because"}]
    before = {
        **REPORT, "metrics": {"rmse": 0.8, "mae": 0.6}, "recommendations": {"user": "1", "items": listed},
    }  # fmt: skip
    path.write_text(json.dumps(before))
    assert json.loads(read(path).stdout) == before


def test_what_is_not_a_report_is_refused_at_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "report.json"

    def refused(says: str) -> None:
        result = read(path)
        assert result.returncode == 1 and result.stdout == ""
        assert (
            f"{path}: " in result.stderr and says in result.stderr and "/srv/recommender/current train" in result.stderr
        )
        path.unlink(missing_ok=True)

    refused("No such file")
    os.mkfifo(path)
    refused("not a regular file")
    path.symlink_to("/etc/shadow")
    refused("Too many levels of symbolic links")
    path.write_text("[" * 100_000)
    refused("not the report of a training")
    path.write_text('"' + "x" * 2**21 + '"')
    refused("not the report of a training")
    path.write_text(json.dumps({**REPORT, "metrics": {"rmse": "low"}}))
    refused("not the report of a training")
    path.write_text(json.dumps({**REPORT, "metrics": {"rmse": 0.8, "mae": 0.6, "list_ndcg": 0.4}}))
    refused("not the report of a training")
    # each of these would fail what prints it
    for section, name, value in [
        ("metrics", "rmse", "0.8"),
        ("metrics", "mae", float("inf")),
        ("metrics", "mae", 10**400),
        ("metrics", "list_ndcg", "high"),
        ("model", "name", [["x"]]),
        ("recommendations", "items", [{**REPORT["recommendations"]["items"][0], "rank": "1"}]),
    ]:
        path.write_text(json.dumps({**REPORT, section: {**REPORT[section], name: value}}))
        refused("not the report of a training")
    path.write_text(json.dumps({**REPORT, "dataset": sorted(REPORT["dataset"])}))
    refused("not the report of a training")


def test_the_run_reads_it_as_the_account_that_trains() -> None:
    [play] = yaml.safe_load((ROOT / "playbooks/report.yml").read_text())
    task = play["tasks"][0]["ansible.builtin.command"]
    assert task["argv"][:3] == ["runuser", "-u", "{{ recommender_user | default('recommender') }}"]


def test_a_report_that_is_refused_fails_no_run(tmp_path: pathlib.Path) -> None:
    [play] = yaml.safe_load((ROOT / "playbooks/report.yml").read_text())
    reading, showing = play["tasks"]
    assert reading["failed_when"] is False
    refused = read(tmp_path / "report.json")
    training = {"rc": refused.returncode, "stdout": refused.stdout, "stderr": refused.stderr}
    given = {"environment_name": "dev", "operator": "deploy", "analyst": "ana", "training": training}
    given["served_environments"] = []
    for folder in ("templates", "filter_plugins"):
        (tmp_path / folder).symlink_to(ROOT / "playbooks" / folder)
    again = {"hosts": "localhost", "gather_facts": False, "vars": given, "tasks": [showing]}
    (tmp_path / "play.yml").write_text(json.dumps([again]))
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "WARNING  the training's report cannot be shown: " in done.stdout and "No such file" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "roles/recommender/tasks").glob("*.yml")), ids=lambda path: path.name)
def test_no_task_of_the_role_reaches_into_the_groups_folder(path: pathlib.Path) -> None:
    for task in yaml.safe_load(path.read_text()):
        # the folder itself is made, in one of root's
        if task["name"] != "Make the folders":
            assert "artifacts" not in json.dumps(task) and "__recommender_report" not in json.dumps(task)


TITLES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"title": "Amélie"}, "ml-tiny", "1  4.50  Amélie", "2 films"), ({"title": ""}, "shop", "1  4.50  7", "2 items"),
    ({"title": None}, "shop", "1  4.50  7", "2 items"), ({}, "shop", "1  4.50  7", "2 items"),
]  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the run shows for each of TITLES, a server each."""
    folder = tmp_path_factory.mktemp("reports")
    status = {
        "served": {"name": "dev.films", "version": "1", "bundle": "b1"}, "damaged": None, "wanted": 1,
        "refused": {"version": "2", "refused": "an estimate is not a number"},
        "processes": {"1": {"served": "b1", "requests": 0, "errors": 0, "p99_ms": 0}},
    }  # fmt: skip
    given = {
        "report_refused": "", "served_environments": ["dev"], "serving_ports": {"dev": 8000},
        "served": {"results": [{"item": "dev", "rc": 0, "stdout": json.dumps(status)}, {"item": "prod"}]},
        "environment_name": "dev", "operator": "deploy", "ansible_facts": {},
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }  # fmt: skip
    hosts = {}
    for number, (title, data, _, _) in enumerate(TITLES):
        pick = {"item": "7", "estimate": 4.5, "rank": 1, "because": "Delicatessen (4)"} | title
        report = REPORT | {
            "dataset": REPORT["dataset"] | {"name": data},
            "recommendations": {"user": "1", "items": [pick]},
        }
        hosts[f"server-{number}"] = {"report": report}
    task = {
        "ansible.builtin.template": {
            "src": str(ROOT / "playbooks/templates/report.txt.j2"),
            "dest": f"{folder}/{{{{ inventory_hostname }}}}",
            "mode": "0600",
        }
    }
    play = {"hosts": "all", "gather_facts": False, "connection": "local", "vars": given, "tasks": [task]}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    (folder / "filter_plugins").symlink_to(ROOT / "playbooks/filter_plugins")
    (folder / "local").mkdir()
    (folder / "local/hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    command = ["ansible-playbook", "-i", str(folder / "local/hosts.yml"), "play.yml"]
    done = subprocess.run(command, capture_output=True, cwd=folder, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [(folder / name).read_text(encoding="utf-8") for name in hosts]


@pytest.mark.parametrize("number", range(len(TITLES)))
def test_items_without_titles_are_named_by_their_ids(reports: list[str], number: int) -> None:
    shown, (_, _, line, count) = reports[number], TITLES[number]
    assert f"{line}, because of Delicatessen (4)\n" in shown and count in shown
    assert (
        "dev: dev.films version 1, 0 requests, 0 errors; version 2 was REFUSED: an estimate is not a number\n" in shown
    )
    assert "NDCG@10 of its lists 0.415; the most rated items for everybody: 0.216\n" in shown
