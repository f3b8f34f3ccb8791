#!/usr/bin/env python3
"""Times the workbench on a fresh throw-away server and prints a table.

The recommender's environment made by the role conda, by `conda env create` and by pip; JupyterLab from nothing to its
first answer. Downloads are from the network, but where it says cached.
"""

import os
import pathlib
import subprocess
import tempfile
import time

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOST = f"bench-{os.getpid()}"
ENVIRONMENT = "recommender"
PLAY = """
- hosts: all
  become: true
  tasks:
    - ansible.builtin.include_role:
        name: "{{ role }}"
"""


def server(folder: pathlib.Path) -> dict[str, str]:
    """What playbooks/create.yml needs to know of the server, and Ansible to reach it."""
    return {
        "cloud_server_vendor": "local", "cloud_server_name": HOST, "cloud_server_image": "trixie",
        "cloud_server_local_key": str(folder / "id_ed25519"),
        "cloud_server_local_known_hosts": str(folder / "known_hosts"), "ansible_host": "127.0.0.1",
        "ansible_port": str(20000 + os.getpid() % 12000), "ansible_user": "root",
        "ansible_private_key_file": str(folder / "id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={folder}/known_hosts -o StrictHostKeyChecking=accept-new",
        "ansible_python_interpreter": "/usr/bin/python3",
    }  # fmt: skip


def run(*command: str) -> float:
    """Wall seconds of a command. Raises SystemExit with its output when it fails."""
    began = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-4000:]}")
    return time.perf_counter() - began


def on_server(script: str) -> float:
    # the system's store knows a company's certificates, pip's own does not
    store = [
        word for name in ("SSL_CERT_FILE", "PIP_CERT") for word in ("-e", f"{name}=/etc/ssl/certs/ca-certificates.crt")
    ]
    return run("docker", "exec", *store, HOST, "bash", "-euc", script)


def main() -> None:
    select = [ROOT / "molecule/conda_fixture/select.sh", ROOT / ".cache"]
    fixture = subprocess.run(select, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        host: dict[str, object] = dict(server(folder))
        if fixture:
            host["cloud_server_local_volumes"] = [f"{pathlib.Path(fixture).parent}:/srv/conda-fixture:ro"]
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {HOST: host}}}))
        (folder / "play.yml").write_text(PLAY)
        os.environ["ANSIBLE_ROLES_PATH"] = str(ROOT / "roles")

        def role(which: str, **variables: object) -> float:
            # conda, as the site has it; the cache of the other test servers is of no use to a first run
            settings = {"role": which, "conda_environment_variables": {"UV_CACHE_DIR": "/var/tmp/uv"}, **variables}
            settings |= {"jupyter_screen_environment": {"UV_CACHE_DIR": "/var/tmp/uv-jupyter"}}
            (folder / "settings.yml").write_text(yaml.safe_dump(settings))
            given = ["-e", f"@{folder / 'settings.yml'}", *(["-e", f"@{fixture}"] if fixture else [])]
            return run("ansible-playbook", "-i", str(folder / "hosts.yml"), str(folder / "play.yml"), *given)

        wanted = [{"name": ENVIRONMENT, "file": str(ROOT / "ml/environment.yml")}]
        try:
            run("ansible-playbook", "-i", str(folder / "hosts.yml"), str(ROOT / "playbooks/create.yml"))
            role("conda", conda_environments=[])
            on_server("apt-get update -q && apt-get install -qy --no-install-recommends python3-venv curl")
            rows = [("the environment, by role conda", role("conda", conda_environments=wanted))]
            rows.append(("the same again: nothing to do", role("conda", conda_environments=wanted)))
            on_server("rm -rf /opt/conda/envs/recommender")
            rows.append(("the same, packages cached", role("conda", conda_environments=wanted)))
            on_server("mkdir /root/ml")
            for file in ("environment.yml", "requirements.txt"):
                run("docker", "cp", str(ROOT / "ml" / file), f"{HOST}:/root/ml")
            create = "cd /root/ml && /opt/conda/bin/conda env create -q -y -p /root/plain -f environment.yml"
            rows.append(("`conda env create`, conda's packages cached", on_server(create)))
            install = "bin/pip install -q --no-cache-dir --require-hashes -r /root/ml/requirements.txt"
            pip = f"python3 -m venv /root/pip && cd /root/pip && {install}"
            rows.append(("pip into a virtual environment, no conda", on_server(pip)))
            kernel = {
                "name": ENVIRONMENT,
                "display_name": "Recommender",
                "python": "/opt/conda/envs/recommender/bin/python",
            }
            first = role("jupyter_screen", jupyter_screen_kernels=[kernel])
            rows.append(("JupyterLab, by role jupyter_screen, to its first answer", first))
            # the unit has started once the API answers
            rows.append(("JupyterLab, restarted", on_server("systemctl restart jupyter-screen@analyst")))
        finally:
            subprocess.run(["docker", "rm", "-f", HOST], stdout=subprocess.DEVNULL, check=False)
    source = "conda's stand-in" if fixture else "Miniforge"
    print(f"| workbench ({source}, {os.cpu_count()} cores, load {os.getloadavg()[2]:.0f}) | seconds |\n|---|---|")
    for label, seconds in rows:
        print(f"| {label} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
