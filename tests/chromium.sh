#!/bin/sh
# Prints the tag of an image with Chromium, made first where it is not there yet: the server image and Debian's package.
# usage: chromium.sh
set -eu
cd "$(dirname "$0")"
base=$(../roles/cloud_server/files/local/image.sh trixie)
image=bare-server:chromium-${base##*-}
if docker image inspect "$image" >/dev/null 2>&1; then echo "$image"; exit; fi
echo "==> building the browser image $image" >&2
printf 'FROM %s\nRUN apt-get update -q && apt-get install -qy --no-install-recommends chromium-headless-shell fonts-dejavu-core\n' "$base" |
    docker build -q ${http_proxy:+--build-arg http_proxy="$http_proxy"} -t "$image" - >&2
echo "$image"
