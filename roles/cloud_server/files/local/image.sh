#!/bin/sh
# Prints the tag of the server image of a Debian release, made first where it is not there yet:
# from the official image where a registry answers, else from Debian's own packages.
# usage: image.sh [--tag] bookworm|trixie [bare]      --tag: print it and make nothing; bare: without Python
set -eu
tag=
if [ "$1" = --tag ]; then tag=$1; shift; fi
suite=$1
bare=${2:-}
cd "$(dirname "$0")"

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'image.sh: %s\n' "$*" >&2; exit 1; }

# what macOS has no sha256sum and no timeout for
digest_of() { python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])'; }
pull() { # IMAGE
    python3 -c 'import subprocess, sys
try: sys.exit(subprocess.run(["docker", "pull", "-q", sys.argv[1]], timeout=120).returncode)
except subprocess.TimeoutExpired: sys.exit(124)' "$1" >/dev/null 2>&1
}

# A private CA of a corporate proxy, by the variables that Python's and other tools use for it.
bundle=${SITE_CA_BUNDLE:-${SSL_CERT_FILE:-${REQUESTS_CA_BUNDLE:-${PIP_CERT:-}}}}
files="Dockerfile first-boot-host-keys.service network.sh keep_bytecode.py"
# shellcheck disable=SC2086  # a list of names without blanks
digest=$(cat $files ${bundle:+"$bundle"} | digest_of)
image=bare-server:$suite${bare:+-$bare}-$digest
if [ -n "$tag" ] || docker image inspect "$image" >/dev/null 2>&1; then echo "$image"; exit; fi

base=debian:$suite
if docker image inspect "$base" >/dev/null 2>&1; then
    say "base image $base is here"
elif pull "$base"; then
    say "base image $base pulled"
else
    base=debian-from-packages:$suite
    if ! docker image inspect "$base" >/dev/null 2>&1; then
        say "no registry answers: making $base from Debian's packages (about half a minute)"
        sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
        [ -z "$sudo" ] || { command -v sudo >/dev/null && sudo true >/dev/null; } ||
            die "mmdebstrap needs root, and sudo does not give it to $(id -un): let the machine reach docker.io, or run this as root"
        command -v mmdebstrap >/dev/null || {
            command -v apt-get >/dev/null ||
                die "without a registry the image can be made on Debian and Ubuntu only: let the machine reach docker.io"
            $sudo apt-get update -q >/dev/null
            $sudo apt-get install -qy --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null
        } || die "install mmdebstrap, then run this again"
        tar=$(mktemp)
        trap 'rm -f "$tar"' EXIT
        $sudo mmdebstrap -q --variant=minbase --include=ca-certificates "$suite" - \
            "deb http://deb.debian.org/debian $suite main" \
            "deb http://deb.debian.org/debian $suite-updates main" \
            "deb http://deb.debian.org/debian-security $suite-security main" > "$tar" || {
            die "mmdebstrap failed: deb.debian.org must be reachable (set http_proxy behind a proxy)"
        }
        docker import "$tar" "$base" >/dev/null
    fi
fi

say "building the server image $image"
context=$(mktemp -d)
trap 'rm -rf "$context" "${tar:-}"' EXIT
mkdir "$context/ca-certificates"
[ -z "$bundle" ] || cp "$bundle" "$context/ca-certificates/site.crt"
# shellcheck disable=SC2086
cp $files "$context"
docker build -q --build-arg BASE="$base" ${bare:+--build-arg PYTHON=} ${http_proxy:+--build-arg http_proxy="$http_proxy"} -t "$image" "$context" >&2
echo "$image"
