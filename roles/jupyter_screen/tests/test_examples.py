"""Examples reach each person; what a person changed stays."""

import os
import pathlib
import pwd
import subprocess

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = pathlib.Path(__file__).resolve().parents[1]
ME = pwd.getpwuid(os.getuid()).pw_name


def copy(folder: pathlib.Path) -> list[str]:
    """Names of what the role's step wrote, for the person or into the folder of what was given."""
    tasks = yaml.safe_load((ROLE / "tasks/examples.yml").read_text())
    variables = {
        "__jupyter_screen_examples": str(folder / "release"),
        "__jupyter_screen_given": str(folder / "given"),
        "__jupyter_screen_servers": [{"name": ME, "notebook_dir": "~/notebooks"}],
        "__jupyter_screen_homes": {ME: str(folder)},
    }
    script = Templar(DataLoader(), variables).template(trust_as_template(tasks[-1]["ansible.builtin.shell"]["cmd"]))
    # only root may use runuser
    script = script.replace(f"runuser -u {ME} -- ", "")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert not done.stderr
    return [pathlib.Path(line).name for line in done.stdout.splitlines()]


def test_copies_follow_the_release_until_their_owner_changes_them(tmp_path: pathlib.Path) -> None:
    release, mine = tmp_path / "release", tmp_path / "notebooks/examples"
    release.mkdir()
    for name in ("a b.ipynb", "c.ipynb", "d.ipynb"):
        (release / name).write_text("first")
        (release / name).chmod(0o444)
    assert sorted(set(copy(tmp_path))) == ["a b.ipynb", "c.ipynb", "d.ipynb"]
    assert copy(tmp_path) == []
    (mine / "c.ipynb").write_text("my own")
    (mine / "d.ipynb").unlink()
    (mine / "d.ipynb").symlink_to("nowhere")
    for file in release.iterdir():
        file.chmod(0o644)
        file.write_text("second")
    assert {file.name for file in release.iterdir()} == set(copy(tmp_path))
    assert copy(tmp_path) == []
    assert (mine / "a b.ipynb").read_text() == "second"
    assert (mine / "c.ipynb").read_text() == "my own"
    assert os.readlink(mine / "d.ipynb") == "nowhere"
    # one that is removed comes back
    (mine / "a b.ipynb").unlink()
    assert copy(tmp_path) == ["a b.ipynb"]
    assert os.access(mine / "a b.ipynb", os.W_OK)
