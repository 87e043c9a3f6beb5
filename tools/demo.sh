#!/usr/bin/env bash
# Set up what is missing, then run the main job end to end (at most 12 minutes on two
# cores): a spoken corpus, training, conversion, and firmware in QEMU that hears words.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
export TF_CPP_MIN_LOG_LEVEL=2
exec .venv/bin/kws demo --train "$@"
