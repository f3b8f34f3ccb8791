#!/bin/bash
# Makes the conda fixture (README.md), or finds the finished one.
# usage: build.sh OUTDIR     build.sh --digest
# IMAGE names another Debian 12 or 13 image to build in
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# of what the result depends on
digest=$(cd "$here" && cat build.sh python_prefix.sh conda_package.py make_fixture.py installer_header.sh requirements.txt shell/* |
    sha256sum | cut -c1-12)

say() { printf '==> conda fixture: %s\n' "$*" >&2; }
die() { printf 'conda fixture: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || die "usage: $0 OUTDIR"
if [ "$1" = --digest ]; then echo "$digest"; exit; fi
out=$(realpath -m "$1")
finished() { [ "$(cat "$out/digest" 2>/dev/null)" = "$digest" ]; }
if finished; then exit; fi

[ "$(uname -m)" = x86_64 ] || die "it can be made for x86_64 only, and this is $(uname -m): let the machine reach github.com \
and conda.anaconda.org, or run this on an x86_64 machine"
mkdir -p "$(dirname "$out")"
exec 9> "$out.lock"
flock 9 # a second caller waits for the first one's result
if finished; then exit; fi

IMAGE=${IMAGE:-$("$here/../../roles/cloud_server/files/local/image.sh" trixie)}
started=$SECONDS
stage=$(mktemp -d "$out.XXXXXX")
chmod 0755 "$stage" # hosts read it as any user
trap 'rm -rf "$stage"' EXIT
mkdir "$stage"/{wheels,result}

say "downloading the wheels of requirements.txt"
if python3 -m pip --version >/dev/null 2>&1; then pip=(python3 -m pip)
elif command -v uv >/dev/null; then pip=(uv tool run pip)
else die "neither pip nor uv here: activate the control environment (make venv) or install python3-pip"
fi
"${pip[@]}" --quiet --disable-pip-version-check download --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --requirement "$here/requirements.txt" --dest "$stage/wheels" \
    || die "pip could not download the wheels: PyPI must be reachable (PIP_INDEX_URL names a mirror, PIP_CERT a private CA)"

say "building in a container of $IMAGE (about a minute)"
# The Python made in the first step runs the second: the host's may be any, and this one is tested by it.
# shellcheck disable=SC2016  # expanded in the container
docker run --rm --network "${DOCKER_BUILD_NETWORK:-bridge}" --entrypoint /bin/bash \
    --env http_proxy --env https_proxy --env no_proxy --env DEBIAN_MIRROR --env PYTHONDONTWRITEBYTECODE=1 \
    --volume "$here:/fixture:ro" --volume "$stage/wheels:/wheels:ro" --volume "$stage/result:/result" \
    "$IMAGE" -euc '
        umask 022
        /fixture/python_prefix.sh /build
        export PYTHONPATH=/build/modules:/fixture
        for wheel in /wheels/*.whl; do /build/prefix/bin/python -m zipfile -e "$wheel" /build/modules; done
        /build/prefix/bin/python /fixture/make_fixture.py /wheels /build /result
        chown -R '"$(id -u):$(id -g)"' /result
    ' >&2 || die "the build failed, see above: the container needs deb.debian.org (DEBIAN_MIRROR names a mirror, http_proxy a proxy)"

# The digest is written last and the folder renamed whole: an interrupted build is never taken for a finished one.
echo "$digest" > "$stage/result/digest"
rm -rf "$out"
mv "$stage/result" "$out"
say "made $out in $((SECONDS - started)) s"
