#!/bin/bash
# Decides which conda the tests install. Says so on stderr; prints on stdout the vars file to pass with `-e @FILE`
# (its folder is to be mounted read-only at /srv/conda-fixture), or nothing when the real hosts answer.
# usage: select.sh CACHEDIR     CONDA_SOURCE=real|fixture skips the question
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 CACHEDIR" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)

real_hosts_answer() {
    python3 - "$here/../../roles/conda/defaults/main.yml" <<'PYTHON'
import concurrent.futures, pathlib, re, sys, urllib.request

version = re.search(r'^conda_version: "(.+)"$', pathlib.Path(sys.argv[1]).read_text(), re.M)[1]
urls = [
    f"https://github.com/conda-forge/miniforge/releases/download/{version}/Miniforge3-{version}-Linux-x86_64.sh",
    "https://conda.anaconda.org/conda-forge/noarch/repodata.json.zst",
]
def head(url):
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=4).close()
try:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(head, urls))
except OSError:
    sys.exit(1)
PYTHON
}

source=${CONDA_SOURCE:-}
case $source in
    real|fixture) ;;
    "") if real_hosts_answer; then source=real; else source=fixture; fi ;;
    *) echo "select.sh: CONDA_SOURCE must be real, fixture or unset, not '$source'" >&2; exit 1 ;;
esac
if [ "$source" = real ]; then
    echo "conda: Miniforge from conda-forge" >&2
else
    echo "conda: the hosts of conda do not answer; using the fixture, a genuine conda 24.7.1 built from PyPI and Debian packages" >&2
    out=$1/conda-fixture-$("$here/build.sh" --digest)
    "$here/build.sh" "$out"
    echo "$(cd "$out" && pwd)/vars.yml"
fi
