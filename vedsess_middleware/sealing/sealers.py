"""What makes the stored text of a field and opens it again, with and without encryption."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from vedsess_middleware.sealing.cipher import cipher_of
from vedsess_middleware.sealing.packing import LONGEST, Packing
from vedsess_middleware.sealing.texts import (
    MARKS,
    base64_of,
    bytes_of,
    cut_key_id,
    misconfigured,
    take_apart,
    unreadable,
    until_text,
)

__all__ = ["MARKS", "FieldSealer", "Opened", "PlainSealer", "Sealer", "field_sealer"]

_ENCRYPTED = ("1", "1z")


class Opened(NamedTuple):
    """What a stored text holds.

    Attributes:
        text: the codec's.
        until: when the field ends, in epoch seconds; None: with the session.  Who opens it asks the clock.
        current: encrypted as it would be now; otherwise it is due to be sealed again when the field is next written.
    """

    text: str
    until: float | None
    current: bool

    def __repr__(self) -> str:
        return f"<Opened until={self.until} current={self.current}>"


class Sealer(Protocol):
    """Makes the text that is stored of the codec's text of a field, and back.  Must not do I/O.

    Attributes:
        transparent: a text that begins with none of `MARKS` is the codec's own and current, without an end.  So who
            reads many need not have each opened.
    """

    transparent: bool

    def seal(self, key: str, name: str, text: str, *, until: float | None = None) -> str:
        """The text to store under this name in the record of this key.

        `until` says when the field ends, in epoch seconds, exact to the millisecond; None: with the session.
        """
        ...

    def open(self, key: str, name: str, stored: str) -> Opened:
        """What `seal` was given.

        Raises:
            SerializationError: it is damaged, was changed, or was moved here.
            StoreMisconfigured: a person has to mend a setting before it can be read, or may be.
        """
        ...


def field_sealer(
    *,
    encryption_keys: Sequence[str],
    accepts_plain: bool = False,
    compress_above: int | None = None,
    longest: int = LONGEST,
) -> Sealer:
    """The sealer for these settings.

    Args:
        encryption_keys: the newest first: it encrypts, all decrypt.  Empty: nothing is encrypted.
        accepts_plain: also reads what was stored before there was an encryption key.  Default False.
        compress_above: compresses texts of more bytes, where that makes them smaller.  Default None: never.  What was
            compressed is read all the same.  Beware: how far a text shrinks tells something of it, encrypted or not.
        longest: bytes that a text may have when it is decompressed; longer ones are not compressed.  Default 16 MiB.

    Raises:
        ConfigurationError: a key is too short, or the library that encrypts is missing.
    """
    if not encryption_keys:
        return PlainSealer(compress_above=compress_above, longest=longest)
    return FieldSealer(encryption_keys, accepts_plain=accepts_plain, compress_above=compress_above, longest=longest)


class PlainSealer:
    """Stores what the codec wrote, as it is or compressed.  What is encrypted it recognises, and refuses.

    >>> PlainSealer().seal("", "cart", "[1,2]")
    '[1,2]'
    >>> PlainSealer().seal("", "cart", "[1,2]", until=1795464000)
    '@1795464000000:[1,2]'

    Args:
        compress_above: see `field_sealer`.
        longest: see `field_sealer`.
    """

    transparent = True

    def __init__(self, *, compress_above: int | None = None, longest: int = LONGEST) -> None:
        self._compresses = compress_above is not None
        self._packing = Packing(compress_above, longest)

    def seal(self, key: str, name: str, text: str, *, until: float | None = None) -> str:
        """See `Sealer`: the codec's text itself, unless there is something to say or to save."""
        if until is None and text[:1] not in MARKS and not self._compresses:
            return text
        head = until_text(until)
        raw = text.encode()
        small = self._packing.pack(raw, room=(len(raw) - 4) * 3 // 4)  # so that base64 and the mark do not eat it up
        if small is not None:
            return f"{head}$z${base64_of(small)}"
        return f"{head}$p${text}" if text[:1] in MARKS else head + text

    def open(self, key: str, name: str, stored: str) -> Opened:
        """See `Sealer`."""
        if stored[:1] not in MARKS:
            return Opened(stored, None, True)
        parts = take_apart(name, stored)
        if parts.form in _ENCRYPTED:
            key_id, _ = cut_key_id(name, parts.body)
            raise misconfigured(
                name, f"is encrypted, and encryption_key is not set: set it to the key that has the id {key_id}"
            )
        if parts.form != "z":
            return Opened(parts.body, parts.until, True)
        return Opened(_decoded(name, self._packing.unpack(name, bytes_of(name, parts.body))), parts.until, True)


class FieldSealer:
    """Encrypts every field.

    Args:
        encryption_keys: see `field_sealer`; at least one.
        accepts_plain: see `field_sealer`.
        compress_above: see `field_sealer`.
        longest: see `field_sealer`.

    Raises:
        ConfigurationError: a key is too short, or the library that encrypts is missing.
    """

    transparent = False

    def __init__(
        self,
        encryption_keys: Sequence[str],
        *,
        accepts_plain: bool = False,
        compress_above: int | None = None,
        longest: int = LONGEST,
    ) -> None:
        ciphers = [cipher_of(encryption_key) for encryption_key in encryption_keys]
        self._newest, self._ciphers = ciphers[0], {cipher.id: cipher for cipher in reversed(ciphers)}
        self._packing = Packing(compress_above, longest)
        self._plain = PlainSealer(longest=longest) if accepts_plain else None

    def seal(self, key: str, name: str, text: str, *, until: float | None = None) -> str:
        """See `Sealer`: the text encrypted with the newest key."""
        raw = text.encode()
        small = self._packing.pack(raw, room=len(raw) - 2)  # so that the letter for it does not eat it up
        form, raw = ("1", raw) if small is None else ("1z", small)
        head = f"{until_text(until)}${form}${self._newest.id}$"
        return head + base64_of(self._newest.encrypt(raw, head=head, key=key, name=name))

    def open(self, key: str, name: str, stored: str) -> Opened:
        """See `Sealer`."""
        parts = take_apart(name, stored)
        if parts.form not in _ENCRYPTED:
            return self._open_plain(key, name, stored)
        key_id, sealed = cut_key_id(name, parts.body)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            known = ", ".join(reversed(self._ciphers))
            raise misconfigured(
                name,
                f"is encrypted with a key that encryption_key does not list: add the one that has the id {key_id} "
                f"behind those that are there ({known})",
            )
        raw = cipher.decrypt(bytes_of(name, sealed), head=f"{parts.head}{key_id}$", key=key, name=name)
        if parts.form == "1z":
            raw = self._packing.unpack(name, raw)
        return Opened(_decoded(name, raw), parts.until, cipher is self._newest)

    def _open_plain(self, key: str, name: str, stored: str) -> Opened:
        if self._plain is None:
            raise misconfigured(
                name,
                "is not encrypted, and encryption_key is set: if it was stored before that, set "
                "encryption_accepts_plain to True until the last session of that time is over",
            )
        return self._plain.open(key, name, stored)._replace(current=False)


def _decoded(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        pass  # raised below, so that no chained error carries the value
    raise unreadable(name)
