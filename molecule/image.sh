#!/bin/sh
# Prints the tag of the server image of a Debian release, made first where it is not there yet:
# from the official image where a registry answers, else from Debian's own packages.
# usage: image.sh bookworm|trixie [bare]      bare: without Python
set -eu
suite=$1
bare=${2:-}
cd "$(dirname "$0")"

say() { printf '==> %s\n' "$*" >&2; }

# A private CA of a corporate proxy, by the variables that Python's and other tools use for it.
bundle=${SITE_CA_BUNDLE:-${SSL_CERT_FILE:-${REQUESTS_CA_BUNDLE:-${PIP_CERT:-}}}}
digest=$(cat Dockerfile first-boot-host-keys.service network.sh ${bundle:+"$bundle"} | sha256sum | cut -c1-12)
image=bare-server:$suite${bare:+-$bare}-$digest
if docker image inspect "$image" >/dev/null 2>&1; then echo "$image"; exit; fi

base=debian:$suite
if docker image inspect "$base" >/dev/null 2>&1; then
    say "base image $base is here"
elif timeout 120 docker pull -q "$base" >/dev/null 2>&1; then
    say "base image $base pulled"
else
    base=debian-from-packages:$suite
    if ! docker image inspect "$base" >/dev/null 2>&1; then
        say "no registry answers: making $base from Debian's packages (about half a minute)"
        sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
        command -v mmdebstrap >/dev/null || {
            $sudo apt-get update -q >/dev/null
            $sudo apt-get install -qy --no-install-recommends mmdebstrap debian-archive-keyring >/dev/null
        } || { echo "image.sh: install mmdebstrap, then run this again" >&2; exit 1; }
        tar=$(mktemp)
        trap 'rm -f "$tar"' EXIT
        $sudo mmdebstrap -q --variant=minbase --include=ca-certificates "$suite" - \
            "deb http://deb.debian.org/debian $suite main" \
            "deb http://deb.debian.org/debian $suite-updates main" \
            "deb http://deb.debian.org/debian-security $suite-security main" > "$tar" || {
            echo "image.sh: mmdebstrap failed: deb.debian.org must be reachable (set http_proxy behind a proxy)" >&2; exit 1
        }
        docker import "$tar" "$base" >/dev/null
    fi
fi

say "building the server image $image"
context=$(mktemp -d)
trap 'rm -rf "$context" "${tar:-}"' EXIT
mkdir "$context/ca-certificates"
[ -z "$bundle" ] || cp "$bundle" "$context/ca-certificates/site.crt"
cp Dockerfile first-boot-host-keys.service network.sh "$context"
docker build -q --build-arg BASE="$base" ${bare:+--build-arg PYTHON=} ${http_proxy:+--build-arg http_proxy="$http_proxy"} -t "$image" "$context" >&2
echo "$image"
