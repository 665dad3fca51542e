#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA GPU can tell, in one call: PyTorch's reference figures, device buffers
# and events, TensorRT, and whether TensorRT-RTX's engines load. Changes no setting of the card. Works from a checkout
# with whatever the machine's Python has; a check whose library is missing says so. Results go to
# docs/measurements/gpu_check.json and, from bench, docs/measurements/gpu_*.json.
#
# Run: scripts/gpu_check.sh [folder for results]        PYTHON=… chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" scripts/gpu_check.py "${1:-docs/measurements}"
