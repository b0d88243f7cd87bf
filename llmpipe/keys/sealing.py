"""Envelope encryption: a key is sealed by a data key of its own, and that by a master key.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce for each sealing, of which there is one for each data
key and, for each master key, one for each row; so no key comes near the 2**32 that the standard allows. What
names the row (vault, tenant, provider, name, version, time) is associated data, so that a row that was put in
the place of another, or is made to look younger, does not open. A new master key seals the data keys anew,
and leaves the keys themselves alone.

A master secret of 32 bytes in base64 or hex is taken as it is, through HKDF (RFC 5869). Any other is taken
for a passphrase, through scrypt (RFC 7914; N 2**15, r 8, p 1: about 0.1 s and 32 MB), with the salt that
stands in the row.
"""

from __future__ import annotations

import base64
import binascii
import os
from threading import Lock
from typing import Any

from llmpipe.errors import ConfigError
from llmpipe.secret import Secret

__all__ = ("MasterKey", "NotOpened", "associated", "open_sealed", "seal")

_FORM = b"\x01"
_SALT, _NONCE = 16, 12
_FINGERPRINT = b"llmpipe id"  # a salt that is shorter than those in rows, so never one of them
_SHORTEST = 16
_MAX_DERIVED = 1000  # of salts; each process that seals has one


class NotOpened(Exception):
    """The key does not fit, or what was sealed was changed or belongs elsewhere: which, cannot be told."""


def _aead() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ConfigError("keys are sealed with cryptography: pip install 'llmpipe[vault]'") from error
    return AESGCM


def associated(*parts: str) -> bytes:
    """`parts` as associated data: each with its length before it, so that no two lists are alike."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


def seal(key: bytes, plain: bytes, names: bytes) -> bytes:
    """`plain` sealed by the 32 bytes of `key`, bound to `names`: form, nonce, ciphertext with its tag."""
    nonce = os.urandom(_NONCE)
    sealed: bytes = _aead()(key).encrypt(nonce, plain, names)
    return _FORM + nonce + sealed


def open_sealed(key: bytes, sealed: bytes, names: bytes) -> bytes:
    """What `seal` was given. Raises: NotOpened."""
    from cryptography.exceptions import InvalidTag

    if sealed[:1] != _FORM or len(sealed) < 1 + _NONCE + 16:
        raise NotOpened("what was sealed is no sealed key, or of a newer form")
    try:
        plain: bytes = _aead()(key).decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], names)
    except InvalidTag:
        raise NotOpened("the key does not fit, or what was sealed was changed") from None
    return plain


class MasterKey:
    """A master secret, which seals data keys. Cannot be printed, as the `Secret` in it.

    Args: id: stands in the rows; by default a fingerprint of the secret, which for a passphrase is as slow
        to make as its key.

    Attributes: slow: whether a key that is not known yet takes a tenth of a second to make.

    Raises: ConfigError for one that is shorter than 16 characters.
    """

    __slots__ = ("_derived", "_lock", "_raw", "_salt", "_secret", "id", "slow")

    def __init__(self, secret: str | Secret, id: str = "") -> None:  # noqa: A002  the field's name for it
        self.id = id
        self._secret = secret = Secret(secret)
        if len(self._secret.reveal()) < _SHORTEST:  # nothing of it in a local: tracebacks may show them
            raise ConfigError(
                f"a master secret{f' ({id})' if id else ''} has fewer than {_SHORTEST} characters; "
                "make one: openssl rand -base64 32"
            )
        self._raw = _raw(self._secret.reveal())
        self.slow = self._raw is None
        self._salt = os.urandom(_SALT)
        self._derived: dict[bytes, bytes] = {}
        self._lock = Lock()
        self.id = id or self._derive(_FINGERPRINT)[:4].hex()

    def wrap(self, data_key: bytes, names: bytes) -> bytes:
        """The data key sealed: salt, then as `seal` does it. Slow at first, for a passphrase."""
        return self._salt + seal(self._key(self._salt), data_key, names)

    def unwrap(self, wrapped: bytes, names: bytes) -> bytes:
        """What `wrap` was given. Raises: NotOpened."""
        if len(wrapped) <= _SALT:
            raise NotOpened("the data key is cut off")
        return open_sealed(self._key(wrapped[:_SALT]), wrapped[_SALT:], names)

    def _key(self, salt: bytes) -> bytes:
        found = self._derived.get(salt)
        if found is None:
            with self._lock:  # one at a time: scrypt takes 32 MB
                found = self._derived.get(salt) or self._derive(salt)
                if len(self._derived) >= _MAX_DERIVED:
                    self._derived.clear()
                self._derived[salt] = found
        return found

    def _derive(self, salt: bytes) -> bytes:
        _aead()  # says how to get it
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        if self._raw is not None:
            return HKDF(SHA256(), 32, salt, b"llmpipe vault").derive(self._raw)
        return Scrypt(salt, 32, 2**15, 8, 1).derive(self._secret.reveal().encode())

    def __repr__(self) -> str:
        return f"MasterKey({self.id!r})"


def _raw(text: str) -> bytes | None:
    """The 32 bytes that `text` spells, if it spells any."""
    try:
        if len(text) == 64:
            return bytes.fromhex(text)
        if len(text) in (43, 44):
            raw = base64.b64decode(text.translate({45: 43, 95: 47}).ljust(44, "="), validate=True)
            return raw if len(raw) == 32 else None
    except (ValueError, binascii.Error):
        pass  # a passphrase, which may look like anything
    return None
