#!/usr/bin/env bash
# Makes or updates .venv: `tools/install.sh package` for users, `tools/install.sh dev` with what tests need.
#
# A finished installation leaves a stamp in .venv that names all it was made from, so that a second call has
# nothing to do. The stamps go before anything changes and come back at the end: a .venv without one was
# interrupted and is made anew. PYTHON chooses the Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

want=${1:-package}
[[ $want == package || $want == dev ]] || { echo "usage: tools/install.sh [package|dev]" >&2; exit 2; }

# Prints the real path of a Python 3.11 to 3.13: of $PYTHON if given, else of the first on the PATH. The real path,
# because python3 on the PATH may be a shim, or that of an activated .venv.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.13 python3.11}; do
        "$candidate" - 2>/dev/null <<'EOF' && return
import os, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(1)
print(os.path.realpath(sys.executable))
EOF
    done
    return 1
}

exec 9<constraints.txt
flock 9 # two calls at once: the second waits and then finds nothing to do

python=$(find_python) || python=
if [[ -z $python && -n ${PYTHON:-} ]]; then
    echo "install: PYTHON=$PYTHON is not a Python 3.11 to 3.13 that runs here; name one that is." >&2
    exit 1
fi
tools/install_system_packages.sh "$python"
python=${python:-$(find_python)} || {
    echo "install: no Python 3.11 to 3.13 on this machine; install one and name it: make install PYTHON=/path/to/python3.12" >&2
    exit 1
}

constraints=${CONSTRAINTS:-constraints.txt}
made_with="$python $("$python" -c 'import sys; print(sys.version)' | head -n 1) in $PWD"
made_of=$(sha256sum setup.py pyproject.toml "$constraints" | sha256sum)
stamp=$(printf '%s\n%s' "$made_with" "$made_of")
stamps=(.venv/installed-package .venv/installed-dev)

for done in .venv/installed-"$want" .venv/installed-dev; do
    if [[ -f $done && $(<"$done") == "$stamp" ]]; then
        exit 0
    fi
done

if ! grep -qsxF -- "$made_with" "${stamps[@]}"; then
    echo "install: making .venv with $python"
    rm -f "${stamps[@]}"
    "$python" -m venv --clear .venv
fi
rm -f "${stamps[@]}"

# The two variables hold the versions in the isolated builds too (of FFCV and of this package); which of them
# counts there depends on pip's version.
export PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints
extras=
[[ $want == dev ]] && extras='[dev]'
echo "install: the packages of $constraints into .venv; some minutes and about 7 GB the first time"
.venv/bin/python -m pip install --no-input --disable-pip-version-check -c "$constraints" -e ".$extras"

[[ $want == dev ]] && printf '%s\n' "$stamp" >.venv/installed-dev
printf '%s\n' "$stamp" >.venv/installed-package
