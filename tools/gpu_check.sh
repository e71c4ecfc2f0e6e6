#!/usr/bin/env bash
# Parity, speed and loading on a GPU, from the source tree and without a network: tools/gpu_check.sh --out FOLDER
# takes less than 6 minutes and writes FOLDER/gpu.md, gpu.json and log.txt. --help says more.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "found no $python of 3.10 or later, expected one: set PYTHON to an interpreter that has torch" >&2
  exit 2
fi
# Nothing is fetched, and float32 is float32: containers may ask for TF32 in its place.
export HF_HUB_OFFLINE=1 NVIDIA_TF32_OVERRIDE=0
export PYTHONPATH="$root/src:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/tools/gpu_check.py" "$@"
