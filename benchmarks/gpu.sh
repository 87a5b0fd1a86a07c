#!/usr/bin/env bash
# Runs what needs a GPU, on a machine with one NVIDIA GPU and no network.
#
#     benchmarks/gpu.sh [STAGE]...    without an argument all of STAGES below but `runs`, in their order
#
# All stages but `runs` fit a loan of 30 minutes: none takes longer than its limit below, 27 minutes in all. A stage has
# its most important rows first, begins nothing that its time does not allow, and writes its rows as they come, so that
# one that is ended leaves what it has measured: STAGE.json in $OUT (default: benchmarks/results), and what all of them
# said in gpu-FIRST_STAGE.log there. Stages that are named go on where an earlier call ended.
# `python3 tools/benchmark.py report FOLDER` joins the files, here or elsewhere. `tools/benchmark.py NAME` alone has
# longer times for the whole of a benchmark.
#
# What the machine lacks is taken from folders that lie beside this checkout's files, where they are there:
#     .bundle/   the parts of ../shared/gpu/make_bundle.py and its unpack_bundle.sh: DALI, FFCV, libturbojpeg. They may
#                come one by one, each with another call: they are kept in /tmp, and unpacked when they are all there
#     .whl/      wheels, for what else is missing (jsonargparse, docstring_parser: it does not bring it)
# FASTTAIL_COMMIT names the commit where the copy has no .git. PYTHON chooses the Python (default: python3).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAGES=(tests decode loader mix peers step settings cifar runs)
declare -rA LIMIT=(  # seconds; --minutes below end before
    [tests]=240 [decode]=130 [loader]=120 [mix]=80 [peers]=210 [step]=380 [settings]=130 [cifar]=300 [runs]=400
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
declare -rA TESTS=(  # files with the mark gpu, kernels first; runs: those of many processes, a few seconds to start each
    [tests]='pipelines/test_mix_kernel.py pipelines/resident/test_kernel.py pipelines/test_augment_gpu.py
        training/test_step_gpu.py training/test_cuda_graph.py pipelines/test_decode_dali.py
        pipelines/test_gpu_backends.py training/test_loop_waits.py training/test_default_run.py
        pipelines/test_pinned_views.py pipelines/test_mix_reference.py training/test_checkpoint_writer.py
        training/test_process_group.py benchmarks/test_mix.py benchmarks/test_step.py benchmarks/test_decode_gpu.py'
    [runs]='training/test_stops_deterministic.py training/test_ranks.py training/test_eval_decode.py
        tools/test_benchmark.py tools/test_doctor.py'
)
out=${OUT:-benchmarks/results}
python=${PYTHON:-python3}
parts=/tmp/fasttail-parts
bundle=/tmp/fasttail-bundle

fetch_libraries() {
    if compgen -G '.bundle/*' >/dev/null; then
        mkdir -p "$parts" && cp -u .bundle/* "$parts"
    fi
    if [[ ! -d $bundle ]] && compgen -G "$parts/part-*" >/dev/null; then
        # whole or not at all; by Python, for the machine may have no xz
        rm -rf "$bundle.new"
        cat "$parts"/part-* >"$bundle.tar.xz"
        if "$python" -W ignore -m tarfile -e "$bundle.tar.xz" "$bundle.new" 2>/dev/null; then
            mv "$bundle.new" "$bundle"
        else
            echo "gpu.sh: the parts in $parts make no whole archive yet: nothing of them is used" >&2
        fi
        rm -rf "$bundle.tar.xz" "$bundle.new"
    fi
    if [[ -d $bundle ]]; then
        # shellcheck disable=SC1091
        source "$parts/unpack_bundle.sh" "$parts" "$bundle"
    fi
    if compgen -G '.whl/*.whl' >/dev/null; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
            --target /tmp/fasttail-wheels .whl/*.whl
    fi
    if [[ -d /tmp/fasttail-wheels ]]; then
        export PYTHONPATH=$PYTHONPATH:/tmp/fasttail-wheels
    fi
}

keep_machine_code() {
    # A copy whose files are new with every call would have numba compile for half a minute each time: it goes by their
    # times. They become a number that any change of any of them changes.
    local sources
    if [[ ! -e .git ]]; then
        mapfile -t sources < <(find pipelines -name '*.py' | sort)
        touch -d "@$(cat "${sources[@]}" | cksum | cut -d ' ' -f 1)" "${sources[@]}"
    fi
}

stage() {
    local name=$1 arguments files patience=()
    echo "== $name"
    if [[ -n ${TESTS[$name]:-} ]]; then
        read -ra files -d '' <<<"${TESTS[$name]}"
        if "$python" -c 'import pytest_timeout' 2>/dev/null; then
            patience=(--timeout 150)  # so that a test that hangs leaves time to the others
        fi
        # Ctrl-C, so that pytest still says what failed; -W default: versions are this machine's, not the pinned ones,
        # and a new deprecation is no failure
        timeout --signal=INT --kill-after=15 "${LIMIT[$name]}" "$python" -m pytest -v -m gpu -W default --tb=short \
            --durations=20 --continue-on-collection-errors "${patience[@]}" -p benchmarks.tested \
            --rows "$out/$name.json" "${files[@]/#/tests/}"
    else
        read -ra arguments <<<"${BENCHMARK[$name]}"
        timeout --kill-after=5 "${LIMIT[$name]}" "$python" tools/benchmark.py "${arguments[@]}" --json "$out/$name.json"
    fi
}

main() {
    local failed=() name start
    fetch_libraries
    keep_machine_code
    if ! "$python" -m benchmarks.gpu_machine "$@"; then
        echo "gpu.sh: the stages tests and runs cannot run without what is MISSING" >&2
        return 1
    fi
    for name in "$@"; do
        start=$SECONDS
        stage "$name" || failed+=("$name")
        echo "== $name: $((SECONDS - start)) s"
    done
    if [[ ${#failed[@]} -gt 0 ]]; then
        echo "gpu.sh: these stages failed or ran out of time: ${failed[*]}" >&2
        return 1
    fi
}

[[ $# -gt 0 ]] || set -- "${STAGES[@]::${#STAGES[@]}-1}"
for name in "$@"; do
    if [[ " ${STAGES[*]} " != *" $name "* ]]; then
        echo "gpu.sh: no stage $name; there are ${STAGES[*]}" >&2
        exit 2
    fi
done
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
main "$@" 2>&1 | tee "$out/gpu-$1.log"
