"""Which values the role refuses, and what it says of them: no container."""

import importlib.util
import pathlib
from typing import Any

import pytest
import yaml

ROLE = pathlib.Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("faults", ROLE / "filter_plugins/mlflow_server_faults.py")
assert spec and spec.loader
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)

LOCK = (ROLE / "files/requirements.txt").read_text()
TASKS = yaml.safe_load((ROLE / "tasks/preflight.yml").read_text())
(TASK,) = (task for task in TASKS if task["name"] == "Refuse values that the server could not start with")
NAMES = TASK["vars"]["__mlflow_server_given"]
DEFAULTS = yaml.safe_load((ROLE / "defaults/main.yml").read_text())


def found(lock: str = LOCK, sqlite: str = "", **given: Any) -> list[str]:
    values = {name: DEFAULTS[name] for name in NAMES} | {f"mlflow_server_{name}": given[name] for name in given}
    messages: list[str] = faults.mlflow_server_faults(values, sqlite=sqlite, lock=lock)
    return messages


def test_the_defaults_are_good_and_each_name_is_its_variables() -> None:
    assert found() == []
    assert all(value == f"{{{{ {name} }}}}" for name, value in NAMES.items())
    assert set(NAMES) == set(faults.WANTED)


GOOD: dict[str, list[Any]] = {
    "user": ["mlflow", "_m-1"],
    "port": [1024, "65535"],
    "workers": [1, "4"],
    "backend": ["sqlite", "postgresql", "postgres://u:p%40@h:5432/m", "mysql+pymysql://h/m", "mssql://h/m"],
    "s3": [
        {}, {"bucket": "models/a"}, {"bucket": "models", "endpoint": "http://h:1", "region": "eu", "access_key": "a",
                                     "secret_key": "b"},
    ],
    "artifacts_destination": ["/data/mlflow/artifacts", "/srv/my-mlflow", "gs://bucket/folder"],
    "memory_max": ["2G", "50%", "1.5%", "infinity", 1000],
    "groups": [["users", "rooty"]],
    "ip_allow": [["any", "10.0.0.0/8", "fe80::1"]],
    "gc_older_than": ["", "30d", "1d12h5m"],
    "allowed_hosts": [["a.example", "*.b", "10.0.0.1"]],
    "settings": [{"A_1": "b c", "B": 5, "MLFLOW_ARTIFACT_ROOT": "mlflow-artifacts:/"}],
    "extra_options": [["--expose-prometheus", "/x", "--hosts"]],
    "environment": [{"HTTPS_PROXY": "http://proxy"}],
}  # fmt: skip
BAD: dict[str, list[Any]] = {
    "user": ["root", "Ana", "a" * 33, ""],
    "port": [1023, 65536, "x", None, float("inf")],
    "workers": [0, "", "many", "1e999"],
    "backend": ["postgres", "http://h/m", "postgresql://a b", "sqlite:", "sqlite:///relative.db"],
    "s3": [
        {"bucket": "mo"}, {"endpoint": "http://h"}, {"bucket": "models", "endpoint": "h:1"},
        {"bucket": "models", "endpoint": "http://h/path"}, {"bucket": "models", "access_key": "a"},
        {"bucket": "models", "regin": "eu"}, {"bucket": "models", "region": ""}, {"bucket": "models", "region": "a b"},
    ],
    "artifacts_destination": ["/data", "/tmp/mlflow", "/home/mlflow/x", "/data/mlflow/../../etc", "mlflow", "s3://a b"],
    "memory_max": ["2GB", "1.5G", ""],
    "groups": [["users", "root"], ["Users"]],
    "ip_allow": [["proxy.example"], ["10.0.0.0/x"]],
    "gc_older_than": ["d", "12h1d", 30],
    "allowed_hosts": [["http://a"], ["a:1"], [""]],
    "settings": [
        {"A B": "c"}, {"A": "b\nc"}, {"A": "mlflow-artifacts://h/"}, {"MLFLOW_BACKEND_STORE_URI": "x"},
        {"MLFLOW_TRACKING_USERNAME": "x"}, {"AWS_SECRET_ACCESS_KEY": "x"},
    ],
    "extra_options": [
        ["--port", "1"], ["--host=0.0.0.0"], ["--static-prefix=/m"], ["--uvicorn-opts", "x"], ["--dev"], ["a\nb"],
        ["--default-artifact-root=mlflow-artifacts://h:1/"],
    ],
    "environment": [{"HTTPS PROXY": "x"}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in GOOD for value in GOOD[name]])
def test_good_values_pass(name: str, value: Any) -> None:
    assert found(**{name: value}) == []


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_bad_values_are_refused_by_their_name(name: str, value: Any) -> None:
    (message,) = found(**{name: value})
    assert message.startswith(f"mlflow_server_{name} is ") and message.partition(": give ")[2]


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("/data/mlflow/mlflow.db", True), ("/srv/my-mlflow/x/a.db", True), ("/data/mlflow.db", False),
        ("/home/mlflow/a.db", False), ("/data/mlflow/../a.db", False), ("", False),
    ],
)  # fmt: skip
def test_a_sqlite_file_lies_in_a_folder_of_its_own(path: str, good: bool) -> None:
    assert (found(backend=f"sqlite:///{path}", sqlite=path) == []) == good


@pytest.mark.parametrize(
    "lock", ["", "mlflow==3\nuv==1\n", "mlflow==3 --hash=a\n", "uv==1 --hash=a\nmlflow-skinny==3\n"]
)
def test_a_lock_pins_mlflow_and_uv_with_hashes(lock: str) -> None:
    (message,) = found(lock)
    assert message.endswith(": give a lock made by uv pip compile --universal --python-version 3.11 --generate-hashes"
                            " that pins mlflow and uv")  # fmt: skip
    assert found("mlflow[auth]==3 \\\n    --hash=sha256:a\nuv==1\n") == []


def test_all_faults_are_said_and_no_secret() -> None:
    store = {"bucket": "models", "secret_key": "hidden"}
    said = found(
        port=80, backend="ftp://ana:hidden@h/m", s3=store, settings={"AWS_SECRET_ACCESS_KEY": "hidden"}, environment={}
    )
    assert [message.partition(": give")[0] for message in said] == [
        "mlflow_server_port is 80", 'mlflow_server_backend is "ftp://...@h/m"',
        'mlflow_server_s3 is ["bucket", "secret_key"]', 'mlflow_server_settings is ["AWS_SECRET_ACCESS_KEY"]',
    ]  # fmt: skip
    assert "hidden" not in str(said)


def test_a_password_with_an_at_sign_is_not_said() -> None:
    [message] = found(backend="oracle://u:s3cr@t@h/db")
    assert "://...@h/db" in message and "t@h" not in message and "s3cr" not in message
