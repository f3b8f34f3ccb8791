"""A model brings code of its own: on a server, who has sudo loads it as the account that trains.

Whoever may write to the registry chooses the champion. Its code runs in a systemd unit that can write nothing
but what it prints; what it prints is all that the operator's own process takes.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from recommender import files
from recommender.errors import RecommenderError

# Set on a server: the account that loads models, who has sudo, and the file with that account's login.
ACCOUNT, OPERATORS, LOGIN = "RECOMMENDER_ACCOUNT", "RECOMMENDER_OPERATORS", "RECOMMENDER_CREDENTIALS"
_GROUPS = {"sudo", "wheel", "admin"}
# By name: a value would stand in the list of processes and in sudo's log.
_PASSED = (
    "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "PYTHONIOENCODING", "LANG", "LC_ALL", "LC_CTYPE",
    "TZ", "MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH", "RECOMMENDER_ENVIRONMENT", "RECOMMENDER_TRACKING_ACCOUNT", ACCOUNT,
    # so that messages say what make is to be told
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
    """The account that has to load models in place of this one; None where this one may."""
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
    """Raise RecommenderError where this account is not to load a model."""
    if wanted := account():
        raise RecommenderError(
            f"A model brings code of its own, which an account with sudo does not run. Load it as {wanted} "
            "(make recommend does), or as an analyst."
        )


def hand_over(line: Sequence[str], output: Path | None) -> int | None:
    """Run a command line of this program as the account that loads models, if this one may not.

    What it prints goes to the file `output`, else to standard output. Returns its exit code, and None where
    there is nothing to hand over. Raises RecommenderError where sudo asks for a password, OSError for a file
    that cannot be written.
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
                f"A model brings code of its own, which {wanted} runs and an account with sudo does not, and "
                f"sudo says: {may.stderr.strip() or 'no'}. Type sudo -v, then the same again."
            )
        command = ["sudo", "-n", f"--preserve-env={','.join(names)}", *command]
    sys.stdout.flush()
    if output is None:
        return subprocess.run(command, check=False).returncode
    with files.replacing(output) as part:
        with part.open("wb") as file:
            code = subprocess.run(command, stdout=file, check=False).returncode
        if code != 0:
            part.unlink()
    return code
