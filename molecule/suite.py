"""Everything that `make test` runs, one test a part; each is a command that a person can type as well.

The slow parts come first, so that the workers end at about the same time.
"""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SLOW = ["mlflow_server", "ssh_hardening", "firewall", "conda", "jupyter_screen", "recommender"]
ROLES = SLOW + sorted({path.name for path in ROOT.glob("roles/*")} - set(SLOW))


def run(*command: str, cwd: pathlib.Path = ROOT) -> None:
    """Runs a command; its output goes to .cache/logs while it runs, and is shown by pytest when it fails."""
    # MAKEFLAGS would hand this make's own ARGS to the makes below it
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environment |= {"NO_COLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    part = re.sub(r"\W+", "-", os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]).strip("-")
    log = ROOT / ".cache" / "logs" / f"{part}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        result = subprocess.run(command, cwd=cwd, env=environment, stdout=file, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        sys.stdout.write(log.read_text())
        pytest.fail(f"{' '.join(command)} in {cwd} ended with {result.returncode}", pytrace=False)


# those of one entry share a server
@pytest.mark.parametrize("paths", ["up workbench down", "lockout", "promotion", "vultr", "portability"])
def test_site(paths: str) -> None:
    files = [f"molecule/site/test_{path}.py" for path in paths.split()]
    run("pytest", "-x", "-v", "--durations=0", "--durations-min=5", *files)


@pytest.mark.parametrize("role", ROLES)
def test_molecule(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # molecule keys this folder on the role's name alone: two checkouts would share it
    monkeypatch.setenv("MOLECULE_EPHEMERAL_DIRECTORY", str(ROOT / ".cache" / "molecule" / role))
    run("molecule", "test", "--all", cwd=ROOT / "roles" / role)


def test_unit_of_the_training_job() -> None:
    run("make", "-C", "ml", "test")
    # its types are checked against its own environment, which has numpy and pydantic
    run("mypy", "--python-executable", ".venv/bin/python", "src", cwd=ROOT / "ml")


def test_unit() -> None:
    folders = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("roles/*/tests"))]
    assert folders
    run("pytest", "-q", "--import-mode=importlib", "molecule/unit", *folders)


@pytest.mark.parametrize(
    "command",
    [
        "ansible-lint",
        "yamllint --strict $(git ls-files -co --exclude-standard '*.yml' '*.yaml')",
        "ruff check . bin/models bin/tunnel",
        "ruff format --check . bin/models bin/tunnel",
        "mypy --scripts-are-modules bin/models bin/models_on_server.py bin/servers.py bin/tunnel bench molecule"
        " {inventory,playbooks}/plugins roles/*/{library,{action,filter}_plugins} roles/*/files/*.py",
        "shellcheck .ci/run molecule/*.sh molecule/conda_fixture/*.sh",
    ],
    ids=lambda command: command.split()[0],
)
def test_lint(command: str) -> None:
    run("bash", "-O", "nullglob", "-c", command)
