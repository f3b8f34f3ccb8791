#!/usr/bin/python3 -I
"""Makes a person's own environment, and a kernel of it, on top of a kernel that the server offers to everybody.

The environment sees the packages of the other, and may hold further ones and other versions. The other stays as it is.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any, NoReturn

KERNELS = pathlib.Path("/usr/local/share/jupyter/kernels")
SETTINGS = pathlib.Path("/etc/jupyter-screen/config.json")
# Debian's store knows a private CA that was added to it; the pip of Debian 12 has a bundle of its own
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# An interpreter's own folders of packages, without the account's.
FOLDERS = "import json, sys; print(json.dumps([path for path in sys.path if path.endswith('-packages')]))"


def stop(message: str) -> NoReturn:
    sys.exit(f"own-kernel: {message}")


def quiet_environment() -> dict[str, str]:
    """The environment of the build: nothing of the account's other packages has a part in it."""
    mine = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET")}
    mine |= {"PYTHONNOUSERSITE": "1", "PIP_USER": "0"}
    if os.path.exists(CERTIFICATES):
        mine.setdefault("PIP_CERT", CERTIFICATES)
    return mine


def base_kernel(name: str) -> tuple[str, dict[str, Any]]:
    """Name and kernel.json of the kernel to start from; without a name, that of new notebooks.

    Raises SystemExit where the server offers no such kernel.
    """
    offered = sorted(path.parent.name for path in KERNELS.glob("*/kernel.json"))
    if not name and SETTINGS.exists():
        name = json.loads(SETTINGS.read_text()).get("MultiKernelManager", {}).get("default_kernel_name", "")
    if not offered:
        stop("this server offers no kernel to start from: an operator lists one in jupyter_screen_kernels")
    # JupyterLab's own Python is not meant to be built upon
    name = offered[0] if name in ("", "python3") else name
    if name not in offered:
        stop(f"there is no kernel {name} to start from: choose --from {' or --from '.join(offered)}")
    return name, json.loads((KERNELS / name / "kernel.json").read_text())


def refuse_name(name: str) -> None:
    """Raises SystemExit for a name that cannot be a kernel's, or that would hide a kernel of the server's."""
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]*", name):
        stop(f"{name!r} cannot be the name of a kernel: use letters, digits, - and _, such as mine")
    taken = {path.name.lower() for path in KERNELS.glob("*")} | {"python3"}
    if name.lower() in taken:
        stop(f"{name} is a kernel of the server's, which yours would hide: choose another name, such as my-{name}")


def version(python: str) -> str:
    """Major and minor version of an interpreter. Raises SystemExit where it does not run."""
    show = [python, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.check_output(show, text=True).strip()
    except (OSError, subprocess.CalledProcessError) as error:
        stop(f"{python} does not run: {error}. An operator makes it again with site.yml --tags workbench")


def make(environment: pathlib.Path, python: str, bare: bool) -> None:
    """Makes the environment. Raises CalledProcessError."""
    # the pip of the other is newer, and not each Python can unpack one
    subprocess.run([python, "-I", "-m", "venv", "--without-pip", environment], check=True, env=quiet_environment())
    if bare:
        return
    inherited = json.loads(subprocess.check_output([python, "-I", "-c", FOLDERS], text=True))
    own = subprocess.check_output([environment / "bin/python", "-I", "-c", FOLDERS], text=True)
    # behind its own packages, and with the .pth files that are there
    lines = "".join(f"import site; site.addsitedir({folder!r})\n" for folder in inherited)
    pathlib.Path(json.loads(own)[0], "own_kernel.pth").write_text(lines)


def install(environment: pathlib.Path, python: str, packages: list[str]) -> None:
    """Has the other's pip install what pip's arguments say. Raises CalledProcessError."""
    # isolated: the folder where it is typed may hold somebody else's pip
    pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin/python")]
    subprocess.run([*pip, "install", *packages], check=True, env=quiet_environment())


def write_kernel(folder: pathlib.Path, base: dict[str, Any]) -> None:
    python = str(folder / "environment/bin/python")
    environment = quiet_environment()
    spec = {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"{folder.name} (on {base['display_name']})",
        "language": "python",
        "env": {name: environment[name] for name in ("PIP_CERT", "PIP_USER") if name in environment}
        | {**base.get("env", {}), "PYTHONNOUSERSITE": "1"},
        "metadata": {"debugger": True, "made_by": "own-kernel"},
    }
    # last, and whole or not at all: a kernel is offered once it works
    new = folder / ".kernel.json"
    new.write_text(json.dumps(spec, indent=1))
    new.rename(folder / "kernel.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="own-kernel", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="base", default="", metavar="KERNEL", help="the kernel to start from")
    parser.add_argument("--bare", action="store_true", help="with its Python, without its packages")
    parser.add_argument("name", metavar="NAME", help="the name of your kernel")
    parser.add_argument("packages", nargs=argparse.REMAINDER, metavar="PACKAGE", help="arguments of pip install")
    options = parser.parse_args()
    if os.geteuid() == 0:
        stop("a kernel belongs to the account that runs it: type this as that account, without sudo")
    refuse_name(options.name)
    name, base = base_kernel(options.base)
    python = base["argv"][0]
    data = pathlib.Path(os.environ.get("JUPYTER_DATA_DIR") or "~/.local/share/jupyter").expanduser()
    folder = data / "kernels" / options.name
    environment = folder / "environment"
    made = (folder / "kernel.json").exists()
    if made and not environment.is_dir():
        stop(f"{folder} is a kernel that another program made: choose another name")
    if made and not (environment / f"lib/python{version(str(environment / 'bin/python'))}").is_dir():
        stop(
            f"{options.name} was made for another Python than {name} has now. Remove it, and make it again:"
            f" rm -r {folder}"
        )
    if subprocess.run([python, "-I", "-m", "pip", "--version"], capture_output=True).returncode:
        stop(f"{python} has no pip, which installs packages: an operator adds it to the environment of {name}")
    packages = options.packages
    if options.bare and not made:
        packages = [*packages, "ipykernel", "pip"]
    try:
        if not made:
            # what a run that was cut off left
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(environment, python, options.bare)
        if packages:
            install(environment, python, packages)
        probe = [environment / "bin/python", "-c", "import ipykernel"]
        subprocess.run(probe, check=True, env=quiet_environment(), cwd="/")
    except (OSError, subprocess.CalledProcessError, KeyboardInterrupt) as error:
        if not made:
            shutil.rmtree(folder, ignore_errors=True)
        said = error if isinstance(error, OSError) else "this did not work, for the reason above"
        stop(f"{said}; {'the kernel is there still' if made else 'nothing was kept'}")
    write_kernel(folder, base)
    print(
        f"The kernel {options.name} is ready: reload JupyterLab, then menu Kernel, Change Kernel.\n"
        f"More packages: own-kernel {options.name} PACKAGE, or %pip install PACKAGE in it. To remove it: rm -r {folder}"
    )


if __name__ == "__main__":
    main()
