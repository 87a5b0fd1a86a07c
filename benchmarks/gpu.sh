#!/usr/bin/env bash
# Runs what needs a GPU, on a machine with one NVIDIA GPU and no network.
#
#     benchmarks/gpu.sh [tests|decode|loader|mix|peers|step|cifar]...    without an argument all of them, in this order
#
# Each stage takes less than 8 minutes and writes its result at once: tests.xml, decode.json, loader.json, mix.json,
# peers.json, step.json, cifar.json in $OUT (default: benchmarks/results). `python3 tools/benchmark.py report $OUT` joins
# them, here or elsewhere.
#
# What the machine lacks is taken from folders that lie beside this checkout's files, where they are there:
#     .bundle/   the parts of ../shared/gpu/make_bundle.py and its unpack_bundle.sh: DALI, FFCV, libturbojpeg
#     .whl/      wheels, for what else is missing (jsonargparse)
# FASTTAIL_COMMIT names the commit where the copy has no .git. PYTHON chooses the Python (default: python3).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly LIMIT=470  # seconds of a stage
STAGES=(tests decode loader mix peers step cifar)
out=${OUT:-benchmarks/results}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"

if [[ -f .bundle/unpack_bundle.sh ]]; then
    # shellcheck disable=SC1091
    source .bundle/unpack_bundle.sh .bundle
fi
if compgen -G '.whl/*.whl' >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/fasttail-wheels .whl/*.whl
    PYTHONPATH=$PYTHONPATH:/tmp/fasttail-wheels
fi

stage() {
    local name=$1
    echo "== $name"
    if [[ $name == tests ]]; then
        timeout "$LIMIT" "$python" -m pytest -q -m gpu --junitxml="$out/tests.xml" tests
    else
        timeout "$LIMIT" "$python" tools/benchmark.py "$name" --json "$out/$name.json"
    fi
}

[[ $# -gt 0 ]] || set -- "${STAGES[@]}"
for name in "$@"; do
    if [[ " ${STAGES[*]} " != *" $name "* ]]; then
        echo "gpu.sh: no stage $name; there are ${STAGES[*]}" >&2
        exit 2
    fi
done

"$python" -m benchmarks.gpu_machine || exit 1
failed=()
for name in "$@"; do
    start=$SECONDS
    stage "$name" || failed+=("$name")
    echo "== $name: $((SECONDS - start)) s"
done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "gpu.sh: these stages failed or ran out of time: ${failed[*]}" >&2
    exit 1
fi
