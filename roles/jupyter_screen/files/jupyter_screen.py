#!/usr/bin/python3 -I
"""Steps of jupyter-screen@.service that a unit's own settings cannot express.

The unit sets JUPYTER_TOKEN_FILE and JUPYTER_SCREEN_PORT; systemd sets RUNTIME_DIRECTORY, LOGS_DIRECTORY, MAINPID and
SERVICE_RESULT. A step that fails says why on stderr, which is the journal, and ends with a status other than 0.
"""

import http.client
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

SESSION = "jupyter"
LOG_LINES = 30


def token() -> str:
    """Returns the server's token. Raises SystemExit where it is missing or would be no protection."""
    path = os.environ["JUPYTER_TOKEN_FILE"]
    try:
        text = pathlib.Path(path).read_text()
    except OSError as error:
        sys.exit(f"cannot read the token: {error}. Run the role again to have one made.")
    # Jupyter takes the file as it is: empty would turn authentication off, a line end would belong to the token
    if not re.fullmatch(r"[A-Za-z0-9._~-]{16,}", text):
        sys.exit(
            f"{path} must hold at least 16 of the characters A-Z a-z 0-9 . _ ~ - and nothing else, not even "
            f"a line end. Remove it and run the role again to have one made."
        )
    return text


def request(method: str, path: str, secret: str, seconds: float) -> int:
    """Returns the HTTP status that the server answers with. Raises OSError or HTTPException where it does not.

    The secret is sent to nobody but the account whose token it is: while the server is down, the port is anybody's.
    """
    if secret and not ours():
        raise ConnectionError("this account does not listen on the port")
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["JUPYTER_SCREEN_PORT"]), timeout=seconds)
    try:
        connection.request(method, path, headers={"Authorization": f"token {secret}"} if secret else {})
        return connection.getresponse().status
    finally:
        connection.close()


def ours() -> bool:
    """Returns whether who listens on the server's port is the owner of the token."""
    port = f"{int(os.environ['JUPYTER_SCREEN_PORT']):04X}"
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # IPv6 gets what is sent to 127.0.0.1 only where no IPv4 listens: then the set is empty, and it is not ours.
    # columns of proc(5): local address, other address, state (0A listens) … uid
    owners = {int(row[7]) for row in rows if row[1] in (f"0100007F:{port}", f"00000000:{port}") and row[3] == "0A"}
    return owners == {os.stat(os.environ["JUPYTER_TOKEN_FILE"]).st_uid}


def alive(pid: int) -> bool:
    """Returns whether a process of that id is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def allowed(name: str) -> None:
    """Refuses an account that is not there, or whose time is over: that is how an account is taken from somebody."""
    entries = (line.split(":") for line in pathlib.Path("/etc/shadow").read_text().splitlines())
    expiry = next((entry[7] for entry in entries if entry[0] == name), "0")
    if expiry and int(expiry) <= time.time() // 86400:
        sys.exit(f"the account {name} is not there, or has expired: no server for it")


def prepare() -> None:
    """Refuses a bad token or a second session of that name, which `screen -r` could not tell from the first."""
    token()
    subprocess.run(["screen", "-wipe"], stdout=subprocess.DEVNULL, check=False)
    listing = subprocess.run(["screen", "-ls"], capture_output=True, text=True, check=False).stdout
    if found := re.search(rf"^\s+(\d+\.{SESSION})\s", listing, re.MULTILINE):
        sys.exit(f"this account has a screen session {SESSION} already: end it with: screen -S {found[1]} -X quit")


def serve(command: list[str]) -> None:
    """Runs Jupyter inside screen, keeps its exit status and ends the session with it.

    Screen itself exits 0 whatever became of Jupyter, and would live on for as long as it has another window.
    """
    for number in (signal.SIGINT, signal.SIGQUIT):
        # the keyboard's signals are Jupyter's: exec gives it the default actions back
        signal.signal(number, lambda *_: None)
    jupyter = subprocess.Popen(command)
    # of a window that is closed only this process hears
    signal.signal(signal.SIGHUP, lambda *_: jupyter.terminate())
    status = jupyter.wait()
    pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "status").write_text(str(status if status >= 0 else 128 - status))
    subprocess.call(["screen", "-X", "quit"])


def ready(timeout: float) -> None:
    """Waits until the API answers with the token and refuses without. Raises SystemExit after timeout seconds."""
    secret, main = token(), int(os.environ["MAINPID"])
    deadline = time.monotonic() + timeout
    problem = "no answer"
    while time.monotonic() < deadline:
        if not alive(main):
            sys.exit("JupyterLab ended before it answered")
        # no answer is waited for beyond the limit
        left = max(1, deadline - time.monotonic())
        try:
            with_token, without = request("GET", "/api/status", secret, left), request("GET", "/api/status", "", left)
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        else:
            if (with_token, without) == (200, 403):
                return
            problem = f"status {with_token} with the token (wanted 200), {without} without (wanted 403)"
            if without == 200:
                break
        time.sleep(0.1)
    address = f"http://127.0.0.1:{os.environ['JUPYTER_SCREEN_PORT']}/api/status"
    late = f", within {timeout:.0f} s; on a slow machine raise jupyter_screen_start_timeout"
    sys.exit(f"{address}: {problem}{late if time.monotonic() >= deadline else ''}")


def stop(timeout: float) -> None:
    """Asks Jupyter to end its kernels and itself, and waits for that up to timeout seconds; systemd kills the rest."""
    if not os.environ.get("MAINPID"):
        return
    request("POST", "/api/shutdown", token(), 10)
    deadline = time.monotonic() + timeout
    while alive(int(os.environ["MAINPID"])) and time.monotonic() < deadline:
        time.sleep(0.1)


def stopped() -> None:
    """Ends with Jupyter's exit status; after a failure shows the end of its log first."""
    try:
        status = int(pathlib.Path(os.environ["RUNTIME_DIRECTORY"], "status").read_text())
    except FileNotFoundError:
        status = 0
    result = os.environ.get("SERVICE_RESULT", "success")
    if result == "exec-condition" or (status == 0 and result == "success"):
        return
    log = pathlib.Path(os.environ["LOGS_DIRECTORY"], "jupyter.log")
    print(f"result {result}, JupyterLab's exit status {status}; the end of {log}:", file=sys.stderr)
    if log.exists():
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 16384))
            text = stream.read().decode(errors="replace")
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text).replace(token(), "…")
        print("\n".join(text.splitlines()[-LOG_LINES:]), file=sys.stderr)
    sys.exit(status)


def again() -> None:
    """Starts the servers that systemd has given up, and that are still wanted."""
    command = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "jupyter-screen@*.service"]
    for line in subprocess.check_output(command, text=True).splitlines():
        unit = line.split()[0]
        if subprocess.run(["systemctl", "is-enabled", "--quiet", unit], check=False).returncode == 0:
            subprocess.run(["systemctl", "reset-failed", unit], check=True)
            subprocess.run(["systemctl", "start", "--no-block", unit], check=True)


def main(arguments: list[str]) -> None:
    """Runs one step. Raises SystemExit if it does not exist."""
    match arguments:
        case ["allowed", name]:
            allowed(name)
        case ["prepare"]:
            prepare()
        case ["serve", *command] if command:
            serve(command)
        case ["ready", seconds]:
            ready(float(seconds))
        case ["stop", seconds]:
            stop(float(seconds))
        case ["stopped"]:
            stopped()
        case ["again"]:
            again()
        case _:
            steps = "allowed NAME | prepare | serve COMMAND... | ready|stop SECONDS | stopped | again"
            sys.exit(f"usage: jupyter-screen {steps}")


main(sys.argv[1:])
