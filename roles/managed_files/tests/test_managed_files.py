"""The module and its action plugin: no container; what needs Ansible runs on this machine."""

import base64
import importlib.util
import json
import os
import pathlib
import re
import stat
import subprocess
import zlib
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

Capture = pytest.CaptureFixture[str]
ROLE = pathlib.Path(__file__).parents[1]

spec = importlib.util.spec_from_file_location("managed_files", ROLE / "library/managed_files.py")
assert spec and spec.loader
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


def call(capsys: Capture, *files: dict[str, Any], check: bool = False, diff: bool = False, **more: Any) -> Any:
    """Result of a call as the action plugin makes it; the contents are taken out and packed."""
    texts = {
        place: base64.b64encode(entry["content"].encode()).decode()
        for place, entry in enumerate(files)
        if "content" in entry
    }
    arguments = {
        "files": [{name: entry[name] for name in entry if name != "content"} for entry in files],
        "packed": base64.b64encode(zlib.compress(json.dumps(texts).encode())).decode(),
        "_ansible_check_mode": check,
        "_ansible_diff": diff,
        "_ansible_remote_tmp": "/tmp",
    }
    mask = os.umask(0o022)
    try:
        with patch_module_args(arguments | more), pytest.raises(SystemExit):
            module.main()
    finally:
        # a process may run other modules after it
        assert os.umask(mask) == 0o022
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_list_is_written_once_and_found_right_the_second_time(tmp_path: pathlib.Path, capsys: Capture) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/inner").write_text("x")
    files: list[dict[str, Any]] = [
        {"path": f"{tmp_path}/a/b", "state": "directory"},
        {"path": f"{tmp_path}/a/b/secret", "content": "s", "mode": "0600"},
        {"path": f"{tmp_path}/a/plain", "content": "p\n"},
        {"path": f"{tmp_path}/a/link", "state": "link", "target": "plain"},
        {"path": f"{tmp_path}/old", "state": "absent"},
    ]
    result = call(capsys, *files)
    assert result["changed"] and result["paths"] == [entry["path"] for entry in files], result
    assert (tmp_path / "a/plain").read_text() == "p\n" and (tmp_path / "a/link").readlink() == pathlib.Path("plain")
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/secret", "a/plain")] == [0o755, 0o755, 0o600, 0o644]
    assert not (tmp_path / "old").exists()
    result = call(capsys, *files)
    assert not result["changed"] and result["paths"] == [], result


def test_only_what_differs_is_reported(tmp_path: pathlib.Path, capsys: Capture) -> None:
    files = [{"path": f"{tmp_path}/{name}", "content": name} for name in "abc"]
    call(capsys, *files)
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "b").write_text("other")
    files.append({"path": f"{tmp_path}/link", "state": "link", "target": "c"})
    (tmp_path / "link").symlink_to("a")
    expected = [f"{tmp_path}/a", f"{tmp_path}/b", f"{tmp_path}/link"]
    assert call(capsys, *files, check=True)["paths"] == expected
    assert (mode(tmp_path / "a"), (tmp_path / "b").read_text()) == (0o600, "other")
    assert call(capsys, *files)["paths"] == expected
    assert (mode(tmp_path / "a"), (tmp_path / "b").read_text()) == (0o644, "b")
    assert (tmp_path / "link").readlink() == pathlib.Path("c")


def test_check_mode_changes_nothing_and_asks_for_no_folder(tmp_path: pathlib.Path, capsys: Capture) -> None:
    result = call(
        capsys,
        {"path": f"{tmp_path}/new/below", "state": "directory"},
        {"path": f"{tmp_path}/new/below/file", "content": "x", "owner": "nobody-yet", "validate": "false %s"},
        {"path": f"{tmp_path}/new/link", "state": "link", "target": "/nowhere"},
        check=True,
    )
    assert result["changed"] and len(result["paths"]) == 3, result
    assert list(tmp_path.iterdir()) == []
    file = {"path": f"{tmp_path}/other/file", "content": "x"}
    assert call(capsys, file, check=True)["paths"] == [f"{tmp_path}/other/file"]
    assert f"its folder {tmp_path}/other is not there" in call(capsys, file)["msg"]


def test_a_failed_check_names_the_file_and_keeps_the_old_one(tmp_path: pathlib.Path, capsys: Capture) -> None:
    for name in "abc":
        (tmp_path / name).write_text("old")
    # systemd-analyze takes no other name than the unit's own
    check = 'case $0 in */[abc]) ;; *) exit 3 ;; esac; grep -q good "$0" || { echo "no good: $0" >&2; exit 1; }'
    validate = f"sh -c '{check}' %s"
    result = call(
        capsys,
        {"path": f"{tmp_path}/a", "content": "good", "validate": validate},
        {"path": f"{tmp_path}/b", "content": "bad", "validate": validate},
        {"path": f"{tmp_path}/c", "content": "good"},
    )
    assert result["failed"] and result["paths"] == [f"{tmp_path}/a"]
    assert f"{tmp_path}/b: its check failed and the old file stays: no good: {tmp_path}/b" in result["msg"]
    assert f"Written before it: {tmp_path}/a" in result["msg"]
    assert [(tmp_path / name).read_text() for name in "abc"] == ["good", "old", "old"]
    # nothing beside them
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_leaves_the_old_file(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old")

    def full(self: Any, new: str, path: str, **options: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.AnsibleModule, "atomic_move", full)
    result = call(capsys, {"path": f"{tmp_path}/a", "content": "new"})
    assert "No space left" in result["msg"] and (tmp_path / "a").read_text() == "old"


def test_a_secret_never_has_the_old_files_mode(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o644)
    move, modes = module.AnsibleModule.atomic_move, []

    def watched(self: Any, new: str, path: str, **options: bool) -> None:
        modes.append(mode(pathlib.Path(new)))
        move(self, new, path, **options)
        modes.append(mode(tmp_path / "a"))

    monkeypatch.setattr(module.AnsibleModule, "atomic_move", watched)
    assert call(capsys, {"path": f"{tmp_path}/a", "content": "secret", "mode": "0600"})["changed"]
    assert modes == [0o600, 0o600]


def test_a_mode_that_yaml_has_read_as_a_number_is_refused(tmp_path: pathlib.Path, capsys: Capture) -> None:
    """Unquoted, 0644 is the number 420."""
    said = call(capsys, {"path": f"{tmp_path}/a", "content": "new", "mode": 0o644})["msg"]
    assert "mode 420 is not octal" in said and not (tmp_path / "a").exists()


def test_a_link_in_place_of_a_file_is_replaced(tmp_path: pathlib.Path, capsys: Capture) -> None:
    (tmp_path / "theirs").write_text("same")
    (tmp_path / "a").symlink_to("theirs")
    assert call(capsys, {"path": f"{tmp_path}/a", "content": "same"})["changed"]
    assert not (tmp_path / "a").is_symlink() and (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"state": "file", "content": ""}, "it is a folder, not a file: move it away"),
        ({"state": "link", "target": "."}, "it is not a link but a directory"),
        ({"state": "link", "target": "nowhere", "path": "link"}, "it would lead to nowhere, which is not there"),
        ({"state": "directory", "path": "there"}, "it is not a folder but a file: move it away"),
        ({"state": "file", "content": "", "path": "pipe"}, "it is not a file: remove it"),
    ],
)
def test_something_else_in_its_place_is_refused(
    entry: dict[str, Any], said: str, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").write_text("")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    result = call(capsys, entry | {"path": f"{tmp_path}/{entry.get('path', 'folder')}"})
    assert result["failed"] and said in result["msg"], result
    assert sorted(tmp_path.iterdir()) == before


def test_a_bad_list_is_refused_before_anything_is_written(tmp_path: pathlib.Path, capsys: Capture) -> None:
    for entry in (
        {"path": "relative", "content": ""},
        {"path": "/x", "state": "link"},
        {"path": "/x"},
        {"path": "/x", "content": "", "validate": "true"},
    ):
        result = call(capsys, {"path": f"{tmp_path}/first", "content": "x"}, entry)
        assert "Nothing was changed" in result["msg"] and list(tmp_path.iterdir()) == []


def test_a_diff_shows_text_and_attributes(tmp_path: pathlib.Path, capsys: Capture) -> None:
    (tmp_path / "a").write_text("old\n")
    (tmp_path / "b").write_text("b")
    (tmp_path / "b").chmod(0o600)
    files = [{"path": f"{tmp_path}/a", "content": "new\n"}, {"path": f"{tmp_path}/b", "content": "b"}]
    text, attributes = call(capsys, *files, check=True, diff=True)["diff"]
    assert (text["before"], text["after"], text["after_header"]) == ("old\n", "new\n", f"{tmp_path}/a")
    assert (attributes["before"]["mode"], attributes["after"]["mode"]) == ("0600", "0644")


def test_nothing_says_what_is_in_a_file(tmp_path: pathlib.Path, capsys: Capture) -> None:
    result = call(capsys, {"path": f"{tmp_path}/a", "content": "secret-token"})
    assert result["invocation"]["module_args"]["packed"] == "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
    assert "secret-token" not in json.dumps(result)


# --- with its action plugin


def play(folder: pathlib.Path, tasks: list[dict[str, Any]], *more: str, **variables: Any) -> str:
    """What Ansible says of tasks of a role that depends on this one."""
    role = folder / "roles/example"
    for part in ("tasks", "meta", "templates", "files"):
        (role / part).mkdir(parents=True, exist_ok=True)
    (role / "tasks/main.yml").write_text(yaml.safe_dump(tasks))
    (role / "meta/main.yml").write_text("dependencies: [managed_files]\n")
    content = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "roles": ["example"],
            "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"} | variables,
        }
    ]
    (folder / "play.yml").write_text(yaml.safe_dump(content))
    given = {"ANSIBLE_ROLES_PATH": f"{folder}/roles:{ROLE.parent}", "ANSIBLE_STDOUT_CALLBACK": "default"}
    given |= {"ANSIBLE_CONFIG": f"{ROLE.parents[1]}/ansible.cfg", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "play.yml", *more],
        capture_output=True, cwd=folder, text=True, env=os.environ | given, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


TEMPLATE = """# {{ ansible_managed }}
{# a comment #}
{% include 'part.j2' %}
{% for name in names %}
  {{ name }}: {{ greeting }} ä
{% endfor %}
{{ template_path | basename }}

"""


def test_a_template_is_rendered_as_ansibles_own(tmp_path: pathlib.Path) -> None:
    templates = tmp_path / "roles/example/templates"
    templates.mkdir(parents=True)
    (templates / "text.j2").write_text(TEMPLATE)
    (templates / "part.j2").write_text("part of {{ greeting }}\n")
    (templates / "data.j2").write_text("{{ {'b': 1, 'a': [names, true]} | to_nice_json }}\n")
    (templates / "bare.j2").write_text("{{ 7 }}")
    (tmp_path / "roles/example/files").mkdir()
    (tmp_path / "roles/example/files/raw").write_bytes(b"\x00\xff{{ greeting }}")
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    names = ["text", "data", "bare"]
    entries: list[dict[str, Any]] = [{"path": f"{tmp_path}/ours/{name}", "template": f"{name}.j2"} for name in names]
    entries[0] |= {"vars": {"greeting": "hello"}}
    entries.append({"path": f"{tmp_path}/ours/raw", "src": "raw"})
    (tmp_path / "roles/example/files/tree/below").mkdir(parents=True)
    (tmp_path / "roles/example/files/tree/top").write_text("top")
    (tmp_path / "roles/example/files/tree/below/leaf").write_text("leaf")
    entries.append({"path": f"{tmp_path}/ours/none", "template": "none.j2", "state": "absent"})
    entries.append({"path": f"{tmp_path}/ours/tree", "src": "tree", "mode": "0600"})
    entries.append({"path": f"{tmp_path}/ours/given", "content": "{{ names | join }}"})
    (templates / "person.j2").write_text("{{ item.name }} {{ upper }} {{ item.token }}\n")
    each = "people | files_for_each(path=folder ~ '/{name}', template='person.j2')"
    each += " + names | files_for_each(path=folder ~ '/{}-alone', content='{}')"
    everybody: dict[str, Any] = {"name": "For each", "managed_files": {"files": "{{ " + each + " }}"}}
    everybody["vars"] = {
        "folder": f"{tmp_path}/ours",
        "people": [{"name": name, "token": "{token} %s {{ 'x' }}"} for name in ("ana", "eva")],
        "upper": "{{ item.name | upper }}",
    }
    tasks: list[dict[str, Any]] = [
        {"name": "Ours", "managed_files": {"files": entries}, "register": "written"},
        everybody,
        {"name": "Say it", "ansible.builtin.debug": {"msg": "{{ written.paths | map('basename') | join(' ') }}"}},
    ]
    for name in names:
        module_args = {"src": f"{name}.j2", "dest": f"{tmp_path}/theirs/{name}", "mode": "0644"}
        tasks.append({"ansible.builtin.template": module_args, "vars": {"greeting": "hello"}})
    said = play(tmp_path, tasks, names=["ana", "eva"])
    assert "text data bare raw tree top below leaf given" in said, said
    assert (tmp_path / "ours/tree/below/leaf").read_text() == "leaf"
    assert (mode(tmp_path / "ours/tree/below"), mode(tmp_path / "ours/tree/below/leaf")) == (0o755, 0o600)
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name
    assert "hello ä" in (tmp_path / "ours/text").read_text(encoding="utf-8")
    assert (tmp_path / "ours/raw").read_bytes() == b"\x00\xff{{ greeting }}"
    assert (tmp_path / "ours/given").read_text() == "anaeva"
    # braces in an item's value are not filled again
    assert (tmp_path / "ours/eva").read_text() == "eva EVA {token} %s x\n"
    assert (tmp_path / "ours/ana-alone").read_text() == "ana"


def test_a_secret_is_not_shown_and_a_diff_is(tmp_path: pathlib.Path) -> None:
    tasks = [
        {"managed_files": {"files": [{"path": f"{tmp_path}/{name}", "content": f"{name}-text\n"}]}, "no_log": hidden}
        for name, hidden in (("secret", True), ("plain", False))
    ]
    said = play(tmp_path, tasks, "--diff", "-vvv")
    assert "+plain-text" in said and "secret-text" not in said, said
    assert (tmp_path / "secret").read_text() == "secret-text\n"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"path": "/x", "template": "missing.j2"}, "missing.j2"),
    ({"path": "/x", "content": "{{ nowhere }}"}, "''nowhere'' is undefined"),
    ({"path": "/x", "template": "undefined.j2"}, "/x, template undefined.j2: ''anywhere'' is undefined"),
    ({"path": "/x", "src": "a", "content": "b"}, "/x has src and content"),
    ({"path": "/x", "state": "directory", "content": "b"}, "/x has content"),
    ({"path": "/x"}, "/x has neither"),
    ({"paht": "/x"}, "each have a path"),
    ({"path": "/x", "content": "", "onwer": "root"}, "onwer"),
]


def test_a_wrong_entry_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "roles/example/templates").mkdir(parents=True)
    (tmp_path / "roles/example/templates/undefined.j2").write_text("{{ anywhere }}")
    tasks = [{"managed_files": {"files": [entry]}, "ignore_errors": True} for entry, _ in WRONG]
    output = play(tmp_path, tasks)
    assert f"ignored={len(WRONG)}" in output, output
    said = re.findall(r"fatal: .*?(?=TASK|PLAY RECAP)", output, re.S)
    for (entry, expected), answer in zip(WRONG, said, strict=True):
        assert expected in " ".join(answer.split()), f"{entry}: {answer}"
