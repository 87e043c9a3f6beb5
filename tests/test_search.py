"""tools/search.py: variants by block, on three objectives, gone on with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("optuna")

import small_corpus  # noqa: E402
import toolbox  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SPACE = (
    small_corpus.NETWORK.replace("layers = 1", "layers = 2").replace(
        "[task]", '[task]\nname = "custom"\nwords = ["yes", "no"]'
    )
    + """\
[augment]
variants = 1
[train]
batch_size = 8
[space]
"model.attention" = [["conv", "softmax"], ["performer", "reuse"], ["softmax", "reuse"]]
"""
)


def test_blocks_are_searched_for_loss_instructions_and_bytes(tmp_path: Path) -> None:
    toolbox.need_qemu()
    audio = small_corpus.make(tmp_path / "audio")
    (tmp_path / "space.toml").write_text(SPACE)

    def search(*options: str) -> list[dict[str, str]]:
        done = subprocess.run(
            [
                *(sys.executable, str(ROOT / "tools" / "search.py")),
                *(str(tmp_path / "space.toml"), "--study", str(tmp_path / "s.log")),
                *("--data", str(audio), "--epochs", "1", *options),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in done.stdout.splitlines()
            if line.startswith("|")
        ]
        return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]

    first = search("--one-at-a-time")
    by_variant = {row["model.attention"]: row for row in first}
    assert set(by_variant) == {
        "[conv, softmax]",
        "[performer, reuse]",
        "[softmax, reuse]",
    }
    # A block that reuses a map has to come after one that makes one.
    refused = by_variant["[performer, reuse]"]
    assert refused["loss on validation"] == "not possible"
    trained = [row for row in first if row is not refused]
    for row in trained:
        each, second = (
            int(row[key].replace(",", "")) for key in ("M4 instructions", "a second")
        )
        # 6.25 decisions, and the features.
        assert second > 6.25 * each > 0
        assert float(row["loss on validation"]) > 0
    assert any(row["front"] == "yes" for row in trained)
    # The study is in its file, for another process to go on with.
    assert search("--trials", "0") == first
