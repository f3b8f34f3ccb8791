#!/bin/sh
# Runs a command with a Docker engine; installs and starts Debian's docker.io if none answers.
# usage: engine.sh COMMAND [ARGUMENT...]
set -eu

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'engine.sh: %s\n' "$*" >&2; exit 1; }

answers() { docker info >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# ask once, before output is discarded
need_root() { # WHAT FOR...
    [ "$(id -u)" != 0 ] || return 0
    command -v sudo >/dev/null && sudo true >/dev/null && return
    join="usermod -aG docker $(id -un)"
    if answers; then join=; fi
    die "$* needs root, and sudo does not give it to $(id -un). Have somebody who has it type:
    ${missing:+apt install$missing${join:+ && }}$join
then log in again and run this again."
}

install_packages() {
    command -v apt-get >/dev/null || die "no apt-get here: install $* with your system's package manager, then run this again"
    need_root "installing $*"
    say "installing $* with apt"
    as_root env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends "$@" >/dev/null' sh "$@"
}

start_engine() {
    if [ -d /run/systemd/system ]; then
        say "starting the Docker engine with systemd"
        as_root systemctl start docker
    else
        say "starting the Docker engine by hand (systemd is not PID 1); its log is /var/log/dockerd.log"
        # a killed engine's pid file stops the next one if its pid is reused
        pgrep -x dockerd >/dev/null || as_root rm -f /var/run/docker.pid
        as_root sh -c 'setsid dockerd >/var/log/dockerd.log 2>&1 &'
    fi
}

if [ -n "${DOCKER_HOST:-}" ] && command -v docker >/dev/null && ! answers; then
    die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST: start it, or unset DOCKER_HOST, then run this again"
fi
missing=
command -v ssh >/dev/null && command -v ssh-keygen >/dev/null || missing="$missing openssh-client"
if ! answers && ! { [ "$(id -u)" != 0 ] && command -v dockerd >/dev/null; }; then
    [ "$(uname -s)" = Linux ] || die "no Docker engine answers: start Docker Desktop (or colima), then run this again"
    command -v dockerd >/dev/null || missing="$missing docker.io iptables"
fi
# shellcheck disable=SC2086  # a list of words
[ -z "$missing" ] || install_packages $missing
# Debian 13 has the client in a package of its own
command -v docker >/dev/null || install_packages docker-cli

if ! answers; then
    need_root "starting a Docker engine, or joining the group that may use it"
    as_root docker info >/dev/null 2>&1 || start_engine
    tries=0
    until as_root docker info >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 30 ] || die "the Docker engine did not answer within 30 s; see /var/log/dockerd.log or: journalctl -u docker"
        sleep 1
    done
fi
if ! answers; then
    # the engine answers root only: join its group, for this command through sg, for later ones at the next login
    say "adding $(id -un) to the group docker; other shells know it after the next login"
    as_root usermod -aG docker "$(id -un)"
    command=
    for word in "$@"; do command="$command '$(printf %s "$word" | sed "s/'/'\\\\''/g")'"; done
    exec sg docker -c "$command"
fi
exec "$@"
