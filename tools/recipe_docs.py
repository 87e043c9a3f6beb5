"""Write docs/recipe.md: every key of a recipe, from the docstrings of kws/recipe.py."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import tomli_w

from kws.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"
HEAD = """# The recipe

**Which settings are there, and what does each do?**

A recipe is what `kws train` needs to know. The shipped ones are TOML files in
`kws/recipes/`; `kws train --preset` takes one, `--recipe my.toml` your own, which names
a base and what differs from it:

```toml
base = "kwt-tiny"
[task]
name = "custom"
words = ["hey robot", "stop"]
[train]
epochs = 40
```

The defaults below hold where neither the file nor its base says anything. An unknown
key, a value of another type and one out of its range are refused. This page is written
by `python tools/recipe_docs.py` from the docstrings of `kws/recipe.py`; a test compares
the two.

`name`: what the run is called, at the board's boot too; without it, its folder's name.
"""


def keys(section: type) -> dict[str, str]:
    """What a section's docstring says of each key."""
    text = inspect.getdoc(section) or ""
    _, _, listed = text.partition("Args:\n")
    found: dict[str, str] = {}
    key = ""
    for line in listed.splitlines():
        if not line.startswith("    "):
            if line.strip():
                break  # another part of the docstring
            continue
        new = re.match(r"    (\w+): (.*)", line)
        if new:
            key = new[1]
            found[key] = new[2]
        else:
            found[key] += " " + line.strip()
    return found


def lead(section: type) -> str:
    """A section's docstring without its keys."""
    text = (inspect.getdoc(section) or "").partition("Args:")[0]
    return re.sub(r" \(DESIGN (D\d+)\)", r" (\1)", text).strip()


def shown(value: Any) -> str:
    """A default as a recipe has it.

    Example:
        >>> shown((2, 4)), shown(False), shown("conv")
        ('[2, 4]', 'false', '"conv"')
    """
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    return tomli_w.dumps({"x": value}).strip().removeprefix("x = ")


def page() -> str:
    """The page.

    Raises:
        ValueError: a key that its docstring doesn't name, or the other way round.
    """
    parts = [HEAD]
    for field in dataclasses.fields(Recipe):
        if field.name == "name":
            continue
        section = type(getattr(Recipe(), field.name))
        told = keys(section)
        names = [key.name for key in dataclasses.fields(section)]
        if sorted(told) != sorted(names):
            odd = sorted(set(told) ^ set(names))
            raise ValueError(f"[{field.name}]: {odd} in one of docstring and fields")
        parts.append(f"## [{field.name}]\n\n{lead(section)}\n")
        rows = ["| key | default | meaning |", "|---|---|---|"]
        for name in names:
            default = shown(getattr(section(), name))
            meaning = told[name].replace("|", "\\|")
            meaning = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", meaning)
            rows.append(f"| `{name}` | `{default}` | {meaning} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
