#!/bin/sh
# Gives a container the IPv6 loopback and address that every real server has and that Docker leaves out.
# Run inside the container at each start, before systemd. Needs SYS_ADMIN and NET_ADMIN.
set -eu

if [ ! -d /proc/sys/net/ipv6 ]; then
    echo "network.sh: the kernel of this Docker host has no IPv6; this server has IPv4 only" >&2
    exit
fi
# Docker mounts it read-only; "bind", or all of /proc would change
mount -o remount,bind,rw /proc/sys
for name in all default lo eth0; do echo 0 > "/proc/sys/net/ipv6/conf/$name/disable_ipv6"; done
mount -o remount,bind,ro /proc/sys
# of the IPv4 address, so that all containers of a bridge reach each other
ipv4=$(ip -4 -o address show dev eth0 | awk '{ sub("/.*", "", $4); print $4; exit }')
ip -6 address replace "fd00:ba5e::$ipv4/64" dev eth0 nodad
