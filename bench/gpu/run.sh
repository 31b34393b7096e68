#!/usr/bin/env bash
# Everything that is worth knowing about a GPU, in one run of at most 9 minutes:
#
#   bench/gpu/run.sh RESULTS [--dry]
#
# RESULTS gets a log of each step and summary.md, with versions and date, for bench/results/.
# --dry runs the same steps, as short as they get, on a CPU, so that nothing is left to luck.
#
# Environment: PYTHON, the interpreter (python3). WHEELS, a folder of wheels that are installed
# into a folder of this run first, for a machine without network. SECONDS_IN_ALL (540).
#
# The exit code is the number of steps that failed or ran out of time; the others still ran.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

usage() { sed -n '2,12p' "$0" | cut -c3-; exit 2; }
[[ $# -ge 1 && $# -le 2 && $1 != -* && ${2:---dry} == --dry ]] || usage
mkdir -p "$1" || exit 2
results=$(cd "$1" && pwd)
is_dry=${2:+yes}
python=${PYTHON:-python3}
seconds_in_all=${SECONDS_IN_ALL:-540}

if [[ -n ${WHEELS:-} ]]; then
  site=$(mktemp -d) && trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

if [[ -n $is_dry ]]; then
  device=(--device cpu --repeats 1 --endpoint MaxPool3d_2a_3x3 --precisions fp32)
  batch_sizes=(1)
  export OMP_NUM_THREADS=1
else
  device=(--device cuda)
  batch_sizes=(8 16 32 64)
  export REQUIRE_GPU=1
  "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null || {
    echo "error: $python has no torch that finds a CUDA device: set PYTHON, install a build with CUDA, or use --dry" >&2
    exit 2
  }
fi

num_failed=0
summary=$results/summary.md
{
  echo "# A GPU, $(date -u +%Y-%m-%d)"
  echo
  echo "\`bench/gpu/run.sh${is_dry:+ ... --dry}\` at $(git rev-parse --short HEAD 2>/dev/null || echo '?')"
  echo
} > "$summary"

# step NAME SECONDS COMMAND...: runs a command, with a limit of its own (unless dry) and that of
# the whole run.
step() {
  local name=$1 limit=$2 left=$((seconds_in_all - SECONDS)) began=$SECONDS code=0 outcome=ok
  shift 2
  [[ -z $is_dry ]] || limit=$left
  ((limit = limit < left ? limit : left))
  if ((limit < 5)); then
    outcome="not run: the $seconds_in_all s were over"
  else
    timeout --signal=INT --kill-after=10 "$limit" "$@" > "$results/$name.log" 2>&1 || code=$?
    case $code in
      0) ;;
      124 | 137) outcome="out of time after $limit s" ;;
      *) outcome="failed with $code: see $name.log" ;;
    esac
  fi
  [[ $outcome == ok ]] || ((num_failed++))
  echo "$name: $outcome, $((SECONDS - began)) s" | tee -a "$summary"
  {
    echo
    if [[ -f $results/$name.md ]]; then cat "$results/$name.md"; else grep -vE "nanobind| - " "$results/$name.log" | tail -n 20; fi
    echo
  } >> "$summary" 2>&1
}

# measure NAME SECONDS OPTION...: a section of `python -m bench`, whose table goes to the summary.
measure() {
  rm -f "$results/$1.md"
  step "$1" "$2" "$python" -m bench "${@:3}" "${device[@]}" --out "$results/$1.md"
}

step tests 150 "$python" -m pytest -q -m "gpu and not slow" -p no:cacheprovider tests
for size in "${batch_sizes[@]}"; do
  measure "network-$size" 60 network --batch-size "$size"
done
measure end-to-end 150 end-to-end
measure decode 60 decode
compiled=(--compile)
[[ -n $is_dry ]] && compiled=()
measure training 90 training "${compiled[@]}"

echo "$summary"
exit "$num_failed"
