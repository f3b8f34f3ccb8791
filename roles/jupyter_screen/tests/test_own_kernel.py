"""Kernels without a person's ~/.local, and a person's own environment as a kernel: no server, no network."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import zipfile
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = pathlib.Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("own_kernel", ROLE / "files/own_kernel.py")
assert spec
assert spec.loader
own_kernel = importlib.util.module_from_spec(spec)
spec.loader.exec_module(own_kernel)
# imports of an interpreter outside a virtual environment, such as conda's
BASE = str(pathlib.Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


def shadow(home: pathlib.Path) -> dict[str, str]:
    """Lays a module into the home's ~/.local, as pip install --user does it, and returns the account's environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    environment["HOME"] = str(home)
    where = [BASE, "-c", "import site; print(site.getusersitepackages())"]
    folder = pathlib.Path(subprocess.check_output(where, env=environment, text=True).strip())
    folder.mkdir(parents=True)
    (folder / "usercustomize.py").write_text("print('shadowed')\n")
    return environment


def wheel(folder: pathlib.Path, name: str, version: str) -> str:
    """Path of a wheel with one module, which tells its version."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(path)


def kernel(**further: Any) -> dict[str, Any]:
    """kernel.json as the role writes it."""
    item = {"name": "shared", "display_name": "Shared", "python": BASE, **further}
    template = (ROLE / "templates/kernel.json.j2").read_text()
    variables = {"item": item, "__jupyter_screen_locked_kernel": "/usr/local/lib/locked.py"}
    written = Templar(DataLoader(), variables=variables).template(trust_as_template(template))
    found: dict[str, Any] = json.loads(written) if isinstance(written, str) else written
    return found


def test_what_runs_at_a_kernels_start_leaves_no_name_in_the_notebook() -> None:
    (option,) = [word for word in kernel()["argv"] if word.startswith("--IPKernelApp")]
    names: dict[str, Any] = {}
    exec(option.partition("=")[2].replace("/usr/local/lib/locked.py", __file__).replace("__main__", "other"), names)
    assert names.keys() == {"__builtins__"}


def test_a_kernel_does_not_read_what_a_person_installed_beside_it(tmp_path: pathlib.Path) -> None:
    environment = shadow(tmp_path)
    say = [BASE, "-c", "print('alone')"]
    assert subprocess.check_output(say, env=environment, text=True) == "shadowed\nalone\n"
    written = kernel(env={"GREETING": "hello"})
    assert written["env"] == {"GREETING": "hello", "PYTHONNOUSERSITE": "1"}
    assert subprocess.check_output(say, env=environment | written["env"], text=True) == "alone\n"
    assert kernel(env={"PYTHONNOUSERSITE": ""})["env"] == {"PYTHONNOUSERSITE": ""}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The environment of a kernel, with a locked package, and another that a .pth file names."""
    base = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", base], check=True)
    (packages,) = base.glob("lib/python*/site-packages")
    (packages / "ipykernel.py").write_text("")
    (packages / "locked.py").write_text("VERSION = '1'\n")
    (packages / "further.pth").write_text(f"{base}/further\n")
    (base / "further").mkdir()
    (base / "further/linked.py").write_text("")
    return base


@pytest.fixture
def offered(base: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A server with that kernel, and a person with packages in ~/.local."""
    folder = tmp_path / "kernels/shared"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(kernel(python=str(base / "bin/python"), env={"GREETING": "hello"})))
    for name, value in shadow(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("PYTHONPATH", "JUPYTER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(own_kernel, "KERNELS", tmp_path / "kernels")
    monkeypatch.setattr(own_kernel, "SETTINGS", tmp_path / "none.json")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["own-kernel", *arguments])
    own_kernel.main()


def test_a_kernel_of_ones_own_by_one_command(
    base: pathlib.Path, offered: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # the folder where it is typed may be somebody else's
    for name in ("pip.py", "venv.py"):
        (offered / name).write_text("raise SystemExit('somebody else ran')\n")
    monkeypatch.chdir(offered)
    run(monkeypatch, "mine", "--no-index", wheel(offered, "locked", "2"))
    assert "own-kernel mine PACKAGE" in capsys.readouterr().out
    folder = offered / ".local/share/jupyter/kernels/mine"
    spec = json.loads((folder / "kernel.json").read_text())
    assert spec["display_name"] == "mine (on Shared)"
    assert (spec["env"]["GREETING"], spec["env"]["PYTHONNOUSERSITE"]) == ("hello", "1")
    show = "import ipykernel, linked, locked; print(locked.VERSION)"
    seen = [spec["argv"][0], "-c", show]
    assert subprocess.check_output(seen, env=os.environ | spec["env"], text=True) == "2\n"
    assert subprocess.check_output([base / "bin/python", "-c", show], text=True) == "1\n"
    # more packages later; one that cannot be had leaves what is there
    run(monkeypatch, "mine", "--no-index", wheel(offered, "other", "1"))
    with pytest.raises(SystemExit, match="for the reason above; the kernel is there still"):
        run(monkeypatch, "mine", "--no-index", "nowhere")
    subprocess.run([spec["argv"][0], "-c", "import other, locked"], check=True)
    # an operator made the environment again, with a newer Python
    (folder / "environment/lib").joinpath(os.listdir(folder / "environment/lib")[0]).rename(
        folder / "environment/lib/python3.1"
    )
    with pytest.raises(SystemExit, match=f"make it again: rm -r {folder}"):
        run(monkeypatch, "mine")


def test_what_fails_leaves_no_kernel(offered: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="nothing was kept"):
        run(monkeypatch, "mine", "--no-index", "nowhere")
    assert list((offered / ".local/share/jupyter/kernels").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["../mine"], "cannot be the name of a kernel: use letters"),
        (["Shared"], "Shared is a kernel of the server's, which yours would hide: .* such as my-Shared"),
        (["python3"], "python3 is a kernel of the server's"),
        (["--from", "gone", "mine"], "there is no kernel gone to start from: choose --from shared"),
    ],
)
def test_what_cannot_be_is_refused(
    offered: pathlib.Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        run(monkeypatch, *arguments)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(SystemExit, match="type this as that account, without sudo"):
        run(monkeypatch, "mine")
