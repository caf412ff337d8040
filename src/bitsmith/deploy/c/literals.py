"""Python's values as C writes them."""

from __future__ import annotations

import textwrap

import numpy as np

_TYPES = {
    np.dtype(np.uint8): "uint8_t",
    np.dtype(np.int8): "int8_t",
    np.dtype(np.uint16): "uint16_t",
    np.dtype(np.int16): "int16_t",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.float32): "float",
}


def number(value: np.float32 | float) -> str:
    """A float32 to its last bit, in nine digits.

    Example:
        >>> number(np.float32(0.1))
        '0.100000001f'
    """
    text = f"{float(np.float32(value)):.9g}"
    return f"{text if '.' in text or 'e' in text else text + '.0'}f"


def string(text: str) -> str:
    """A string literal; everything but plain ASCII is escaped byte by byte, and so is the "?" of trigraphs.

    Example:
        >>> string('a"b')
        '"a\\\\042b"'
    """
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode()
    )
    return f'"{plain}"'


def comment(text: str) -> str:
    """Text that ends no comment and starts none."""
    return "".join(c if c.isprintable() else " " for c in text).replace("*/", "* /").replace("/*", "/ *")


def array(name: str, values: np.ndarray) -> str:
    """A constant array, its numbers wrapped."""
    flat = values.reshape(-1)
    numbers = ", ".join(number(x) if values.dtype == np.float32 else str(x) for x in flat)
    body = textwrap.fill(numbers, 116, initial_indent="    ", subsequent_indent="    ")
    return f"static const {_TYPES[values.dtype]} {name}[{len(flat)}] = {{\n{body},\n}};"
