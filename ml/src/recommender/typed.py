"""Complete commands in messages, so that they work exactly as printed."""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# The job's folder.
_FOLDER = Path(__file__).resolve().parents[2]
_DEFAULT = Path("conf/default.yaml")
# Verbs that take the data's flags, a parameter file, a store.
_DATA = ("train", "evaluate", "tune", "check")
_CONFIG = (*_DATA, "recommend", "export", "rollback")
_TRACKING = (*_CONFIG, "promote")
# Verbs that read RECOMMENDER_ENVIRONMENT; others have a flag.
_ENVIRONMENT = ("train", "check", "recommend")
_VERBS = "|".join((*_TRACKING, "download"))
# A shell word without the sentence's final dot or comma.
_WORD = r"(?:'[^']*'|\"[^\"]*\"|[^\s;,.)'\"]|[,.](?=[^\s;,.)]))+"
# A verb with its options, up to the end of a sentence or line.
_COMMAND = re.compile(rf"(?<![\w./-])recommender ((?:{_VERBS})(?![\w-])(?: --?[a-z-]+(?:[ =]{_WORD})?)*)")
_MASKED = " (with the password in the place of ***)"
# Variables of make's command line that messages must repeat.
_OVERRIDDEN = ("PYTHON", "VENV", "MLFLOW_TRACKING_URI")


@dataclass(frozen=True)
class Given:
    """Options of this process that a printed command must repeat."""

    config: Path | None = None
    tracking_uri: str | None = None
    # flags of the data, as words
    data: Sequence[str] = ()


_given = Given()


@contextlib.contextmanager
def repeating(given: Given) -> Iterator[None]:
    """Repeat these flags in commands printed inside the block."""
    global _given
    before, _given = _given, given
    try:
        yield
    finally:
        _given = before


def quoted(word: object) -> str:
    """Quote a word for a shell, and also a final dot or comma, which `runnable` would cut off."""
    text = shlex.quote(str(word))
    return f"'{text}'" if text.endswith((".", ",")) else text


def train(model: str | None = None) -> str:
    """Return the command, for `runnable`, that trains this model, by default the parameter file's."""
    if model in (None, "movie-recommender"):
        return "recommender train"
    # YAML reads some names as a number, a date or a boolean.
    plain = re.fullmatch(r"[A-Za-z][\w-]*-[\w-]*|[A-Za-z]{6,}", str(model))
    return f"recommender train --set {quoted(f'tracking.model={model if plain else json.dumps(model)}')}"


def runnable(text: str) -> str:
    """Return the message with each `recommender VERB …` completed, to be typed in any folder.

    Under make the command is make's verb `run`, which sets the job's environment. Otherwise it is this
    interpreter, unless `recommender` is on the PATH. The given flags are repeated.
    """
    return _COMMAND.sub(lambda found: _typed(found[1]), text)


def by_make() -> bool:
    """Check that ml/Makefile started this process."""
    return (
        bool(os.environ.get("MAKELEVEL") and os.environ.get("RECOMMENDER_CONFIG"))
        and (_FOLDER / "Makefile").is_file()
    )


def _typed(words: str) -> str:
    verb, _, rest = words.partition(" ")
    flags, tell = _flags(verb, rest)
    words = " ".join(filter(None, [verb, *map(quoted, flags), rest]))
    named = os.environ.get("RECOMMENDER_ENVIRONMENT") or "dev"
    of = {"RECOMMENDER_ENVIRONMENT": named} if named != "dev" and verb in _ENVIRONMENT else {}
    if by_make():
        of |= _overridden()
        if "--config" not in words:
            of["CONF"] = os.environ["RECOMMENDER_CONFIG"]
        # make expands a $.
        of["ARGS"] = words.replace("$", "$$")
        tell = tell or (_MASKED if "***" in of.get("MLFLOW_TRACKING_URI", "") else "")
        return f"make -C {shlex.quote(str(_FOLDER))} run {_assigned(of)}{tell}"
    if shutil.which("recommender"):
        return f"{_assigned(of)} recommender {words}{tell}".lstrip()
    of["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    return f"{_assigned(of)} {shlex.quote(sys.executable)} -m recommender {words}{tell}"


def _assigned(of: dict[str, str]) -> str:
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in of.items())


def _flags(verb: str, rest: str) -> tuple[list[str], str]:
    """Return the flags to repeat, and a note on a masked password among them."""
    flags: list[str] = []
    said = rest.split()
    if verb in _CONFIG and "--model" not in said and (config := _config()):
        flags += ["--config", str(config)]
    if verb in _TRACKING and (uri := _uri()):
        flags += ["--tracking-uri", uri]
    if verb in _DATA:
        flags += _given.data
    return flags, _MASKED if any("***" in each for each in flags) else ""


def _uri() -> str:
    """Return the store in use; "" if make or the shell names it."""
    if _given.tracking_uri:
        return _store(_given.tracking_uri)
    if by_make():
        return ""
    # MLflow sets it to the connected store.
    uri = _store(os.environ.get("MLFLOW_TRACKING_URI") or "")
    # A masked password would be wrong; this shell has the real one.
    return "" if "***" in uri else uri


def _config() -> Path | None:
    """Return the absolute path of the parameter file in use; None if make or the program finds it."""
    named = os.environ.get("RECOMMENDER_CONFIG")
    if by_make() and _given.config in (None, Path(str(named))):
        return None
    chosen = _given.config if _given.config != _DEFAULT else None
    if chosen or named:
        return Path(chosen or str(named)).absolute()
    return next((each.absolute() for each in (_DEFAULT, _FOLDER / _DEFAULT) if os.path.exists(each)), None)


def _overridden() -> dict[str, str]:
    """Return the job's variables that make's command line sets."""
    found = {}
    with contextlib.suppress(ValueError):
        for word in shlex.split(os.environ.get("MAKEFLAGS", "").partition("-- ")[2]):
            name, equals, value = word.replace("$$", "$").partition("=")
            if equals and name in _OVERRIDDEN:
                found[name] = _store(value) if name == "MLFLOW_TRACKING_URI" else value
    return found


def _store(uri: str) -> str:
    """Return a store's address, valid in any folder and without its password."""
    from recommender import uris

    database = uris.local_database(uri)
    return f"sqlite:///{database}" if database else uris.redacted(uri)


def mlflow(*words: str) -> str:
    """Return an MLflow command for the store in use; MLflow's default would be another store."""
    from mlflow import get_tracking_uri

    uri = _store(get_tracking_uri())
    tell = _MASKED if "***" in uri else ""
    python = shlex.quote(sys.executable)
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} {python} -m mlflow {shlex.join(words)}{tell}"
