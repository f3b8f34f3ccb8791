#!/bin/bash
# Makes a relocatable prefix of Debian 12's python3.11 and unpacks pycosat beside it.
# Runs as root in a throw-away Debian container of 12 or newer.
# usage: python_prefix.sh WORK_FOLDER   makes WORK_FOLDER/{prefix,pycosat}
set -euo pipefail
work=$1
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
prefix=$work/prefix
python_packages=(python3.11-minimal libpython3.11-minimal libpython3.11-stdlib python3-distutils)
library_packages=(libssl3 libffi8 libsqlite3-0 libexpat1 zlib1g libbz2-1.0 liblzma5 libncursesw6 libtinfo6
    libreadline8 libuuid1 libdb5.3 libgdbm6 libcrypt1 libnsl2 libtirpc3)
solver_packages=(python3-pycosat picosat)

# Bookworm's packages whatever the container's own release: their glibc is the older one. A list of its own keeps
# apt's signature check and leaves the container's sources alone; the empty status hides what is installed here.
mkdir -p "$work"/{lists/partial,debs,root,solver,tools}
touch "$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" > "$work/bookworm.list"
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/bookworm.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
    -o "Dir::State::status=$work/status" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Acquire::Retries=3)
"${apt[@]}" update
(cd "$work/debs" && "${apt[@]}" download "${python_packages[@]}" "${library_packages[@]}" "${solver_packages[@]}" patchelf)
unpack() { # folder, packages
    local folder=$1 package
    shift
    for package in "$@"; do dpkg-deb -x "$work/debs/$package"_*.deb "$folder"; done
}
unpack "$work/root" "${python_packages[@]}" "${library_packages[@]}"
unpack "$work/solver" "${solver_packages[@]}"
unpack "$work/tools" patchelf
set_rpath() { # relative to the file's own folder
    local rpath=$1
    shift
    # DT_RPATH, not RUNPATH: it also holds for the libraries of the libraries
    "$work/tools/usr/bin/patchelf" --force-rpath --set-rpath "\$ORIGIN/$rpath" "$@"
}

mkdir -p "$prefix"/{bin,lib}
cp -a "$work/root/usr/bin/python3.11" "$prefix/bin/"
ln -s python3.11 "$prefix/bin/python3"
ln -s python3.11 "$prefix/bin/python"
cp -a "$work/root/usr/lib/python3.11" "$prefix/lib/"
library=$prefix/lib/python3.11
rm "$library/EXTERNALLY-MANAGED" "$library/sitecustomize.py"

# Debian freezes its own site module, which knows dist-packages only.
cat > "$library/sitecustomize.py" <<'PYTHON'
import site
import sys

site.addsitedir(f"{sys.prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
# what a test server keeps of what Python compiles
try:
    with open("/usr/local/lib/keep_bytecode.py") as file:
        exec(file.read())
except OSError:
    pass
PYTHON
grep -q "prefix_scheme = 'posix_local'" "$library/sysconfig.py"
sed -i "s/prefix_scheme = 'posix_local'/prefix_scheme = 'posix_prefix'/" "$library/sysconfig.py"

# Every shared library but glibc's travels along.
find "$work/root/usr/lib/x86_64-linux-gnu" "$work/root/lib/x86_64-linux-gnu" -maxdepth 1 -name '*.so.*' \
    -exec cp -a {} "$prefix/lib/" \;
set_rpath ../lib "$prefix/bin/python3.11"
set_rpath ../.. "$library"/lib-dynload/*.so
find "$prefix/lib" -maxdepth 1 -type f -name '*.so.*' | while read -r file; do set_rpath . "$file"; done

mkdir -p "$work/pycosat/lib/python3.11/site-packages"
cp "$work"/solver/usr/lib/python3/dist-packages/pycosat*.so "$work/pycosat/lib/python3.11/site-packages/"
cp "$work/solver/usr/lib/x86_64-linux-gnu/libpicosat.so.1.0.0" "$work/pycosat/lib/libpicosat.so.1"
set_rpath ../.. "$work"/pycosat/lib/python3.11/site-packages/pycosat*.so
