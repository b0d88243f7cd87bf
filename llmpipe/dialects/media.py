"""Base64 on the wire: ``data:`` URLs, and what kind of picture it is."""

from __future__ import annotations

from llmpipe.dialects.checked import invalid

__all__ = ("check_image_url", "image_type", "split_data_url")

# The first base64 characters of the formats that models read.
_MAGIC = {"iVBORw0KGgo": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}


def image_type(data: str) -> str | None:
    """The media type of a picture in base64, such as ``image/png``, by how it begins; None if unknown."""
    return next((kind for start, kind in _MAGIC.items() if data.startswith(start)), None)


def split_data_url(url: str) -> tuple[str | None, str]:
    """Media type and base64 data of a ``data:`` URL; None and the text itself for any other."""
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        media_type = head[len("data:") : -len(";base64")]
        if media_type:
            return media_type, data
    return None, url


def check_image_url(
    url: str, path: str, *, code: str | None = "invalid_value", what: str = "an image's"
) -> str:
    """`url`, a caller's, where it is ``https:`` or ``data:``.

    Raises: InvalidRequest naming the path for any other: a server must not be made to read its own files
    or the hosts that only it can see.
    """
    if not url.lower().startswith(("https://", "data:")):
        scheme = url.partition(":")[0][:20] if ":" in url else "no scheme"
        raise invalid(path, f"{what} URL begins with https:// or data:, not {scheme!r}", code=code)
    return url
