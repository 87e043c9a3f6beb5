"""What is installed on this machine, what each thing is for, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

from kws.errors import KwsError, pip_install, quoted

STARTS_S = 20  # the first start from a cold disk


@dataclass(frozen=True)
class Check:
    """One thing looked for.

    Args:
        name: What.
        ok: Whether it is here and usable.
        required: Whether every verb needs it.
        found: Version or place; "" if missing.
        purpose: What it is for.
        hint: How to get it.
    """

    name: str
    ok: bool
    required: bool
    found: str
    purpose: str
    hint: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


PACKAGES = (
    # distribution, extra ("" = always needed), purpose
    ("numpy", "", "arrays"),
    ("click", "", "the command line"),
    ("rich", "", "progress and colours on a terminal"),
    ("cffi", "", "the firmware's C in Python"),
    ("soundfile", "", "WAV, FLAC, MP3 and other recordings"),
    ("soxr", "", "recordings of other rates than 16 kHz"),
    ("tflite", "", "reading .tflite files"),
    ("pyelftools", "", "reading firmware images"),
    ("platformdirs", "", "the folder of this user's cache"),
    ("tomli-w", "", "writing recipes"),
    ("threadpoolctl", "", "threads of NumPy's products"),
    ("tensorflow", "train", "training and conversion"),
    ("tf-keras", "train", "training and conversion"),
    ("tensorflow-model-optimization", "train", "quantization-aware training"),
    ("tflite-micro", "train", "the reference interpreter (kws eval --engine tflm)"),
    ("matplotlib", "sweep", "plots of a sweep (kws sweep, kws report)"),
    ("optuna", "sweep", "a sweep on several machines (kws sweep --study)"),
    ("pyocd", "flash", "programming boards (kws flash)"),
    ("pyserial", "flash", "serial ports of boards (kws flash, kws monitor)"),
    ("segno", "phone", "a QR code of an address (kws data record --phone)"),
    (
        "sounddevice",
        "listen",
        "this machine's microphone (kws listen, kws data record)",
    ),
)


def checks() -> list[Check]:
    """Look at everything, quickly: nothing heavy is imported."""
    return [
        _python(),
        *(_package(*package) for package in PACKAGES),
        _features(),
        _host_compiler(),
        _cross_compiler(),
        _qemu(),
        _tool("openocd", "programming boards that pyOCD has no target for"),
        _bossac(),
        _tool("ffmpeg", "M4A, AAC and WMA recordings", argument="-version"),
        _tool(
            "openssl",
            "recording with a phone (kws data record --phone)",
            argument="version",
        ),
        _tool("node", "the Pico's image in rp2040js (tests)", "nodejs"),
        _probes(),
        _ports(),
        _data(),
        _espeak(),
        *_voices(),
    ]


def _python() -> Check:
    version = sys.version_info
    return Check(
        name="python",
        ok=(3, 11) <= version[:2] < (3, 14),
        required=True,
        found=".".join(map(str, version[:3])),
        purpose="3.11, 3.12 or 3.13",
        hint="apt-get install python3 (3.11 or newer, below 3.14)",
    )


def _package(name: str, extra: str, purpose: str) -> Check:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return Check(
        name=name,
        ok=bool(version),
        required=not extra,
        found=version,
        purpose=purpose,
        hint=pip_install(extra),
    )


def _optional(name: str, found: str, purpose: str, hint: str) -> Check:
    """What some verbs need, and others don't."""
    return Check(name, bool(found), False, found, purpose, hint)


def _started(name: str, purpose: str, hint: str, argument: str = "--version") -> Check:
    """A program: on the PATH, and able to tell its version."""
    path = shutil.which(name) or ""
    check = _optional(name, path, purpose, hint)
    if not path:
        return check
    try:
        subprocess.run(
            (path, argument), capture_output=True, timeout=STARTS_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        hint = f"{path} is there and does not start. Try: {quoted(path)} {argument}"
        return replace(check, ok=False, found="", hint=hint)
    return check


def _features() -> Check:
    found = importlib.util.find_spec("kws.features._native") is not None
    return Check(
        name="C features",
        ok=found,
        required=True,
        found="built" if found else "",
        purpose="feature extraction, built by a C compiler with Python's headers",
        hint=pip_install(),
    )


def _host_compiler() -> Check:
    from kws.deploy import toolchain

    return _optional(
        "C compiler",
        " ".join(toolchain.host() or ()),
        "the firmware's C on this machine (kws eval --engine host)",
        toolchain.HOST_HINT,
    )


def _cross_compiler() -> Check:
    from kws.deploy import toolchain

    return _optional(
        "cross compiler",
        "; ".join(f"{tools.name}: {tools.version}" for tools in toolchain.available()),
        "firmware (kws build, kws flash)",
        toolchain.HINT,
    )


def _qemu() -> Check:
    from kws.deploy.runners import qemu

    error = qemu.missing()
    hint = error.hint if error is not None else ""
    return _started(qemu.EXECUTABLE, "the emulated boards", hint)


def _tool(
    name: str, purpose: str, package: str = "", argument: str = "--version"
) -> Check:
    hint = f"apt-get install {package or name}   (macOS: brew install {name})"
    return _started(name, purpose, hint, argument)


def _bossac() -> Check:
    """One that knows the chip: Debian's doesn't, and `kws flash` takes none such."""
    from kws.deploy import boards
    from kws.deploy.failures import FAILURES
    from kws.deploy.runners import bossac

    device = boards.load("nano33ble").options_of(bossac.EXECUTABLE)["device"]
    return _optional(
        bossac.EXECUTABLE,
        "; ".join(map(str, bossac.knowing(device))),
        "a Nano 33 BLE without a debug probe (kws flash --tool bossac)",
        FAILURES["no-bossac"].hint,
    )


def _probes() -> Check:
    """Debug probes that are plugged in."""
    from kws.deploy.failures import UDEV
    from kws.deploy.runners import pyocd

    found, hint = "", f"Plug one in. On Linux it needs udev rules: {UDEV}"
    error = pyocd.missing()
    try:
        if error is not None:
            raise error
        found = "; ".join(f"{probe.title}" for probe in pyocd.probes())
    except KwsError as failure:
        hint = failure.hint
    return _optional("debug probe", found, "real boards (kws flash)", hint)


def _ports() -> Check:
    """USB serial ports that are plugged in."""
    from kws.deploy import serial_port

    found, hint = "", "Plug in a board's USB, or a USB-serial adapter (docs/boards.md)"
    error = serial_port.missing()
    if error is not None:
        hint = error.hint
    else:
        ports = serial_port.ports()
        found = "; ".join(f"{port.id} {port.title} {ids}" for port, ids in ports)
    return _optional("serial port", found, "real boards (kws flash, kws monitor)", hint)


def _data() -> Check:
    from kws.data import find_data, open_corpus

    hint, found = "", ""
    try:
        path = find_data(None)
        if not path.name.endswith((".tar.gz", ".tgz")):  # which would be unpacked
            open_corpus(path)
        found = str(path)
    except KwsError as error:
        hint = error.hint
    return _optional(
        "Speech Commands", found, "training and evaluating on the real data set", hint
    )


def _espeak() -> Check:
    name, purpose = "espeak-ng", "TTS corpora (kws data synth)"
    hint = "pip install espeakng-loader   (or apt-get install espeak-ng)"
    if importlib.util.find_spec("espeakng_loader"):  # which is taken first
        version = importlib.metadata.version("espeakng-loader")
        return _optional(name, f"espeakng-loader {version}", purpose, hint)
    return _started(name, purpose, hint)


def _voices() -> list[Check]:
    """The engines beside eSpeak NG."""
    from kws.data import voices

    purpose = "TTS corpora with voices nearer to people's (kws data synth)"
    found = []
    for name in voices.names():
        if name != voices.BASE:
            engine = voices.get(name)
            error = engine.missing()
            here = "" if error else "installed"
            hint = error.hint if error else ""
            found.append(_optional(engine.TITLE, here, purpose, hint))
    return found
