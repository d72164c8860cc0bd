"""Compression of a field, both ways within bounds: what lies in a store cannot make a process run out of memory."""

import zlib

from vedsess_middleware.sealing.texts import unreadable

__all__ = ["LONGEST", "Packing"]

LONGEST = 16 * 1024 * 1024
"""Bytes that a field may have when it is decompressed."""

_LEVEL = 1  # three times as fast as the default of zlib, and a tenth larger


class Packing:
    """Compresses what is long enough.

    Args:
        above: compresses texts of more bytes; None: none.
        longest: neither compresses nor decompresses beyond so many bytes.
    """

    def __init__(self, above: int | None, longest: int) -> None:
        self._above, self._longest = longest if above is None else above, longest

    def pack(self, raw: bytes, room: int) -> bytes | None:
        """The compressed bytes.  None: it is not long enough, or they need more room than there is to gain by it."""
        if not self._above < len(raw) <= self._longest:
            return None
        small = zlib.compress(raw, _LEVEL)
        return small if len(small) <= room else None

    def unpack(self, name: str, small: bytes) -> bytes:
        """What was compressed.  Raises `SerializationError`: it is damaged, or longer than it may be."""
        inflating = zlib.decompressobj()
        try:
            raw = inflating.decompress(small, self._longest + 1)
        except zlib.error:
            raise unreadable(name) from None
        if len(raw) > self._longest:
            raise unreadable(name, f"has more than {self._longest} bytes when it is decompressed")
        if not inflating.eof or inflating.unused_data:
            raise unreadable(name)
        return raw
