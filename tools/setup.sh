#!/usr/bin/env bash
# Set up what demo.sh and test.sh need; sourced or run. Nothing is set up twice.
#
#   .venv        Python packages, pinned in pyproject.toml and tools/constraints.txt
#   QEMU         Debian package qemu-system-arm
#   Flite        Debian package flite: more voices for kws data synth
#   a cross compiler: arm-none-eabi-gcc (Debian), else zig (PyPI ziglang)
#
# KWS_SETUP_ZIG=1 installs zig beside gcc (the tests build every board with both), what
# tests read and speak audio with (ffmpeg, espeak-ng, and Pico, which is built from C in
# seconds), openssl, which makes a page's certificate, bossac, PortAudio, the browser
# that they open pages in (chromium with chromium-driver, about 120 MB), and the compiler
# that they fuzz with (clang with its runtime, about 50 MB).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '[setup] %s\n' "$*" >&2; }
stop() {
  printf '[setup] Error: %s\n' "$1" >&2
  printf '[setup] Hint:  %s\n' "$2" >&2
  exit 2
}

# Run apt-get as root where that is possible; 1 where it is not.
apt_install() {
  command -v apt-get >/dev/null || return 1
  local root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
    root=(sudo -n)
  fi
  if [ -z "${apt_updated:-}" ]; then
    "${root[@]}" apt-get update -qq >/dev/null 2>&1 || true
    apt_updated=1
  fi
  say "installing Debian packages: $*"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

python=""
for candidate in python3 python3.11 python3.12 python3.13; do
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || stop "Python 3.11, 3.12 or 3.13 is needed; found $(python3 --version 2>&1 || echo none)." \
  "apt-get install python3"

command -v cc >/dev/null || apt_install gcc libc6-dev ||
  stop "a C compiler (cc) is needed to build the feature extraction." "apt-get install gcc libc6-dev"
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
  apt_install "$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')" ||
  stop "Python's C headers (Python.h) are missing." "apt-get install python3-dev"

if [ ! -x .venv/bin/python ]; then
  "$python" -c 'import ensurepip' 2>/dev/null ||
    apt_install "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" ||
    stop "Python cannot make virtual environments here." "apt-get install python3-venv"
  say "creating .venv with $("$python" --version)"
  "$python" -m venv .venv
fi

extras=train,synth,sweep,flash,test
command -v arm-none-eabi-gcc >/dev/null || apt_install gcc-arm-none-eabi libnewlib-arm-none-eabi || true
if ! command -v arm-none-eabi-gcc >/dev/null; then
  say "arm-none-eabi-gcc can't be had here; zig (PyPI ziglang) will cross-compile"
  extras=$extras,zig
elif [ "${KWS_SETUP_ZIG:-}" = 1 ]; then
  extras=$extras,zig
fi

stamp=.venv/kws-setup-$(cat pyproject.toml setup.py tools/constraints.txt \
  firmware/src/features*.[ch] firmware/include/kws_core.h \
  firmware/include/kws_features.h kws/features/*.py 2>/dev/null |
  sha256sum | cut -c1-16)-${extras//,/-}
if [ ! -f "$stamp" ]; then
  say "installing Python packages into .venv (extras: $extras; about 2 GB, a minute or two)"
  # Of all that pip says, the large downloads: minutes without a word look like none.
  .venv/bin/python -m pip install --progress-bar off --disable-pip-version-check \
    -c tools/constraints.txt -e ".[$extras]" |
    sed -unE 's/^ *Downloading (.*\/)?([^ -]+)-.* \(([0-9]{2,}(\.[0-9]+)? MB|.* GB)\).*/[setup]   \2, \3/p
      s/^Installing collected packages.*/[setup]   unpacking/p' >&2 ||
    stop "pip could not install the packages." \
      "look at the message above; a proxy or mirror is set with PIP_INDEX_URL"
  rm -f .venv/kws-setup-*
  touch "$stamp"
fi

command -v qemu-system-arm >/dev/null || apt_install qemu-system-arm ||
  stop "QEMU (qemu-system-arm) is missing and can't be installed from here." \
    "sudo apt-get install qemu-system-arm"

command -v flite >/dev/null || apt_install flite ||
  say "flite can't be had here; kws data synth will speak with eSpeak NG alone"

if [ "${KWS_SETUP_ZIG:-}" = 1 ]; then
  for tool in ffmpeg espeak-ng openssl; do
    command -v "$tool" >/dev/null || apt_install "$tool" ||
      say "$tool can't be had here; its test will be skipped"
  done
  command -v bossac >/dev/null || apt_install bossa-cli ||
    say "bossac can't be had here; its tests will be skipped, or fail"
  .venv/bin/python -c 'import sounddevice' 2>/dev/null || apt_install libportaudio2 ||
    say "PortAudio can't be had here; its test will be skipped"
  .venv/bin/python -c 'import ttspico' 2>/dev/null ||
    .venv/bin/python -m pip install -q --disable-pip-version-check \
      -c tools/constraints.txt ttspico 2>/dev/null ||
    say "Pico can't be built here; its tests will be skipped"
  command -v chromium >/dev/null && command -v chromedriver >/dev/null ||
    apt_install chromium chromium-driver ||
    say "chromium can't be had here; tests of pages will be skipped, or fail"
  # libFuzzer is in a package of its own, named by clang's version.
  fuzzer() {
    clang -fsanitize=fuzzer,address -x c - -o /dev/null 2>/dev/null \
      <<<'int LLVMFuzzerTestOneInput(void) { return 0; }'
  }
  command -v clang >/dev/null || apt_install clang || true
  fuzzer || apt_install "libclang-rt-$(clang -dumpversion 2>/dev/null | cut -d. -f1)-dev" || true
  fuzzer || say "clang with libFuzzer can't be had here; its tests will be skipped, or fail"
fi

# The emulator that the Pico's image is tested in, where Node.js is installed.
if [ "${KWS_SETUP_ZIG:-}" = 1 ] && command -v npm >/dev/null &&
  [ ! -d tests/rp2040/node_modules/rp2040js ]; then
  npm ci --silent --prefix tests/rp2040 >/dev/null 2>&1 ||
    say "rp2040js can't be installed here; its test will be skipped"
fi

say "ready: $(.venv/bin/kws --version), $(qemu-system-arm --version | head -n 1)," \
  "$(arm-none-eabi-gcc --version 2>/dev/null | head -n 1 || echo zig)"
