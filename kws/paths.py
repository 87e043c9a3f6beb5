"""Where the files beside the code are."""

from __future__ import annotations

from pathlib import Path

# C sources, boards, templates: in the repository, beside the package.
FIRMWARE = Path(__file__).resolve().parents[1] / "firmware"
