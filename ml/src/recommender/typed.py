"""Commands in messages, so that they work as they are printed."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

# The job's folder.
_FOLDER = Path(__file__).resolve().parents[2]
_VERBS = "train|evaluate|tune|recommend|export|promote|check|download"
# A verb with its options, up to what ends a sentence or a line.
_OPTION = r" --?[a-z-]+(?: (?:'[^']*'|[^\s;,)]*[^\s;,).]))?"
_COMMAND = re.compile(rf"(?<![\w./-])recommender ((?:{_VERBS})(?![\w-])(?:{_OPTION})*)")


def runnable(text: str) -> str:
    """A message whose `recommender VERB …` can be typed here, whatever the folder.

    Under make that is make's own verb `run`, which sets what the job needs; else this interpreter, unless the
    command `recommender` is on the PATH.
    """
    return _COMMAND.sub(lambda found: _typed(found[1]), text)


def by_make() -> bool:
    """Whether this process is one of ml/Makefile's."""
    return (
        bool(os.environ.get("MAKELEVEL") and os.environ.get("RECOMMENDER_CONFIG"))
        and (_FOLDER / "Makefile").is_file()
    )


def _typed(words: str) -> str:
    if by_make():
        conf = "" if "--config" in words else f" CONF={shlex.quote(os.environ['RECOMMENDER_CONFIG'])}"
        return f"make -C {shlex.quote(str(_FOLDER))} run{conf} ARGS={shlex.quote(words)}"
    if shutil.which("recommender"):
        return f"recommender {words}"
    source = shlex.quote(str(Path(__file__).resolve().parents[1]))
    return f"PYTHONPATH={source} {shlex.quote(sys.executable)} -m recommender {words}"


def mlflow(*words: str) -> str:
    """A command of MLflow's for the store in use; without MLFLOW_TRACKING_URI it would make another."""
    from mlflow import get_tracking_uri

    from recommender import tracking

    uri = get_tracking_uri()
    database = tracking.local_database(uri)
    uri = f"sqlite:///{database}" if database else tracking.shown(uri)
    tell = " (with the store's password in the place of ***)" if "***" in uri else ""
    python = shlex.quote(sys.executable)
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} {python} -m mlflow {shlex.join(words)}{tell}"
