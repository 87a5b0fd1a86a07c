#!/usr/bin/env bash
# Runs what needs a GPU, on a machine with one NVIDIA GPU and no network.
#
#     benchmarks/gpu.sh [STAGE]...    without an argument all of them, in the order of STAGES below
#
# All stages together fit a loan of 30 minutes: none takes longer than its limit below, 27 minutes in all. A stage has
# its most important rows first, begins nothing that its time does not allow, and writes its rows as they come, so that
# one that is ended leaves what it has measured: STAGE.json in $OUT (default: benchmarks/results).
# `python3 tools/benchmark.py report $OUT` joins them, here or elsewhere. `tools/benchmark.py NAME` alone has longer
# times for the whole of a benchmark.
#
# What the machine lacks is taken from folders that lie beside this checkout's files, where they are there:
#     .bundle/   the parts of ../shared/gpu/make_bundle.py and its unpack_bundle.sh: DALI, FFCV, libturbojpeg
#     .whl/      wheels, for what else is missing (jsonargparse, docstring_parser: it does not bring it)
# FASTTAIL_COMMIT names the commit where the copy has no .git. PYTHON chooses the Python (default: python3).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAGES=(tests decode loader mix peers step settings cifar)
declare -rA LIMIT=(  # seconds; --minutes below end before
    [tests]=240 [decode]=130 [loader]=120 [mix]=80 [peers]=210 [step]=380 [settings]=130 [cifar]=300
)
declare -rA BENCHMARK=(
    [decode]='decode --minutes 1.6 --seconds 0.4'
    [loader]='loader --minutes 1.4 --seconds 0.3'
    [mix]='mix --minutes 0.9 --seconds 0.4'
    [peers]='peers --minutes 2.8 --seconds 0.8'
    [step]='step --rows data --minutes 5.6 --seconds 1'
    [settings]='step --rows settings --minutes 1.6 --seconds 0.8'
    [cifar]='cifar --minutes 4.5'
)
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
    local name=$1 arguments
    echo "== $name"
    if [[ $name == tests ]]; then
        # Ctrl-C, so that pytest still says what failed; -W default: versions are this machine's, not the pinned ones,
        # and a new deprecation is no failure
        timeout --signal=INT --kill-after=15 "${LIMIT[tests]}" "$python" -m pytest -q -m gpu -W default \
            --continue-on-collection-errors -p benchmarks.tested --rows "$out/tests.json" \
            tests/pipelines tests/training tests/benchmarks tests/tools tests/test_*.py
    else
        read -ra arguments <<<"${BENCHMARK[$name]}"
        timeout --kill-after=5 "${LIMIT[$name]}" "$python" tools/benchmark.py "${arguments[@]}" --json "$out/$name.json"
    fi
}

[[ $# -gt 0 ]] || set -- "${STAGES[@]}"
for name in "$@"; do
    if [[ " ${STAGES[*]} " != *" $name "* ]]; then
        echo "gpu.sh: no stage $name; there are ${STAGES[*]}" >&2
        exit 2
    fi
done

if ! "$python" -m benchmarks.gpu_machine "$@"; then
    echo "gpu.sh: the stage tests cannot run without what is MISSING" >&2
    exit 1
fi
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
