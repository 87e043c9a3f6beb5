"""Pages of one file each: a run that listens (docs/live.md), and one that records
words (docs/data.md).

Their parts lie beside this file and are joined here: page.html, style.css and app.js
with the compiled module (kws.deploy.web) and what the page has to know of the run;
record.html, record.css and record.js; base.css and microphone.js are of both. They ask
the network for nothing: a policy (CSP) in them forbids that, and lets this script alone
run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from kws import attention
from kws.bundle import Bundle
from kws.emit import common
from kws.recipe import Q15_ONE

FOLDER = Path(__file__).parent
CHANGES = "thresholds"  # where a served page sends moved ones, beside its own address


def page(
    bundle: Bundle,
    module: bytes,
    facts: dict[str, str] | None = None,
    saving: bool = False,
    kept_because: str = "",
) -> str:
    """The page.

    Args:
        bundle: With a model.tflite.
        module: Its WebAssembly.
        facts: More that is known of it, name -> text: shown as it is.
        saving: Whether the page is served by one who takes thresholds (`CHANGES`).
        kept_because: Why moved thresholds can't be written into the run, for people.

    Example:
        >>> from kws import bundle
        >>> "<title>kwt-tiny, live</title>" in page(bundle.load("kwt-tiny"), b"")
        True
    """
    return _joined(
        ("page.html", "style.css", "app.js"),
        _data(bundle, facts or {}, saving, kept_because),
        saving,
        name=html.escape(bundle.recipe.name),
        module=base64.b64encode(module).decode("ascii"),
    )


def recorder(facts: dict[str, Any]) -> str:
    """The page that records words, for the server that takes recordings from it
    (kws.deploy.record).

    Args:
        facts: What it has to know: `out`, `prompts`, `clip_seconds`, `speaker`,
            `speakers`.
    """
    return _joined(("record.html", "record.css", "record.js"), facts, True)


def _joined(
    parts: tuple[str, str, str], data: dict[str, Any], saving: bool, **values: str
) -> str:
    """A page out of its HTML, style and script, and what it has to know."""
    page, style, script = map(_text, parts)
    style = _text("base.css") + style
    script = _text("microphone.js") + script
    # In a script element "<" could end it.
    known = json.dumps(data).replace("<", "\\u003c")
    values |= {"policy": policy(style, script, saving), "data": known}
    values |= {"style": style, "script": script}
    return re.sub("@@([a-z]+)@@", lambda match: values[match[1]], page)


def policy(style: str, script: str, saving: bool) -> str:
    """The page's Content-Security-Policy: what it may load, run and ask for.

    `data:` is for the microphone's worklet, a part of the script; `wasm-unsafe-eval`
    for the module, which can call nothing. (Text from outside, a label or a file's
    name, is never made HTML: app.js has no innerHTML.)
    """
    connect = "'self'" if saving else "'none'"
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}' 'wasm-unsafe-eval' data:",
            f"style-src '{_hash(style)}'",
            f"connect-src {connect}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _text(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(
    bundle: Bundle, facts: dict[str, str], saving: bool, kept_because: str
) -> dict[str, Any]:
    features, detector = bundle.recipe.features, bundle.recipe.detector
    return {
        "name": bundle.recipe.name,
        "hash": bundle.hash[:16],
        "labels": list(bundle.labels),
        "first_word": common.first_word(bundle.labels),
        "thresholds": list(common.word_thresholds(bundle)),
        "rearm": detector.rearm,
        "one": Q15_ONE,
        "smoothing": detector.smoothing,
        "sample_rate": features.sample_rate,
        "hop": features.hop,
        "window": features.window,
        "frames": features.frames,
        "mel_bins": features.mel_bins,
        "scale": features.scale,
        "zero_point": features.zero_point,
        "hop_frames": detector.hop_frames,
        "kinds": attention.kind_names(),
        "facts": facts,
        "save": CHANGES if saving else None,
        "kept_because": kept_because,
    }
