"""Encryption of a field: AES-256-GCM (ASVS 11.3.2), from a library that comes with an extra.

With the ciphertext it authenticates all that stands in front of it, the session's key and the field's name: moved to
another place, or given another end, a field does not open (ASVS 11.3.3).  An older text of the same field still does.
"""

import secrets

from vedsess_middleware.errors import ConfigurationError
from vedsess_middleware.sealing.texts import unreadable

__all__ = ["Cipher", "cipher_of"]

_SHORTEST = 32
_NONCE = 12
_INFO = b"vedsess_middleware.sealing:1"


class Cipher:
    """Encrypts with one key, each time under a random nonce.

    A key is good for 2**32 fields (NIST SP 800-38D, 8.3): for more than a year of a hundred a second.

    Args:
        text: the key; of no particular form, and random.

    Attributes:
        id: names the key in what it encrypts, and reveals nothing of it.

    Raises:
        ImportError: the library is missing.
    """

    def __init__(self, text: str) -> None:
        # Here, so that nobody pays for it who does not encrypt.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.id = _derived(text, _INFO + b":id", 4).hex()
        self._aead = AESGCM(_derived(text, _INFO, 32))
        self._refused = InvalidTag

    def __repr__(self) -> str:
        return f"<Cipher {self.id}>"

    def encrypt(self, raw: bytes, *, head: str, key: str, name: str) -> bytes:
        """The nonce, the ciphertext and the tag, bound to what stands in front and to their place."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, raw, _bound(head, key, name))

    def decrypt(self, sealed: bytes, *, head: str, key: str, name: str) -> bytes:
        """What was encrypted.  Raises `SerializationError`: not by this key, not for this place, or changed since."""
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], _bound(head, key, name))
        except (self._refused, ValueError):  # the latter for a nonce that is cut short
            raise unreadable(name, "is not what was stored in its place: it was changed, or moved") from None


def cipher_of(encryption_key: str) -> Cipher:
    """The cipher of a key as it is configured.

    Raises:
        ConfigurationError: the key is too short, or the library is missing.
    """
    if len(encryption_key) < _SHORTEST:
        mend = "make one with `vedsess keygen`"
        raise ConfigurationError(f"encryption_key is shorter than {_SHORTEST} characters: {mend}")
    try:
        return Cipher(encryption_key)
    except ImportError as error:
        raise ConfigurationError(f"encryption_key: {error}; pip install 'vedsess-middleware[crypto]'") from error


def _derived(text: str, info: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(text.encode())


def _bound(head: str, key: str, name: str) -> bytes:
    """What is authenticated beside the ciphertext; it can be read in one way only."""
    return f"{head}{len(key)}:{key}{name}".encode(errors="surrogatepass")
