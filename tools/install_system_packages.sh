#!/usr/bin/env bash
# Installs the Debian packages that FFCV's build and .venv need, where they are missing, without a question.
#
# `tools/install_system_packages.sh PYTHON`: the Python that .venv will be made with, "" if there is none yet. What
# is there is asked of pkg-config, the compiler and Python, not of dpkg, so that other installations count too.
set -euo pipefail

python=${1:-}
packages=()

if ! command -v cc >/dev/null || ! command -v c++ >/dev/null; then packages+=(build-essential); fi
if ! command -v pkg-config >/dev/null; then packages+=(pkg-config); fi
if ! pkg-config --exists libturbojpeg 2>/dev/null; then packages+=(libturbojpeg0-dev); fi
if ! pkg-config --exists opencv4 2>/dev/null; then packages+=(libopencv-dev); fi

# Debian keeps Python's headers and ensurepip in packages of their own; other Pythons bring them or lack them for good.
if [[ -z $python ]]; then
    packages+=(python3 python3-dev python3-venv)
else
    name=$(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")
    lacks=()
    "$python" -c 'import ensurepip, venv' 2>/dev/null || lacks+=("$name-venv")
    "$python" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        lacks+=("$name-dev")
    if [[ ${#lacks[@]} -gt 0 && $python != /usr/bin/* ]]; then
        echo "install: $python has no Python.h or no ensurepip; name another Python: make install PYTHON=/path/to/python3.12" >&2
        exit 1
    fi
    packages+=("${lacks[@]}")
fi

[[ ${#packages[@]} -gt 0 ]] || exit 0

give_up() {
    echo "install: $1, and FFCV's build needs: ${packages[*]}. Install them (as root: apt-get install ${packages[*]}; elsewhere what these Debian packages hold) and run the same command again." >&2
    exit 1
}

command -v apt-get >/dev/null || give_up "there is no apt-get here"
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || give_up "this user is not root and there is no sudo"
    sudo -n true 2>/dev/null || give_up "this user is not root and sudo asks for a password"
    as_root=(sudo -n "${as_root[@]}")
fi

echo "install: system packages ${packages[*]}"
# One unreachable third-party source fails the update as a whole; whether it matters, the installation tells.
"${as_root[@]}" apt-get update -q || echo "install: apt-get update failed; going on with the lists that are here" >&2
"${as_root[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}" </dev/null ||
    give_up "apt-get install failed"
