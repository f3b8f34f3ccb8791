"""Commands in messages, so that they work as they are printed."""

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
# Verbs by what they take: the data's flags, a parameter file, a store.
_DATA = ("train", "evaluate", "tune", "check")
_CONFIG = (*_DATA, "recommend", "export", "rollback")
_TRACKING = (*_CONFIG, "promote")
# Verbs that look into RECOMMENDER_ENVIRONMENT; the others have a flag for it.
_ENVIRONMENT = ("train", "check", "recommend")
_VERBS = "|".join((*_TRACKING, "download"))
# A shell's word, up to what ends a sentence: its last sign is neither a dot nor a comma.
_WORD = r"(?:'[^']*'|\"[^\"]*\"|[^\s;,.)'\"]|[,.](?=[^\s;,.)]))+"
# A verb with its options, up to what ends a sentence or a line.
_COMMAND = re.compile(rf"(?<![\w./-])recommender ((?:{_VERBS})(?![\w-])(?: --?[a-z-]+(?:[ =]{_WORD})?)*)")
_MASKED = " (with the password in the place of ***)"
# What a command line of make's chose, and its messages have to choose again.
_OVERRIDDEN = ("PYTHON", "VENV", "MLFLOW_TRACKING_URI")


@dataclass(frozen=True)
class Given:
    """What this process was told, and a printed command has to repeat."""

    config: Path | None = None
    tracking_uri: str | None = None
    # flags of the data, as words
    data: Sequence[str] = ()


_given = Given()


@contextlib.contextmanager
def repeating(given: Given) -> Iterator[None]:
    """Let the commands that are printed in this block repeat these flags."""
    global _given
    before, _given = _given, given
    try:
        yield
    finally:
        _given = before


def quoted(word: object) -> str:
    """A word for a shell, in quotes where `runnable` would take its last sign for the sentence's."""
    text = shlex.quote(str(word))
    return f"'{text}'" if text.endswith((".", ",")) else text


def train(model: str | None = None) -> str:
    """The command that trains a model of this name, else of the parameter file's; for `runnable`."""
    if model in (None, "movie-recommender"):
        return "recommender train"
    # YAML would read a number, a date or "no"
    plain = re.fullmatch(r"[A-Za-z][\w-]*-[\w-]*|[A-Za-z]{6,}", str(model))
    return f"recommender train --set {quoted(f'tracking.model={model if plain else json.dumps(model)}')}"


def runnable(text: str) -> str:
    """A message whose `recommender VERB …` can be typed here, whatever the folder.

    Under make that is make's own verb `run`, which sets what the job needs; else this interpreter, unless the
    command `recommender` is on the PATH. The flags that were given are repeated.
    """
    return _COMMAND.sub(lambda found: _typed(found[1]), text)


def by_make() -> bool:
    """Whether this process is one of ml/Makefile's."""
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
        # make would expand a $
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
    """The flags that a printed command repeats, and what to say of a password in them."""
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
    """The store in use; "" where make or the shell names it."""
    if _given.tracking_uri:
        return _store(_given.tracking_uri)
    if by_make():
        return ""
    # MLflow sets it to the store that was connected
    uri = _store(os.environ.get("MLFLOW_TRACKING_URI") or "")
    # with a password left out it would be wrong: this shell has it
    return "" if "***" in uri else uri


def _config() -> Path | None:
    """The parameter file in use, absolute; None where make or the program finds it."""
    named = os.environ.get("RECOMMENDER_CONFIG")
    if by_make() and _given.config in (None, Path(str(named))):
        return None
    chosen = _given.config if _given.config != _DEFAULT else None
    if chosen or named:
        return Path(chosen or str(named)).absolute()
    return next((each.absolute() for each in (_DEFAULT, _FOLDER / _DEFAULT) if os.path.exists(each)), None)


def _overridden() -> dict[str, str]:
    """The variables that make's command line set and the job needs."""
    found = {}
    with contextlib.suppress(ValueError):
        for word in shlex.split(os.environ.get("MAKEFLAGS", "").partition("-- ")[2]):
            name, equals, value = word.replace("$$", "$").partition("=")
            if equals and name in _OVERRIDDEN:
                found[name] = _store(value) if name == "MLFLOW_TRACKING_URI" else value
    return found


def _store(uri: str) -> str:
    """A store's address, right in any folder and without its password."""
    from recommender import uris

    database = uris.local_database(uri)
    return f"sqlite:///{database}" if database else uris.redacted(uri)


def mlflow(*words: str) -> str:
    """A command of MLflow's for the store in use; without MLFLOW_TRACKING_URI it would make another."""
    from mlflow import get_tracking_uri

    uri = _store(get_tracking_uri())
    tell = _MASKED if "***" in uri else ""
    python = shlex.quote(sys.executable)
    return f"MLFLOW_TRACKING_URI={shlex.quote(uri)} {python} -m mlflow {shlex.join(words)}{tell}"
