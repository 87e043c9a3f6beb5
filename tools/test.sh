#!/usr/bin/env bash
# Set up what is missing, then run every check: formatting, lint, types, all tests.
# At most 25 minutes on 2 cores. Arguments go to pytest: tools/test.sh -k kernels
set -euo pipefail
cd "$(dirname "$0")/.."
export KWS_SETUP_ZIG=1
bash tools/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
export TF_USE_LEGACY_KERAS=1 TF_CPP_MIN_LOG_LEVEL=2
# The tools were just installed: a test that misses one fails instead of skipping.
export KWS_REQUIRE_TOOLS=1

say() { printf '[test] %s\n' "$*" >&2; }
say "formatting and lint"
ruff format --check -q .
ruff check -q .
git ls-files 'firmware/*.c' 'firmware/*.h' 'firmware/*.cc' 'firmware/*.ino' 'tests/*.c' | xargs clang-format --dry-run -Werror
say "layers"
lint-imports --no-cache --no-logo >/dev/null || lint-imports --no-cache --no-logo
say "types"
mypy
say "tests"
python -m pytest -n 2 --dist loadfile "$@"
