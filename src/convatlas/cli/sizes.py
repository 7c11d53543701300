"""Amounts of bytes on the command line."""

from __future__ import annotations

import re

from convatlas.errors import UsageError


def byte_size(text: str) -> int:
    """Bytes as people write them: "2GB" is 2e9, "512 MiB" is 512 x 2^20. Raises `UsageError`.

    Examples:
        >>> byte_size("2GB"), byte_size("1.5 GiB"), byte_size("800M")
        (2000000000, 1610612736, 800000000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt])(i)?)?b?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size; write one like 500MB, 2GB or 1.5GiB.")
    power = " kmgt".index((match[2] or " ").lower())
    return round(float(match[1]) * (1024 if match[3] else 1000) ** power)
