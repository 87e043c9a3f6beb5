r"""Small pure functions that write C.

Example:
    >>> string('say "hi"')
    '"say \\042hi\\042"'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

_C_TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
}


def string(text: str) -> str:
    """A C string literal: every byte that is not plain ASCII as three octal digits."""
    plain = set(range(32, 127)) - {ord('"'), ord("\\"), ord("?")}
    body = "".join(
        chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{body}"'


def comment(text: str, width: int = 88) -> str:
    """A one-line C comment that no text can break out of."""
    plain = "".join(char if 32 <= ord(char) < 127 else "?" for char in text)
    # No end or start of a comment, no trigraph, no line continuation.
    for bad, good in (("*/", "* /"), ("/*", "/ *"), ("??", "? ?"), ("\\", "/")):
        plain = plain.replace(bad, good)
    return f"/* {plain[: width - 6]} */".replace("**/", "* */")


def number(value: int) -> str:
    """An integer; INT32_MIN has no literal of its own type in C."""
    return "(-2147483647 - 1)" if value == -(2**31) else str(int(value))


def numbers(values: Iterable[int], width: int = 88) -> str:
    """Initialiser rows of at most `width` columns."""
    lines, line = [], " "
    for value in values:
        text = number(value)
        if len(line) + len(text) + 2 > width:
            lines.append(line)
            line = " "
        line += f" {text},"
    return "\n".join([*lines, line])


def array(symbol: str, values: np.ndarray) -> str:
    """A static const array, aligned for any kernel's wide loads: to 4 bytes at least.

    Args:
        symbol: A C identifier.
        values: int8, uint8, uint16 or int32; flattened.
    """
    ctype = _C_TYPES[values.dtype.name]
    flat = values.reshape(-1)
    align = ""
    if values.dtype.itemsize == 1:
        align = f"_Alignas({16 if flat.size >= 16 else 4}) "
    return (
        f"static {align}const {ctype} {symbol}[{flat.size}] = {{\n"
        f"{numbers(flat.tolist())}\n}};\n"
    )


def struct(ctype: str, symbol: str, fields: Mapping[str, object]) -> str:
    """A static const struct with named fields; a dict is a struct inside."""
    return f"static const {ctype} {symbol} = {_initialiser(fields, 0)};\n"


def _initialiser(fields: Mapping[str, object], depth: int) -> str:
    pad = "  " * depth
    lines = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            value = _initialiser(value, depth + 1)
        lines.append(f"{pad}  .{name} = {value},\n")
    return "{\n" + "".join(lines) + pad + "}"


def call(function: str, *arguments: object) -> list[str]:
    """One call, broken where a line would be too long.

    Example:
        >>> call("f", "x", 1)
        ['f(x, 1);']
    """
    texts = [str(argument) for argument in arguments]
    lines, line = [], f"{function}("
    for i, text in enumerate(texts):
        piece = text + (");" if i == len(texts) - 1 else ", ")
        if len(line) + len(piece) > 80:
            lines.append(line.rstrip())
            line = "    "
        line += piece
    return [*lines, line]
