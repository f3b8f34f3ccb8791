"""Unit tests of the role's modules: no conda, no network, no container."""

import fcntl
import hashlib
import http.server
import importlib.util
import json
import os
import pathlib
import shlex
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

Capture = pytest.CaptureFixture[str]
ROLE = pathlib.Path(__file__).parents[1]


def load(kind: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{kind}_{name}", ROLE / kind / f"{name}.py")
    assert spec
    module = importlib.util.module_from_spec(spec)
    assert spec.loader
    spec.loader.exec_module(module)
    return module


environment = load("library", "conda_environment")
installation = load("library", "conda_installation")
action = load("action_plugins", "conda_environment")


def run(module: ModuleType, capsys: Capture, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Result of a module's run."""
    with patch_module_args(arguments | {"_ansible_check_mode": check}), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# --- the control machine's side


def write(folder: pathlib.Path, **files: str) -> str:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder / "environment.yml")


def test_the_pip_section_is_taken_apart_and_its_files_travel(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/more.txt").write_text("c==1\n")
    path = write(
        tmp_path,
        environment__yml="name: x\nprefix: /p\nchannels: [f]\n"
        "dependencies: [python=3.11, pip, {pip: [--require-hashes -r a.txt, 'b>=2']}]",
        a__txt="a==1 \\\n  --hash=sha256:0\n-r sub/more.txt\n",
    )
    assert action.read_conda_file(path) == {
        "conda_file": '{"channels": ["f"], "dependencies": ["python=3.11", "pip"]}',
        "pip_options": ["--require-hashes", "-r", "a.txt"],
        "pip_requirements": ["b>=2"],
        "pip_files": {"a.txt": "a==1 \\\n  --hash=sha256:0\n-r sub/more.txt\n", "sub/more.txt": "c==1\n"},
    }


@pytest.mark.parametrize("line", ["-r a.txt", "-ra.txt", "--requirement=a.txt", "-c a.txt", "--constraint a.txt"])
def test_every_way_to_name_a_file(tmp_path: pathlib.Path, line: str) -> None:
    path = write(tmp_path, environment__yml=f"dependencies: [pip, {{pip: ['{line}']}}]", a__txt="a")
    assert action.read_conda_file(path)["pip_files"] == {"a.txt": "a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not YAML"),
        ("[]", "no list `dependencies`"),
        ("dependencies: []", "no list `dependencies`"),
        ("{channels: conda-forge, dependencies: [python]}", "must be a list of names"),
        ("{channels: [nodefaults], dependencies: [python]}", "no channel beside nodefaults"),
        ("dependencies: [{npm: [x]}]", "neither a package nor"),
        ("dependencies: [pip, {pip: [-r b.txt]}]", "b.txt cannot be read: No such file"),
        ("dependencies: [pip, {pip: [-r ../b.txt]}]", "not beside it"),
        ("dependencies: [pip, {pip: [-e .]}]", "local project"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action.read_conda_file(write(tmp_path, environment__yml=text))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        action.read_conda_file(str(tmp_path / "absent.yml"))


def test_an_explicit_lock_and_a_pip_lock_travel_as_they_are(tmp_path: pathlib.Path) -> None:
    lock = "@EXPLICIT\nhttps://example.org/noarch/a-1.conda#0\n"
    assert action.read_conda_file(write(tmp_path, environment__yml=lock)) == {"conda_file": lock}
    write(tmp_path, a__txt="-r b.txt\n", b__txt="b==1 --hash=sha256:0\n")
    assert action.read_pip_file(str(tmp_path / "a.txt")) == {
        "pip_options": ["--require-hashes", "-r", "a.txt"],
        "pip_files": {"a.txt": "-r b.txt\n", "b.txt": "b==1 --hash=sha256:0\n"},
    }


def test_locks_that_would_not_be_what_they_say_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="packages of pip in comments"):
        action.read_conda_file(write(tmp_path, environment__yml="# pip a @ https://example.org\n@EXPLICIT\n"))
    write(tmp_path, a__txt="a==1\n")
    with pytest.raises(ValueError, match="no hashes"):
        action.read_pip_file(str(tmp_path / "a.txt"))


# --- environments

FAKE_CONDA = """#!/bin/sh
# conda, as far as the module knows it
echo "$@" >> "$(dirname "$0")/calls"
[ "$1" != --version ] || { echo "conda $(cat "$(dirname "$0")/version" 2>/dev/null || echo 26.3.2)"; exit; }
# since 26.5 --version imports next to nothing, so it also answers where nothing else does
[ ! -e "$(dirname "$0")/no-frozendict" ] || { echo "ModuleNotFoundError: No module named 'frozendict'" >&2; exit 1; }
[ ! -e "$(dirname "$0")/bad-condarc" ] || { echo "conda.common.configuration.MultipleKeysError: x" >&2; exit 1; }
[ "$1" != info ] || { echo '{"conda_version": "26.3.2"}'; exit; }
[ ! -e "$(dirname "$0")/broken" ] || { echo Collecting; echo "PackagesNotFoundError: nosuch=1" >&2; exit 1; }
[ "$1 $2" != "env create" ] || mkdir -p "$6/conda-meta"
[ "$1 $2" != "env create" ] || [ ! -e "${0%/*}/python" ] || { mkdir "$6/bin"; cp -P "${0%/*}/python" "$6/bin"; }
[ "$1 $2" != "create --override-channels" ] || mkdir -p "$(eval echo \\${$#})/conda-meta"
"""


@pytest.fixture
def prefix(tmp_path: pathlib.Path) -> pathlib.Path:
    conda = tmp_path / "opt/bin/conda"
    conda.parent.mkdir(parents=True)
    conda.write_text(FAKE_CONDA)
    conda.chmod(0o755)
    return tmp_path / "opt"


def calls(prefix: pathlib.Path) -> list[list[str]]:
    file = prefix / "bin/calls"
    return [line.split()[:2] for line in file.read_text().splitlines()] if file.exists() else []


def make(
    prefix: pathlib.Path, capsys: Capture, check: bool = False, dependencies: Sequence[str] = ("python",), **more: Any
) -> dict[str, Any]:
    arguments = {
        "name": "e",
        "prefix": str(prefix),
        "conda_file": json.dumps({"dependencies": list(dependencies)}),
    } | more
    return run(environment, capsys, check, **arguments)


def test_an_unchanged_environment_costs_no_conda_call(prefix: pathlib.Path, capsys: Capture) -> None:
    assert make(prefix, capsys)["changed"]
    assert not make(prefix, capsys)["changed"]
    assert not make(prefix, capsys, check=True)["changed"]
    assert calls(prefix) == [["env", "create"]]


def test_one_that_another_build_has_made_meanwhile_is_not_made_again(
    prefix: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def flock(descriptor: int, operation: int) -> None:
        waits.append(operation)
        assert make(prefix, capsys)["changed"]

    monkeypatch.setattr(environment.fcntl, "flock", flock)
    lock = tmp_path / "lock"
    assert not make(prefix, capsys, lock=str(lock))["changed"]
    assert calls(prefix) == [["env", "create"]]
    assert waits == [fcntl.LOCK_EX | fcntl.LOCK_NB]
    assert lock.stat().st_mode & 0o777 == 0o600
    # what is there needs no turn
    assert not make(prefix, capsys, lock=str(lock))["changed"]
    assert len(waits) == 1


def test_check_mode_changes_nothing_even_without_conda(tmp_path: pathlib.Path, capsys: Capture) -> None:
    assert make(tmp_path / "none", capsys, check=True)["changed"]
    assert not (tmp_path / "none").exists()


def test_a_changed_one_is_made_anew_and_keeps_what_is_nobodys(prefix: pathlib.Path, capsys: Capture) -> None:
    make(prefix, capsys)
    (prefix / "envs/e/data").mkdir()
    (prefix / "envs/e/data/thesis.txt").write_text("precious")
    (prefix / "envs/e/data/link").symlink_to("..")
    assert make(prefix, capsys, dependencies=["python", "numpy"])["changed"]
    assert calls(prefix) == [["env", "create"], ["env", "create"]]
    assert (prefix / "envs/e/data/thesis.txt").read_text() == "precious"
    assert (prefix / "envs/e/data/link").is_symlink()
    assert os.listdir(prefix / "envs") == ["e"]
    assert sorted(os.listdir(prefix / "envs/e")) == [".ansible-environment", "conda-meta", "data"]


@pytest.mark.parametrize(
    ("release", "called"),
    [
        ("26.3.2", "env create --file environment.yml"),
        ("26.7.1", "create --override-channels --channel bioconda --channel conda-forge --file environment.yml"),
    ],
)
def test_nodefaults_is_no_channel(prefix: pathlib.Path, capsys: Capture, release: str, called: str) -> None:
    """From 26.7 on conda asks for a channel of that name, where it is in the file."""
    (prefix / "bin/version").write_text(release)
    spec = {"channels": ["bioconda", "nodefaults", "conda-forge"], "dependencies": ["python"]}
    assert make(prefix, capsys, conda_file=json.dumps(spec))["changed"]
    assert f"{called} --prefix {prefix}/envs/e" in (prefix / "bin/calls").read_text()


def test_a_link_in_its_place_is_not_followed(prefix: pathlib.Path, capsys: Capture) -> None:
    (prefix / "envs").mkdir()
    (prefix / "envs/e").symlink_to("/")
    assert "move it away" in make(prefix, capsys)["msg"]


def test_a_failed_new_one_is_removed_and_the_culprit_named(prefix: pathlib.Path, capsys: Capture) -> None:
    (prefix / "bin/broken").touch()
    result = make(prefix, capsys)
    assert result["failed"]
    assert result["msg"] == "environment e: conda could not create it\nPackagesNotFoundError: nosuch=1"
    assert os.listdir(prefix / "envs") == []


def test_a_failed_change_leaves_the_one_before(prefix: pathlib.Path, capsys: Capture) -> None:
    make(prefix, capsys)
    (prefix / "bin/broken").touch()
    assert make(prefix, capsys, dependencies=["nosuch"])["failed"]
    assert not make(prefix, capsys)["changed"]
    assert os.listdir(prefix / "envs") == ["e"]


def test_one_whose_proof_fails_gives_way_to_the_one_before(prefix: pathlib.Path, capsys: Capture) -> None:
    (prefix / "bin/python").symlink_to(sys.executable)
    proof = "import os, pathlib; assert not pathlib.Path('{}').exists(), 'seen'; raise SystemExit({})"
    first = proof.format(prefix / "nowhere", 0)
    assert make(prefix, capsys, proof=first)["changed"]
    (prefix / "envs/e/thesis.txt").write_text("precious")
    # the one before is there while it runs
    result = make(prefix, capsys, dependencies=["new"], proof=proof.format(prefix / "envs/.before-e/thesis.txt", 0))
    assert result["failed"]
    assert "ended with status 1; the one before is back. Correct" in result["msg"]
    assert result["msg"].endswith("AssertionError: seen")
    # another proof makes no other environment
    assert not make(prefix, capsys, proof="raise SystemExit(1)")["changed"]
    assert (prefix / "envs/e/thesis.txt").read_text() == "precious"
    assert os.listdir(prefix / "envs") == ["e"]
    result = make(prefix, capsys, name="f", proof=proof.format("/nowhere", 3))
    assert "ended with status 3; it was removed" in result["msg"]
    assert os.listdir(prefix / "envs") == ["e"]


@pytest.mark.parametrize("before", ["", "thesis.txt"])
def test_an_interrupted_one_is_made_anew(prefix: pathlib.Path, capsys: Capture, before: str) -> None:
    (prefix / "envs/e/half").mkdir(parents=True)
    (prefix / "envs/.before-e").mkdir()
    (prefix / "envs/.before-e" / before).touch()
    assert make(prefix, capsys)["changed"]
    assert calls(prefix) == [["env", "create"]]
    assert os.listdir(prefix / "envs") == ["e"]
    assert sorted(os.listdir(prefix / "envs/e")) == sorted({".ansible-environment", "conda-meta", before} - {""})


def test_absent(prefix: pathlib.Path, capsys: Capture) -> None:
    make(prefix, capsys)
    assert make(prefix, capsys, state="absent")["changed"]
    assert not make(prefix, capsys, state="absent")["changed"]
    assert not (prefix / "envs/e").exists()


# takes a package of its cache as whole, and says so of one that is not where it says anything
CACHING_CONDA = """#!/bin/sh
cd "$(dirname "$0")/.."
[ "$1 $2" = "env create" ] || exit 0
mkdir -p "$6/conda-meta"
[ -e pkgs/new-1 ] || { mkdir -p pkgs/new-1; echo whole > pkgs/new-1/file; }
[ ! -e power-cut ] || { rm power-cut; kill -9 $PPID; exit; }
[ -e silent ] || [ -s pkgs/new-1/file ] || echo "The package for new appears to be corrupted."
cp pkgs/new-1/file "$6/file"
"""
MAKE_IT = """
import importlib.util, json, sys
from ansible.module_utils.testing import patch_module_args
spec = importlib.util.spec_from_file_location("m", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with patch_module_args(json.loads(sys.argv[2])):
    module.main()
"""


@pytest.fixture
def caching(prefix: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Prefix of a conda with a package in its cache, and with packages in that of uv."""
    (prefix / "bin/conda").write_text(CACHING_CONDA)
    (prefix / "pkgs/old-1").mkdir(parents=True)
    (prefix / "pkgs/old-1/file").write_text("whole")
    (prefix.parent / "uv/archive-v0/a").mkdir(parents=True)
    (prefix.parent / "uv/mine").touch()
    (prefix.parent / "uv/CACHEDIR.TAG").touch()
    monkeypatch.setenv("UV_CACHE_DIR", str(prefix.parent / "uv"))
    return prefix


def test_what_a_power_cut_left_empty_is_not_used(caching: pathlib.Path, capsys: Capture) -> None:
    """What was there before the run was written through, so it stays."""
    (caching / "silent").touch()
    (caching / "power-cut").touch()
    arguments = {"name": "e", "prefix": str(caching), "conda_file": json.dumps({"dependencies": ["python"]})}
    command = [sys.executable, "-c", MAKE_IT, str(ROLE / "library/conda_environment.py"), json.dumps(arguments)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == -9
    os.truncate(caching / "pkgs/new-1/file", 0)
    assert make(caching, capsys, check=True)["changed"]
    assert make(caching, capsys)["changed"]
    assert (caching / "envs/e/file").read_text() == "whole\n"
    assert (caching / "pkgs/old-1/file").read_text() == "whole"
    assert sorted(os.listdir(caching.parent / "uv")) == ["CACHEDIR.TAG", "mine"]
    assert not make(caching, capsys)["changed"]


def test_an_interruption_is_cleared_up_for_an_unchanged_environment_too(caching: pathlib.Path, capsys: Capture) -> None:
    make(caching, capsys)
    (caching / ".making").mkdir()
    assert make(caching, capsys)["changed"]
    assert os.listdir(caching / "pkgs") == []
    assert not make(caching, capsys)["changed"]


def test_a_cache_that_was_damaged_long_ago_is_emptied(caching: pathlib.Path, capsys: Capture) -> None:
    (caching / "pkgs/new-1").mkdir()
    (caching / "pkgs/new-1/file").touch()
    assert make(caching, capsys)["changed"]
    assert (caching / "envs/e/file").read_text() == "whole\n"


@pytest.mark.parametrize("cut_off", [False, True])
def test_what_another_role_was_writing_into_uvs_cache_is_not_used(
    caching: pathlib.Path, capsys: Capture, cut_off: bool
) -> None:
    (caching / "bin/conda").write_text(
        "#!/bin/sh\nmkdir -p $6/bin $6/conda-meta\nprintf '#!/bin/sh\\n' > $6/bin/python\n"
        "chmod +x $6/bin/python\ncp $6/bin/python $6/bin/uv\n"
    )
    if cut_off:
        (caching.parent / "uv.in-use").touch()
    lock = {"lock.txt": "uv==2 --hash=sha256:1\n"}
    assert make(caching, capsys, pip_options=["-r", "lock.txt"], pip_files=lock)["changed"]
    assert (caching.parent / "uv/archive-v0").exists() != cut_off
    assert not (caching.parent / "uv.in-use").exists()


def test_a_cache_of_uv_that_others_can_write_is_not_used(caching: pathlib.Path, capsys: Capture) -> None:
    (caching.parent / "uv").chmod(0o777)
    assert "can be written by others than root" in make(caching, capsys)["msg"]
    assert not (caching / "envs").exists()
    (caching.parent / "uv").chmod(0o755)
    assert make(caching, capsys)["changed"]


@pytest.mark.parametrize("fails", [False, True])
def test_it_is_on_disk_before_it_is_said_to_be_there(
    caching: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Also what a failed build leaves in the caches, before the folder goes that would tell of it."""
    steps = []
    monkeypatch.setattr(
        environment,
        "write_through",
        lambda path: steps.append((path, (caching / ".making").exists(), os.path.exists(f"{path}/envs/e/file"))),
    )
    durably = environment.write_durably
    monkeypatch.setattr(environment, "write_durably", lambda path, _: (steps.append(path), durably(path, _)))
    if fails:
        (caching / "bin/conda").write_text("#!/bin/sh\nexit 1\n")
    make(caching, capsys)
    assert steps == [
        f"{caching}/.making/kept",
        (str(caching), True, False),
        (str(caching), True, not fails),
        (f"{caching.parent}/uv", True, False),
        *([] if fails else [f"{caching}/envs/e/.ansible-environment"]),
    ]
    assert not (caching / ".making").exists()


@pytest.mark.parametrize("name", ["base", "../x", "a b", ".hidden", ""])
def test_bad_names_are_refused(prefix: pathlib.Path, capsys: Capture, name: str) -> None:
    assert "a name is of letters" in make(prefix, capsys, name=name)["msg"]


def test_too_little_space(prefix: pathlib.Path, capsys: Capture) -> None:
    assert "make room" in make(prefix, capsys, free_space=1 << 40)["msg"]


def test_uv_is_taken_from_the_lock_with_its_hashes() -> None:
    pinned = "uv==2 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n"
    lock = "a==1 \\\n    --hash=sha256:0\n" + pinned + "uvloop==3 --hash=sha256:4\n"
    assert environment.uv_lines({"r.txt": lock}) == pinned
    assert environment.uv_lines({"r.txt": "uv==2\n"}) == ""


def test_only_what_no_package_brought_is_foreign(tmp_path: pathlib.Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages/a-1.dist-info"
    for folder in (site, tmp_path / "conda-meta", tmp_path / "bin"):
        folder.mkdir(parents=True)
    for name in ("of-conda", "of-pip", "compiled.pyc", "mine"):
        (tmp_path / "bin" / name).touch()
    (site / "RECORD").write_text("../../../bin/of-pip,sha256=0,1\na/__init__.py,,\n")
    (tmp_path / "conda-meta/pip.json").write_text(json.dumps({"files": ["bin/of-conda"]}))
    (tmp_path / "conda-meta/half-written.json").write_text("{")
    assert environment.foreign_files(str(tmp_path)) == ["bin/mine"]


def test_the_culprit_is_found_in_the_tools_own_words() -> None:
    uv = "Using Python 3.11\n  x No solution found when resolving:\n  ╰─> Because nosuch was not found"
    assert environment.telling_lines(uv).splitlines()[-1].endswith("Because nosuch was not found")
    assert environment.telling_lines("\n".join(map(str, range(40)))) == "\n".join(map(str, range(25, 40)))


RETRIES = (
    """
Retrieving notices: ...working... Retrying (Retry(total=2)) after connection broken by 'NewConnectionError("failed")'
Retrying (Retry(total=1)) after connection broken by 'NewConnectionError("failed")': /linux-64/repodata.json.zst
ERROR conda.notices.fetch:get_channel_notice_response(72): Request error
"""
    + 20 * "Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(\"failed\")': /noarch\n\n"
)


def test_retries_do_not_crowd_out_what_cannot_be_reached() -> None:
    output = RETRIES + "CondaHTTPError: HTTP 000 CONNECTION FAILED for url <https://conda.example.org/noarch>\n"
    assert environment.telling_lines(output) == output.splitlines()[-1]


# --- the settings


def condarc(**variables: dict[str, Any]) -> dict[str, Any]:
    """What the template makes of the role's variables."""
    variables |= yaml.safe_load((ROLE / "vars/main.yml").read_text())
    text = (ROLE / "templates/condarc.yml.j2").read_text()
    return dict(yaml.safe_load(Templar(DataLoader(), variables=variables).template(trust_as_template(text))))


def test_one_setting_does_not_get_two_names() -> None:
    base = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["conda_condarc"]
    assert condarc(conda_condarc=base, conda_condarc_extra={}) == base
    expected = {key: value for key, value in base.items() if key != "auto_activate_base"} | {"auto_activate": True}
    assert condarc(conda_condarc=base, conda_condarc_extra={"auto_activate": True}) == expected
    assert condarc(conda_condarc={"a": 1, "b": 1}, conda_condarc_extra={"b": 2}) == {"a": 1, "b": 2}


def test_the_settings_are_validated_without_a_trace(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode that root writes under umask 077 could be read by nobody else."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    package = tmp_path / "conda/base"
    package.mkdir(parents=True)
    (package / "context.py").write_text(
        "import sys\nclass Context:\n    def __init__(self, search_path): self.read = open(search_path[0]).read()\n"
        "    def validate_all(self): sys.exit(self.read)\n"
    )
    block = yaml.safe_load((ROLE / "tasks/configure.yml").read_text())[0]["block"]
    command = block[0]["ansible.builtin.template"]["validate"].replace("{{ conda_prefix }}", str(tmp_path))
    (tmp_path / "condarc").write_text("the settings")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    done = subprocess.run(shlex.split(command % (tmp_path / "condarc")), stderr=subprocess.PIPE, text=True)
    assert done.stderr == "the settings\n"
    assert list(tmp_path.rglob("__pycache__")) == []


def secret_environment(tool: pathlib.Path) -> dict[str, str]:
    return {
        "PIP_INDEX_URL": "https://me:hush-hush@pypi.example.org",
        "MIRROR_TOKEN": "t0ken",
        "UV_CACHE_DIR": str(tool),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_passwords_reach_conda_and_nobody_else(
    prefix: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    logged: list[str] = []
    monkeypatch.setattr(AnsibleModule, "log", lambda _, message, log_args=None: logged.append(f"{message} {log_args}"))
    conda = prefix / "bin/conda"
    told = "#!/bin/sh\necho $PIP_INDEX_URL $MIRROR_TOKEN $UV_CACHE_DIR"
    conda.write_text(f"{told} | tee -a {prefix}/told\nmkdir -p $6/conda-meta\nexit {int(fails)}\n")
    result = make(prefix, capsys, environment=secret_environment(prefix / "uv"))
    assert bool(result.get("failed")) == fails
    assert f"https://me:hush-hush@pypi.example.org t0ken {prefix}/uv" in (prefix / "told").read_text()
    assert "hush-hush" not in str(result) + str(logged)
    assert "t0ken" not in str(result) + str(logged)
    assert not fails or str(prefix / "uv") in result["msg"]


# --- the installation

INSTALLER = """#!/bin/sh
echo "$@" >> @LOG@
prefix=$4
[ ! -e @LOG@.broken ] || { touch "$prefix/half"; exit 1; }
mkdir -p "$prefix/bin" "$prefix/conda-meta"
chmod 700 "$prefix"
cat > "$prefix/bin/conda" <<'E'
@CONDA@E
chmod +x "$prefix/bin/conda"
"""


@pytest.fixture
def installer(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "Miniforge3.sh"
    path.write_text(INSTALLER.replace("@LOG@", str(tmp_path / "log")).replace("@CONDA@", FAKE_CONDA))
    return path


def install(installer: pathlib.Path, capsys: Capture, check: bool = False, **more: Any) -> dict[str, Any]:
    arguments = {
        "prefix": str(installer.parent / "conda"),
        "version": "26.3.2-3",
        "url": installer.as_uri(),
        "checksum": "sha256:" + hashlib.sha256(installer.read_bytes()).hexdigest(),
    } | more
    return run(installation, capsys, check, **arguments)


def test_install_once(installer: pathlib.Path, capsys: Capture) -> None:
    prefix = installer.parent / "conda"
    assert install(installer, capsys, check=True)["changed"]
    assert not prefix.exists()
    old = os.umask(0o077)
    try:
        assert install(installer, capsys)["action"] == "installed"
    finally:
        os.umask(old)
    assert stat.S_IMODE(prefix.stat().st_mode) == 0o755
    assert not (prefix / ".installing").exists()
    assert not install(installer, capsys)["changed"]
    assert len((installer.parent / "log").read_text().splitlines()) == 1


def test_an_installation_waits_for_the_one_in_the_background(
    installer: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        assert install(installer, capsys)["action"] == "installed"

    monkeypatch.setattr(installation.fcntl, "flock", flock)
    assert install(installer, capsys, lock=str(tmp_path / "lock"))["action"] == "none"


def test_another_version_upgrades_in_place(installer: pathlib.Path, capsys: Capture) -> None:
    install(installer, capsys)
    (installer.parent / "conda/envs/e").mkdir(parents=True)
    assert install(installer, capsys, version="26.4.0-0")["action"] == "upgraded"
    assert (installer.parent / "conda/envs/e").exists()


def test_a_working_one_is_adopted_and_opened_to_everyone(installer: pathlib.Path, capsys: Capture) -> None:
    conda = installer.parent / "conda/bin/conda"
    conda.parent.mkdir(parents=True)
    (installer.parent / "conda/pkgs").mkdir()
    conda.write_text(FAKE_CONDA)
    conda.chmod(0o700)
    conda.parent.chmod(0o700)
    assert install(installer, capsys, version="26.1.0-0")["action"] == "adopted"
    assert stat.S_IMODE(conda.stat().st_mode) == stat.S_IMODE(conda.parent.stat().st_mode) == 0o755
    assert not install(installer, capsys, version="26.1.0-0")["changed"]
    assert not (installer.parent / "log").exists()


def adoptable(installer: pathlib.Path) -> pathlib.Path:
    """Folder of the programs of a conda that somebody else installed."""
    programs = installer.parent / "conda/bin"
    programs.mkdir(parents=True)
    (installer.parent / "conda/pkgs").mkdir()
    (programs / "conda").write_text(FAKE_CONDA)
    (programs / "conda").chmod(0o755)
    return programs


def test_one_that_knows_its_version_and_nothing_else_is_not_adopted(installer: pathlib.Path, capsys: Capture) -> None:
    broken = adoptable(installer) / "no-frozendict"
    broken.touch()
    result = install(installer, capsys, version="26.1.0-0")
    assert result["failed"]  # the installer here mends nothing
    assert "left a conda that does not work" in result["msg"]
    assert "No module named 'frozendict'" in result["msg"]
    broken.unlink()
    assert install(installer, capsys, version="26.1.0-0")["action"] == "installed"
    assert len((installer.parent / "log").read_text().splitlines()) == 2


def test_one_that_only_refuses_its_settings_is_adopted(installer: pathlib.Path, capsys: Capture) -> None:
    """Otherwise an older release would be installed over it, for one file."""
    (adoptable(installer) / "bad-condarc").touch()
    assert install(installer, capsys, version="26.1.0-0")["action"] == "adopted"


@pytest.mark.parametrize("ending", ["?token=1", "/download", ""])
def test_the_installer_runs_under_a_name_that_it_accepts(installer: pathlib.Path, capsys: Capture, ending: str) -> None:
    """The real one: "please run using bash/dash/sh", by a name that ends in .sh."""
    refusing = installer.read_text().replace("prefix=", "case $0 in *.sh) ;; *) exit 1 ;; esac\nprefix=", 1)
    source = installer.parent / ("other" + ending.replace("/", "-"))
    source.write_text(refusing)
    checksum = "sha256:" + hashlib.sha256(refusing.encode()).hexdigest()
    assert install(installer, capsys, url=source.as_uri(), checksum=checksum)["action"] == "installed"


def hand_over(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a file to another account."""
    if os.geteuid() == 0:
        os.chown(path, 4242, 4242, follow_symlinks=False)
    else:
        owner = installation.writer
        monkeypatch.setattr(installation, "writer", lambda p: "belongs to" if p == str(path) else owner(p))


OTHERS = ["", "bin", "bin/conda", "lib/python3.12/site-packages", "lib/python3.12/os.py", "pkgs/a-1/a.py"]


@pytest.mark.parametrize("whose", ["another's", "everybody's"])
@pytest.mark.parametrize("where", [*OTHERS, "parent", "target"])
def test_what_others_can_write_is_not_run(
    installer: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, where: str, whose: str
) -> None:
    """Nor adopted: named, with what to type."""
    programs = adoptable(installer)
    prefix = programs.parent
    (programs / "calls").touch()
    for path in OTHERS[3:]:
        (prefix / path).parent.mkdir(parents=True, exist_ok=True)
        (prefix / path).touch()
    (installer.parent / "python").write_text("")
    (programs / "python").symlink_to(installer.parent / "python")
    weak = {"parent": prefix.parent, "target": installer.parent / "python"}.get(where, prefix / where)
    weak = weak.resolve()
    if whose == "another's":
        hand_over(weak, monkeypatch)
    else:
        weak.chmod(weak.stat().st_mode | 0o002)
    for check in (True, False):
        result = install(installer, capsys, version="26.1.0-0", check=check)
        assert result["failed"]
        assert result["msg"].startswith(f"{weak} " + ("belongs to" if whose == "another's" else "can be written by"))
        assert f"chown {'root' if where in ('parent', 'target') else '-hR root'}:root" in result["msg"]
    assert (programs / "calls").read_text() == ""
    assert not (prefix / ".ansible-conda").exists()
    # those that are looked at before each run, without a walk through all of it
    looked_at = where not in ("lib/python3.12/os.py", "pkgs/a-1/a.py")
    assert bool(install(installer, capsys, state="checked").get("failed")) == looked_at


def test_users_own_environments_do_not_hinder_and_stay_as_they_are(
    installer: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = adoptable(installer).parent / "envs/theirs/secret"
    secret.parent.mkdir(parents=True)
    secret.touch(0o600)
    hand_over(secret.parent, monkeypatch)
    assert install(installer, capsys, version="26.1.0-0")["action"] == "adopted"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_failed_new_one_is_removed(installer: pathlib.Path, capsys: Capture) -> None:
    (installer.parent / "log.broken").touch()
    assert "failed with status 1" in install(installer, capsys)["msg"]
    assert not (installer.parent / "conda").exists()


def test_an_interrupted_one_starts_afresh(installer: pathlib.Path, capsys: Capture) -> None:
    prefix = installer.parent / "conda"
    (prefix / ".installing").mkdir(parents=True)
    (prefix / ".installing/new").touch()
    (prefix / "half").touch()
    assert install(installer, capsys)["action"] == "installed"
    assert not (prefix / "half").exists()


def test_a_finished_one_is_not_taken_for_an_interrupted_one(installer: pathlib.Path, capsys: Capture) -> None:
    install(installer, capsys)
    for path in (".installing", "envs/e"):
        (installer.parent / "conda" / path).mkdir(parents=True)
    (installer.parent / "conda/.installing/new").touch()
    assert install(installer, capsys, version="26.4.0-0")["changed"]
    assert (installer.parent / "conda/envs/e").exists()


def test_a_failed_upgrade_is_not_taken_for_a_working_conda(installer: pathlib.Path, capsys: Capture) -> None:
    conda = installer.parent / "conda/bin/conda"
    conda.parent.mkdir(parents=True)
    (installer.parent / "conda/pkgs").mkdir()
    conda.write_text(FAKE_CONDA)
    conda.chmod(0o755)
    (installer.parent / "log.broken").touch()
    assert install(installer, capsys, version="27.1.0-0")["failed"]
    (installer.parent / "log.broken").unlink()
    assert install(installer, capsys, version="26.1.0-0")["action"] == "installed"


def test_an_upgrade_that_a_power_cut_ended_uses_nothing_of_it(installer: pathlib.Path, capsys: Capture) -> None:
    install(installer, capsys)
    cache = installer.parent / "conda/pkgs"
    for name in ("old-1", "new-1"):
        (cache / name).mkdir(parents=True)
    (cache.parent / ".installing").mkdir()
    (cache.parent / ".installing/kept").write_text('["old-1"]')
    assert install(installer, capsys, version="26.4.0-0")["changed"]
    assert os.listdir(cache) == ["old-1"]


def test_an_installation_is_on_disk_before_its_marker(
    installer: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = installer.parent / "conda"
    steps = []
    monkeypatch.setattr(installation, "write_through", lambda path: steps.append((path, (prefix / "bin").exists())))
    durably = installation.write_durably
    monkeypatch.setattr(installation, "write_durably", lambda path, _: (steps.append(path), durably(path, _)))
    assert install(installer, capsys)["action"] == "installed"
    assert steps == [
        f"{prefix}/.installing/new",
        f"{prefix}/.installing/kept",
        (str(prefix), False),
        (str(prefix), True),
        f"{prefix}/.ansible-conda",
    ]


def test_a_wrong_checksum_leaves_nothing_and_names_both(installer: pathlib.Path, capsys: Capture) -> None:
    wrong = "0" * 64
    message = install(installer, capsys, checksum=f"sha256:{wrong}")["msg"]
    assert wrong in message
    assert hashlib.sha256(installer.read_bytes()).hexdigest() in message
    assert not (installer.parent / "conda").exists()
    assert not (installer.parent / "log").exists()


def test_only_what_the_role_made_is_uninstalled(installer: pathlib.Path, capsys: Capture) -> None:
    prefix = installer.parent / "conda"
    assert not install(installer, capsys, state="absent")["changed"]
    install(installer, capsys)
    assert install(installer, capsys, state="absent", check=True)["changed"]
    assert prefix.exists()
    assert install(installer, capsys, state="absent")["action"] == "removed"
    assert not prefix.exists()
    (prefix / "pkgs").mkdir(parents=True)
    assert "not made by this role" in install(installer, capsys, state="absent")["msg"]
    assert install(installer, capsys)["action"] == "installed"
    assert "not made by this role" in install(installer, capsys, state="absent")["msg"]


def test_somebody_elses_folder_is_not_touched(installer: pathlib.Path, capsys: Capture) -> None:
    (installer.parent / "conda").mkdir()
    (installer.parent / "conda/thesis.tex").touch()
    assert "holds something else than conda (thesis.tex)" in install(installer, capsys)["msg"]


IPV4, IPV6 = (socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")


@pytest.mark.parametrize(
    ("addresses", "routed", "proxy", "refused"),
    [
        ([IPV4], [socket.AF_INET6], "", True),
        ([IPV4], [socket.AF_INET6], "http://proxy.example.org:3128", False),
        ([IPV4], [socket.AF_INET], "", False),
        ([IPV4, IPV6], [socket.AF_INET6], "", False),  # or DNS64 made it so
        ([], [socket.AF_INET6], "", False),
    ],
)
def test_a_server_without_ipv4_is_told_before_anything_changes(
    installer: pathlib.Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    addresses: list[tuple[int, str]],
    routed: list[int],
    proxy: str,
    refused: bool,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if proxy:
        monkeypatch.setenv("https_proxy", proxy)
    found = [(family, 0, 0, "", (address, 0)) for family, address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(installation, "routed", lambda family, _: family in routed)
    result = install(installer, capsys, check=True, url="https://github.com/Miniforge3.sh")
    assert bool(result.get("failed")) == refused
    if refused:
        assert "github.com has IPv4 addresses only" in result["msg"]
        assert "conda_download_from: controller" in result["msg"]
    assert not (installer.parent / "conda").exists()


def test_a_way_is_known_without_sending_anything() -> None:
    assert installation.routed(socket.AF_INET, "127.0.0.1")
    assert not installation.routed(socket.AF_INET, "not an address")


def test_no_space(installer: pathlib.Path, capsys: Capture) -> None:
    assert "conda_free_space" in install(installer, capsys, free_space=1 << 40)["msg"]


def test_a_partial_download_is_continued(installer: pathlib.Path, capsys: Capture) -> None:
    data = installer.read_bytes()
    ranges = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ranges.append(self.headers["Range"])
            begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.end_headers()
            self.wfile.write(data[begin:])

        def log_message(self, *_: object) -> None:
            pass

    work = installer.parent / "conda/.installing"
    work.mkdir(parents=True)
    (work / "new").touch()
    (work / f"installer-{hashlib.sha256(data).hexdigest()[:12]}.sh").write_bytes(data[:50])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/Miniforge3.sh"
        assert install(installer, capsys, url=url)["action"] == "installed"
    finally:
        server.shutdown()
        server.server_close()
    assert ranges == ["bytes=50-"]


@pytest.mark.parametrize(("version", "numbers"), [("26.3.2-3", (26, 3, 2)), ("24.7.1", (24, 7, 1))])
def test_releases_compare_as_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert installation.release(version) == numbers
