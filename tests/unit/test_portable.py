"""Programs of the control machine work on macOS: GNU make 3.81, and no options only of GNU or Debian.

The parts that make a server from Debian's packages, or start an engine, run on Linux and are not among them.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAKEFILES = ["Makefile", "ml/Makefile"]
SCRIPTS = [
    ".ci/run",
    "bin/engine.sh",
    "molecule/conda_fixture/select.sh",
    "roles/cloud_server/files/local/image.sh",
    "tests/chromium.sh",
]
# commands and options that macOS, its bash or busybox lack, or take otherwise
GNU = re.compile(
    r"""\b(?:
        xargs\ [^|]*(?:-r|-d|--no-run-if-empty)\b | sed\ (?:-\w\ )*-\w*[iz] | date\ (?:-\w*d|--)
        | realpath\  | readlink\ -\w*[fem] | (?:sha\d+|md5)sum\b | timeout\ | flock\b | nproc\b | tac\b
        | stat\ (?:-\w*c|--) | sort\ -\w*V | mktemp\ [^)]*(?:-p|-t|--) | head\ -\w*\ ?-\d | base64\ -\w*w
        | ln\ -\w*r | grep\ -\w*P | cp\ (?:-\w\ )*-\w*[tT]\b | install\ -\w*D | find\ .*-(?:printf|regextype)
        | (?:cp|mv|rm|ls|df|du|cut|tail|tr|ps|tar)\ (?:-\w+\ )*--\w | seq\ | numfmt\b
        | echo\ -[en] | mapfile\b | readarray\b | declare\ -A
    )""",
    re.X,
)
# of GNU make 3.82 and later
MAKE = re.compile(
    r"undefine\b|^\s*[\w.-]+\s*!=|::=|\.ONESHELL|\.RECIPEPREFIX|\$\((?:file|let|intcmp|guile) "
    r"|&:|^define .*=|^\s*private\b|--output-sync|--trace"
)


def lines(file: str) -> list[str]:
    """The lines of a file without its comments."""
    return [line for line in (ROOT / file).read_text().splitlines() if not line.lstrip().startswith("#")]


@pytest.mark.parametrize("file", [*MAKEFILES, *SCRIPTS])
def test_no_command_of_gnu_alone(file: str) -> None:
    assert [line for line in lines(file) if GNU.search(line)] == []


@pytest.mark.parametrize("file", MAKEFILES)
def test_no_feature_of_a_later_make(file: str) -> None:
    assert [line for line in lines(file) if MAKE.search(line)] == []


@pytest.mark.parametrize(
    "line",
    [
        "docker images -q | xargs -r docker rmi", "sed -i s/a/b/ file", "readlink -f .", 'echo "$(realpath "$out")"',
        "cat file | sha256sum | cut -c1-12", "elif timeout 120 docker pull", "date -d @0", "df --output=avail /",
        "cp --parents a b", "cp -rt b a", "grep -oP x", "mktemp -d -p /tmp", "ln -sr a b", "stat -c %a file",
    ],
)  # fmt: skip
def test_the_pattern_finds_what_it_is_for(line: str) -> None:
    assert GNU.search(line)
