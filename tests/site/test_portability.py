"""A model that Debian 12's Python trained is served by Debian 13's, with other versions and no Surprise.

Beside it the usual way, a pickle of the same trained algorithm, and what becomes of that on the other system.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator

import pytest
from conftest import ROOT

# The minor version before that of the lock, which trains. Skinny is MLflow without server and database.
OTHER = {"mlflow-skinny": "3.16.1", "numpy": "2.3.5", "pandas": "2.3.3"}
CONFIGURATIONS = ("default", "knn")

TRAIN = """
import json, pathlib, random, sys
import mlflow, pandas
from recommender import config, train
from recommender.algorithms import dump

# As in a notebook: the class is one of __main__, which cloudpickle keeps by value.
class Pickled(mlflow.pyfunc.PythonModel):
    def __init__(self, algo):
        self.algo = algo
    def predict(self, context, model_input, params=None):
        return [self.algo.predict(user, item).est for user, item in zip(model_input.user, model_input.item)]

for name in sys.argv[1:]:
    settings = config.load(pathlib.Path("conf", f"{name}.yaml"), {"evaluation.folds": 2})
    model = train.train(settings, "sqlite:////tmp/mlflow.db", register=False)["model"]
    place = pathlib.Path("/models", name)
    place.mkdir(parents=True)
    mlflow.artifacts.download_artifacts(model["uri"], dst_path=place / "mlflow")
    mlflow.artifacts.download_artifacts(run_id=model["run_id"], artifact_path="native", dst_path=place)
    algo = dump.load(place / "native")
    mlflow.pyfunc.save_model(place / "pickled", python_model=Pickled(algo), pip_requirements=[])
    draw, raw = random.Random(0), algo.trainset
    ratings = list(raw.all_ratings())
    users = [raw.to_raw_uid(draw.choice(ratings)[0]) for _ in range(3000)] + ["stranger", "1", "stranger"]
    items = [raw.to_raw_iid(draw.choice(ratings)[1]) for _ in range(3000)] + ["318", "unheard-of", "unheard-of"]
    estimates = [algo.predict(user, item).est for user, item in zip(users, items)]
    lists = mlflow.pyfunc.load_model(place / "mlflow").predict(pandas.DataFrame({"user": users[:20] + ["stranger"]}))
    answers = {"users": users, "items": items, "estimates": estimates, "listed": lists.item.tolist()}
    (place / "answers.json").write_text(json.dumps(answers))
"""
# Each prints the largest distance to what Surprise itself estimated where it was trained.
ARRAYS = """
import json, sys
unpickled = []  # every class or function that any pickle, by whatever library, asks for
sys.addaudithook(lambda event, about: unpickled.append(about) if event == "pickle.find_class" else None)
import mlflow, pandas
model = mlflow.pyfunc.load_model(f"/models/{sys.argv[1]}/mlflow")
asked = json.load(open(f"/models/{sys.argv[1]}/answers.json"))
pairs = model.predict(pandas.DataFrame({"user": asked["users"], "item": asked["items"]}))
lists = model.predict(pandas.DataFrame({"user": asked["users"][:20] + ["stranger"]}))
assert lists.item.tolist() == asked["listed"]
assert not unpickled, unpickled
print(max(abs(mine - theirs) for mine, theirs in zip(pairs.estimate, asked["estimates"], strict=True)))
"""
CLOUDPICKLE = """
import json, sys, mlflow, pandas
model = mlflow.pyfunc.load_model(f"/models/{sys.argv[1]}/pickled")
asked = json.load(open(f"/models/{sys.argv[1]}/answers.json"))
estimates = model.predict(pandas.DataFrame({"user": asked["users"], "item": asked["items"]}))
print(max(abs(mine - theirs) for mine, theirs in zip(estimates, asked["estimates"], strict=True)))
"""
DUMP = """
import json, pickle, sys
algo = pickle.load(open(f"/models/{sys.argv[1]}/native/surprise.dump", "rb"))["algo"]
asked = json.load(open(f"/models/{sys.argv[1]}/answers.json"))
estimates = [algo.predict(user, item).est for user, item in zip(asked["users"], asked["items"])]
print(max(abs(mine - theirs) for mine, theirs in zip(estimates, asked["estimates"], strict=True)))
"""
VERSIONS = """
import importlib.util, json, platform, mlflow, numpy, pandas
found = [platform.python_version(), mlflow.__version__, numpy.__version__, pandas.__version__]
print(json.dumps([[version.split(".")[:2] for version in found], importlib.util.find_spec("surprise") is not None]))
"""
EQUAL = "equal"
NO_SURPRISE = "ModuleNotFoundError: No module named 'surprise'"
# A class that is pickled by value carries the bytecode of 3.11, which 3.13 misreads: a segmentation fault as a rule.
DIES = "dies"


class Machine:
    """A container of a Debian release, in which uv makes virtual environments of its own Python."""

    def __init__(self, suite: str) -> None:
        image = subprocess.check_output([ROOT / "roles/cloud_server/files/local/image.sh", suite], text=True).strip()
        # Names without a value are passed on from this environment, where they are set: proxies and indexes.
        handed = ("http_proxy", "https_proxy", "no_proxy", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
        settings = ["UV_CACHE_DIR=/var/cache/uv", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "PYTHONPATH=src",
                    "MLFLOW_DISABLE_TELEMETRY=true", *(name for name in handed if name in os.environ)]  # fmt: skip
        self.name = f"portability-{suite}-{os.getpid()}"
        subprocess.run(
            ["docker", "run", "-d", "--name", self.name, "--entrypoint", "sleep", "--workdir", "/srv",
             "-v", "bare-server-uv-cache:/var/cache/uv", *(word for name in settings for word in ("-e", name)),
             image, "infinity"], check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def copy(self, source: str | pathlib.Path, target: str) -> None:
        subprocess.run(["docker", "cp", source, f"{self.name}:{target}"], check=True, stdout=subprocess.DEVNULL)

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", "exec", self.name, *command], capture_output=True, text=True)

    def run(self, *command: str) -> str:
        result = self.ask(*command)
        assert result.returncode == 0, f"{command} in {self.name}: {result.stdout}{result.stderr}"
        return result.stdout


@contextlib.contextmanager
def machine(suite: str) -> Iterator[Machine]:
    made = Machine(suite)
    try:
        made.copy(ROOT / ".venv/bin/uv", "/usr/local/bin/uv")
        yield made
    finally:
        subprocess.run(["docker", "rm", "-f", made.name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Debian 12 with the lock, and the models that it trained."""
    with machine("bookworm") as made:
        for part in ("src", "conf", "data", "requirements.txt"):
            made.copy(ROOT / "ml" / part, "/srv/")
        made.run("uv", "venv", "-q", "--python", "/usr/bin/python3", "/venv")
        made.run("uv", "pip", "sync", "-q", "--python", "/venv", "--require-hashes", "requirements.txt")
        # a file: pyspark, which MLflow imports, takes what python -c runs for a doctest of its own
        script = tmp_path_factory.mktemp("home") / "train.py"
        script.write_text(TRAIN)
        made.copy(script, "/srv/")
        made.run("/venv/bin/python", "train.py", *CONFIGURATIONS)
        yield made


@pytest.fixture(scope="module")
def elsewhere(home: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Debian 13 with other versions and those models, without the code that trained them; /surprise has Surprise."""
    folder = tmp_path_factory.mktemp("portable")
    subprocess.run(["docker", "cp", f"{home.name}:/models", folder], check=True, stdout=subprocess.DEVNULL)
    # What is not pinned here is what the lock has, so that no new release changes what is tested.
    lock = re.findall(r"^[\w.-]+==[^\\\n]+", (ROOT / "ml/requirements.txt").read_text(), re.M)
    others = {*OTHER, "mlflow", "mlflow-tracing"}
    (folder / "rest.txt").write_text("\n".join(line for line in lock if line.split("==")[0] not in others))
    pins = [f"{name}=={version}" for name, version in OTHER.items()]
    with machine("trixie") as made:
        made.copy(folder / "models", "/models")
        made.copy(folder / "rest.txt", "/srv/")
        for place, more in (("/venv", []), ("/surprise", ["scikit-surprise"])):
            made.run("uv", "venv", "-q", "--python", "/usr/bin/python3", place)
            made.run("uv", "pip", "install", "-q", "--python", place, "-c", "rest.txt", *pins, *more)
        yield made


def test_python_mlflow_numpy_and_pandas_are_other_minor_versions(home: Machine, elsewhere: Machine) -> None:
    trained, _ = json.loads(home.run("/venv/bin/python", "-c", VERSIONS))
    served, surprise = json.loads(elsewhere.run("/venv/bin/python", "-c", VERSIONS))
    assert (trained[0], served[0], surprise) == (["3", "11"], ["3", "13"], False)
    assert all(mine != theirs for mine, theirs in zip(served, trained, strict=True))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize(
    ("route", "environment", "expected"),
    [
        (ARRAYS, "/venv", EQUAL),
        (DUMP, "/venv", NO_SURPRISE),
        (CLOUDPICKLE, "/venv", NO_SURPRISE),
        (DUMP, "/surprise", EQUAL),
        (CLOUDPICKLE, "/surprise", DIES),
    ],
    ids=["arrays", "dump", "cloudpickle", "dump-with-surprise", "cloudpickle-with-surprise"],
)
def test_what_becomes_of(elsewhere: Machine, route: str, environment: str, expected: str, configuration: str) -> None:
    result = elsewhere.ask(f"{environment}/bin/python", "-c", route, configuration)
    print(result.returncode, result.stdout, result.stderr)
    if expected == EQUAL:
        assert result.returncode == 0 and float(result.stdout) < 1e-6
    else:
        assert result.returncode != 0 and result.stdout == ""
        assert expected == DIES or result.stderr.splitlines()[-1] == expected


def test_where_it_was_made_the_pickle_works(home: Machine) -> None:
    for configuration in CONFIGURATIONS:
        assert float(home.run("/venv/bin/python", "-c", CLOUDPICKLE, configuration)) < 1e-6
