"""Where things are: the cache is where its variables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws import paths
from kws.data import archives


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"KWS_CACHE": "/a"}, "/a"),
        ({"KWS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"KWS_CACHE": "", "XDG_CACHE_HOME": "/b"}, "/b/kws"),
        ({"HOME": "/home/anna"}, "/home/anna/.cache/kws"),
    ],
)
def test_the_cache_is_where_its_variables_say(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KWS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert paths.user_cache() == Path(expected)


def test_everything_that_is_kept_goes_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Decoded audio as well as objects: KWS_CACHE once moved the objects alone."""
    monkeypatch.setenv("KWS_CACHE", str(tmp_path / "cache"))
    soundfile.write(tmp_path / "yes.flac", np.zeros(16000, np.int16), 16000)
    archives.decoded(tmp_path / "yes.flac")
    assert list((tmp_path / "cache" / "decoded").glob("*.npy"))
