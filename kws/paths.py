"""Where things are: the files that come with kws, and this user's cache.

In a checkout (an editable install) `firmware/`, `datasets/` and LICENSE lie beside the
package. An installed package has them inside, in kws/_files: setup.py puts them there.

Example:
    >>> (FIRMWARE / "include" / "kws.h").is_file()
    True
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_files"

CHECKOUT = None if _INSTALLED.is_dir() else _PACKAGE.parent
"""The repository's folder; None in an installed package."""
_FILES = CHECKOUT or _INSTALLED
FIRMWARE = _FILES / "firmware"
DATASETS = _FILES / "datasets"
LICENSE = _FILES / "LICENSE"


def user_cache() -> Path:
    """The folder of what can be made again: `KWS_CACHE`, else the system's for users.

    On Linux that is `$XDG_CACHE_HOME/kws`, else `~/.cache/kws`. It holds compiled
    objects, decoded audio and fetched data sets.
    """
    explicit = os.environ.get("KWS_CACHE")
    if explicit:
        return Path(explicit)
    from platformdirs import user_cache_path

    return user_cache_path("kws", appauthor=False)
