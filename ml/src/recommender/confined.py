"""Load models as the training account: a model contains code, which must not run with sudo rights.

Every writer to the registry can choose the champion. Its code runs in a systemd unit that can write only to
its output. The operator's own process reads only that output.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from recommender import files
from recommender.errors import RecommenderError

# Set on a server: the loading account, accounts with sudo, its login file.
ACCOUNT, OPERATORS, LOGIN = "RECOMMENDER_ACCOUNT", "RECOMMENDER_OPERATORS", "RECOMMENDER_CREDENTIALS"
_GROUPS = {"sudo", "wheel", "admin"}
# Names only: values would show in process lists and sudo's log.
_PASSED = (
    "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "PYTHONIOENCODING", "LANG", "LC_ALL", "LC_CTYPE",
    "TZ", "MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH", "RECOMMENDER_ENVIRONMENT", "RECOMMENDER_TRACKING_ACCOUNT", ACCOUNT,
    # Messages name make's variables.
    "RECOMMENDER_CONFIG", "MAKELEVEL",
)  # fmt: skip
_UNIT = [
    "systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", "--setenv=HOME=/tmp",
    "--working-directory=/", "--property=NoNewPrivileges=yes", "--property=PrivateTmp=yes",
    "--property=PrivateDevices=yes", "--property=ProtectSystem=strict", "--property=ProtectHome=yes",
    "--property=CapabilityBoundingSet=", "--property=SystemCallFilter=@system-service",
    "--property=TasksMax=256", "--property=RuntimeMaxSec=3600",
]  # fmt: skip


def account() -> str | None:
    """Return the account that must load models, or None if this one may."""
    import grp
    import pwd

    wanted = os.environ.get(ACCOUNT)
    if not wanted:
        return None
    try:
        me = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
    groups = set()
    for number in {os.getegid(), *os.getgroups()}:
        try:
            groups.add(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    powerful = os.getuid() == 0 or me in os.environ.get(OPERATORS, "").split() or groups & _GROUPS
    return wanted if powerful and me != wanted else None


def check() -> None:
    """Raise RecommenderError if this account must not load a model."""
    if wanted := account():
        raise RecommenderError(
            f"A model contains code, which an account with sudo must not run. Load it as {wanted} "
            "(make recommend does), or as an analyst."
        )


def hand_over(line: Sequence[str], output: Path | None) -> int | None:
    """Run this program's command line as the account that loads models, if this one may not.

    Output goes to the file `output`, by default to standard output. Returns the exit code, or None if this
    account may load models.
    Raises RecommenderError if sudo asks for a password, OSError if the file cannot be written.
    """
    wanted = account()
    if wanted is None:
        return None
    names = [name for name in _PASSED if name in os.environ]
    command = [*_UNIT, f"--uid={wanted}", *(f"--setenv={name}" for name in names)]
    if login := os.environ.get(LOGIN):
        command.append(f"--property=EnvironmentFile=-{login}")
    command += ["--", sys.executable, "-m", "recommender", *line]
    if os.getuid() != 0:
        may = subprocess.run(["sudo", "-n", "true"], capture_output=True, text=True, check=False)
        if may.returncode:
            raise RecommenderError(
                f"A model contains code, which {wanted} runs and an account with sudo must not. "
                f"sudo says: {may.stderr.strip() or 'no'}. Type sudo -v, then the same command again."
            )
        command = ["sudo", "-n", f"--preserve-env={','.join(names)}", *command]
    sys.stdout.flush()
    if output is None:
        return subprocess.run(command, check=False).returncode
    with files.replacing(output) as part:
        with part.open("wb") as file:
            code = subprocess.run(command, stdout=file, check=False).returncode
        # a device stands for itself
        if code != 0 and part.is_file():
            part.unlink()
    return code
