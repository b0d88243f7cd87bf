"""Stored replies as bytes, and back exactly: for every backend that is not this process's memory.

What an entry is on disk or on the wire, all numbers little-endian:

======  =============================================================================================
bytes   what
======  =============================================================================================
2       ``lp``
1       the version of the format
1       flags: 1, the rest is a zstd frame
16      BLAKE2b of all that follows, of version and flags, and of the `context`; keyed with the `secret`
4       how long the JSON is
…       the JSON: every attrs value is an object of the fields that differ from their defaults
…       the vectors of embeddings, eight bytes a number, one after the other
======  =============================================================================================

JSON and numbers only: nothing that is read names a class, a module or a function, so hostile bytes
can be refused but cannot run anything. A value that JSON has no form for (a tuple, bytes, infinity, a
mapping with a key that is not text) stands in the JSON as an object with the key ``$``.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Any

import orjson

from llmpipe.errors import BadReply, ConfigError
from llmpipe.state.coding import CorruptEntry, reading, writing
from llmpipe.state.contracts.cache import Entry
from llmpipe.state.values import Unfit

__all__ = ("CorruptEntry", "VERSION", "check_compression", "decode_entry", "encode_entry")

VERSION = 1
_MAGIC = b"lp"
_ZSTD = 1
_HEAD = Struct("<2sBB16s")
_LENGTH = Struct("<I")
_LEVEL = 3  # zstd's own default; the next ones cost half as much again for a few per cent


def encode_entry(
    entry: Entry, *, compress: str = "", above: int = 1024, context: bytes = b"", secret: bytes = b""
) -> bytes:
    """The bytes of `entry`: `decode_entry` makes an equal one of them.

    Args: compress is ``""`` or ``zstd``, for entries of more than `above` bytes. With a `context`, such
    as the key of the cache, the bytes can be read in that context only; with a `secret` of up to 64
    bytes only who knows it can make or read them.
    Raises: BadReply (code ``not_storable``) for what these bytes cannot say exactly: a lone surrogate,
    a value of a foreign class, hundreds of levels.
    """
    try:
        plain, vectors = writing(entry)
        text = orjson.dumps(plain)
    except (Unfit, TypeError, RecursionError) as error:  # orjson's JSONEncodeError is a TypeError
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise BadReply(f"the reply cannot be stored: {why}", code="not_storable", phase="body") from None
    body = b"".join((_LENGTH.pack(len(text)), text, *vectors))
    flags = 0
    if compress and len(body) > above:
        check_compression(compress)
        packed = _zstandard().ZstdCompressor(level=_LEVEL, write_content_size=True).compress(body)
        if len(packed) < len(body):
            body, flags = packed, _ZSTD
    return _HEAD.pack(_MAGIC, VERSION, flags, _digest(flags, body, context, secret)) + body


def decode_entry(
    data: bytes, *, max_bytes: int = 64 * 1024 * 1024, context: bytes = b"", secret: bytes = b""
) -> Entry:
    """The entry that `encode_entry` made these bytes of, with the same `context` and `secret`.

    Its mappings and lists cannot be changed, as of all that a cache gives.
    Args: max_bytes bounds what a compressed entry may unfold to.
    Raises: CorruptEntry for any other bytes; ConfigError for a compressed entry where the extra ``zstd``
    is not installed.
    """
    if len(data) < _HEAD.size:
        raise CorruptEntry("too short")
    magic, version, flags, digest = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptEntry("not an entry")
    if version != VERSION or flags & ~_ZSTD:
        raise CorruptEntry(f"version {version} with flags {flags}; this llmpipe reads version {VERSION}")
    body = data[_HEAD.size :]
    if _digest(flags, body, context, secret) != digest:
        raise CorruptEntry("damaged, or stored under another key")
    if flags & _ZSTD:
        body = _unfold(body, max_bytes)
    if len(body) < _LENGTH.size:
        raise CorruptEntry("too short")
    (length,) = _LENGTH.unpack_from(body)
    end = _LENGTH.size + length
    if end > len(body):
        raise CorruptEntry("cut off")
    try:
        return reading(orjson.loads(body[_LENGTH.size : end]), memoryview(body)[end:])
    except orjson.JSONDecodeError as error:
        raise CorruptEntry(f"not JSON: {error}") from None
    except Unfit as error:
        raise CorruptEntry(str(error)) from None
    except RecursionError:
        raise CorruptEntry("nested too deep") from None


def check_compression(name: str) -> None:
    """Raises: ConfigError unless `name` is ``""`` or ``zstd`` and what that needs is installed."""
    if name not in ("", "zstd"):
        raise ConfigError(f"compress is 'zstd', or '' for none, not {name!r}")
    if name:
        _zstandard()


def _digest(flags: int, body: bytes, context: bytes, secret: bytes) -> bytes:
    digest = blake2b(_LENGTH.pack(len(context)), digest_size=16, key=secret)
    digest.update(context)
    digest.update(bytes((VERSION, flags)))
    digest.update(body)
    return digest.digest()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise ConfigError("compress = 'zstd' needs an extra: pip install 'llmpipe[zstd]'") from None
    return zstandard


def _unfold(frame: bytes, max_bytes: int) -> bytes:
    """What a zstd frame holds; the size it declares is believed only below `max_bytes`."""
    zstandard = _zstandard()
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if not 0 < size <= max_bytes:  # a frame that does not say is given as 0, or as 2**64 - 1
            raise CorruptEntry(f"would unfold to {size} bytes, above {max_bytes}")
        unfolded: bytes = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size)
    except zstandard.ZstdError as error:
        raise CorruptEntry(f"not a zstd frame: {error}") from None
    return unfolded
