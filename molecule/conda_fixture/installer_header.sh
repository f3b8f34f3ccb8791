#!/bin/sh
# Stand-in for the Miniforge3 @VERSION@ Linux-x86_64 installer: same options, same layout; the payload follows the last line.
set -eu
unset LD_LIBRARY_PATH LD_PRELOAD CONDARC PYTHONPATH PYTHONHOME || :
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
PREFIX=${HOME:-/opt}/miniforge3 batch=no existing=no
usage() {
    cat <<USAGE
usage: $0 [options]
Miniforge3 @VERSION@ (stand-in for tests)
  -b         batch mode, the only mode here
  -p PREFIX  install prefix (default $PREFIX), no spaces
  -f, -u     continue if the prefix exists; environments in it stay
  -h         this text
  -c -i -k -m -s -t  accepted, without effect
USAGE
}
while getopts bcfhikmp:stu option; do
    case $option in
        b) batch=yes ;; f|u) existing=yes ;; p) PREFIX=$OPTARG ;; c|i|k|m|s|t) ;;
        h) usage; exit 2 ;; *) usage >&2; exit 1 ;;
    esac
done
[ $batch = yes ] || { echo "no interactive mode here, use -b" >&2; exit 2; }
case $PREFIX in *" "*) echo "ERROR: no spaces allowed in the prefix" >&2; exit 1 ;; esac
if [ $existing = no ] && [ -e "$PREFIX" ]; then
    echo "ERROR: $PREFIX exists already; -u updates an installation" >&2
    exit 1
fi
mkdir -p "$PREFIX"
PREFIX=$(cd "$PREFIX" && pwd)
echo "PREFIX=$PREFIX"
lines=$(awk '/^#PAYLOAD$/ {print NR; exit}' "$self")
start=$(($(head -n "$lines" "$self" | wc -c) + 1))
if [ "$(tail -c "+$start" "$self" | md5sum | cut -c1-32)" != @MD5@ ]; then
    echo "WARNING: payload checksum differs" >&2
fi
tail -c "+$start" "$self" | tar -xz --no-same-owner -C "$PREFIX"
# The unpacked packages run conda once, to link themselves into the prefix.
path=
for folder in "$PREFIX"/pkgs/*/site-packages "$PREFIX"/pkgs/*/lib/python3.*/site-packages; do
    [ ! -d "$folder" ] || path=$path${path:+:}$folder
done
python=$(find "$PREFIX/pkgs" -path "$PREFIX/pkgs/python-3*/bin/python3.*" -type f | sort | tail -n 1)
env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$path" CONDA_ROOT_PREFIX="$PREFIX" CONDA_PKGS_DIRS="$PREFIX/pkgs" \
    CONDA_CHANNELS=conda-forge CONDA_REGISTER_ENVS=0 CONDA_SAFETY_CHECKS=disabled CONDA_QUIET=1 CONDA_SOLVER=classic \
    CONDA_NO_PLUGINS=true "$python" -m conda install --offline -y -p "$PREFIX" --file "$PREFIX/conda-meta/initial-state.explicit.txt"
mkdir -p "$PREFIX/envs"
printf 'channels:\n  - conda-forge\n' > "$PREFIX/.condarc"
echo "installation finished."
exit 0
#PAYLOAD
