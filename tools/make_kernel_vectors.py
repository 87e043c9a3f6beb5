"""Write tests/c/vectors/kernel_cases.c: kernel cases with TFLM's answers.

Run again after a change of the cases or of the pinned tflite-micro; the diff shows
whether TFLM's arithmetic moved.

    python tools/make_kernel_vectors.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kernel_support import cases  # noqa: E402

OUTPUT = ROOT / "tests" / "c" / "vectors" / "kernel_cases.c"
SEED = 1
COUNTS = {
    "fully_connected": 9,
    "conv_2d": 4,
    "batch_matmul": 5,
    "attention": 5,
    "softmax": 3,
    "binary": 12,
    "mean": 3,
    "concatenation": 1,
    "table": 1,
    "depthwise_conv_2d": 12,
    "linear_attention": 6,
}


def text() -> str:
    """The file's content."""
    title = f"Made by tools/make_kernel_vectors.py (seed {SEED}); do not edit."
    return cases.c_source(cases.make(COUNTS, SEED), title)


if __name__ == "__main__":
    OUTPUT.write_text(text(), encoding="utf-8")
    print(f"{OUTPUT.relative_to(ROOT)}: {OUTPUT.stat().st_size:,} bytes")
