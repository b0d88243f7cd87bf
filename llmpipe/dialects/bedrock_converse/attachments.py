"""Pictures, documents, sound and films: our parts as the wire's blocks, and those of replies as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import Factory, define

from llmpipe.dialects.losses import Losses, refused
from llmpipe.dialects.media import image_type, split_data_url
from llmpipe.types import Audio, Document, Image, Part

__all__ = ("Attachments", "audio_block", "decode_media", "image_block")

_IMAGES = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/gif": "gif",
    "image/webp": "webp",
}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_VIDEOS = {
    "video/x-matroska": "mkv",
    "video/quicktime": "mov",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/x-flv": "flv",
    "video/mpeg": "mpeg",
    "video/x-ms-wmv": "wmv",
    "video/3gpp": "three_gp",
}
_EXTENSION = re.compile(r"\.([A-Za-z0-9_]{2,8})$")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9\s()\[\]-]+")
_SPACES = re.compile(r"\s+")
_MAX_NAME_CHARS = 200
_ONLY_BYTES = "Bedrock fetches no URL; send the bytes, or an s3:// address"


@define
class Attachments:
    """The documents of one request. Each has a name of its own: Bedrock refuses two of one name."""

    losses: Losses
    names: set[str] = Factory(set)

    def document(self, part: Document, path: str, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The block of a document; of a film too, which our types have as one.

        Raises: Unsupported, naming the path, for a URL, a file id, or a type that the wire does not know.
        """
        media_type = (part.media_type or "").partition(";")[0].strip().lower()
        if media_type in _VIDEOS:
            return {"video": {"format": _VIDEOS[media_type], "source": _source(part, path, extra), **extra}}
        if part.text is not None and part.data is None and "source" not in extra:
            source: dict[str, Any] = {"text": part.text}
        else:
            source = _source(part, path, extra)
        block = {"format": _document_format(part, media_type, path, extra), "name": self._name(part, path)}
        return {"document": {**block, "source": source, **extra}}

    def _name(self, part: Document, path: str) -> str:
        """The document's name in the letters that names may have, and with a number where it is taken."""
        told = part.name or ""
        # The dot of an extension is not allowed; the format says the same.
        name = _NOT_IN_NAMES.sub("-", _EXTENSION.sub("", told))
        name = _SPACES.sub(" ", name).strip()[: _MAX_NAME_CHARS - 6] or f"Document {len(self.names) + 1}"
        free, number = name, 1
        while free in self.names:
            number += 1
            free = f"{name} {number}"
        self.names.add(free)
        if told and _EXTENSION.sub("", told) != free:
            self.losses.emulated(
                f"{path}.name", "a name has letters, digits, spaces and - ( ) [ ], and is unique"
            )
        return free


def image_block(part: Image, path: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The block of a picture. Raises: Unsupported, naming the path, for a URL and for an unknown type."""
    url_type, data = split_data_url(part.url or "")
    if part.data is None and url_type is not None:
        part = Image(data=data, media_type=url_type)
    told = extra.get("format") or _IMAGES.get((part.media_type or image_type(part.data or "") or "").lower())
    if told is None and part.data is None:
        told = _by_extension(part.url, frozenset(_IMAGES.values()))
    source = _source(part, path, extra)
    if told is None:
        raise refused(
            f"{path}.media_type", f"name the picture's type: {', '.join(sorted({*_IMAGES} - {'image/jpg'}))}"
        )
    return {"image": {"format": told, "source": source, **extra}}


def audio_block(part: Audio, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The block of a sound."""
    return {"audio": {"format": part.format, "source": {"bytes": part.data}, **extra}}


def decode_media(kind: str, block: Mapping[str, Any]) -> Part | None:
    """The picture or the sound of a reply; None where it came otherwise than in bytes, or failed."""
    source, told = block.get("source"), block.get("format")
    data = source.get("bytes") if isinstance(source, dict) and len(source) == 1 else None
    if not isinstance(data, str) or not isinstance(told, str) or block.get("error"):
        return None
    extra = {name: value for name, value in block.items() if name not in ("format", "source", "error")}
    return Image(None, data, f"image/{told}", None, extra) if kind == "image" else Audio(data, told, extra)


def _source(part: Image | Document, path: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Where the content is: bytes in base64, or a place in S3; or what `extra["source"]` says it is."""
    if isinstance(extra.get("source"), Mapping):
        return dict(extra["source"])
    if part.data is not None:
        return {"bytes": part.data}
    url = part.url or ""
    media_type, data = split_data_url(url)
    if media_type is not None:
        return {"bytes": data}
    if url.startswith("s3://"):
        return {"s3Location": {"uri": url}}
    if url:
        raise refused(f"{path}.url", _ONLY_BYTES)
    if isinstance(part, Document) and part.file_id is not None:
        raise refused(f"{path}.file_id", "Bedrock keeps no files; send the bytes, or an s3:// address")
    raise refused(path, "it has neither data nor an s3:// address")


def _document_format(part: Document, media_type: str, path: str, extra: Mapping[str, Any]) -> str:
    if isinstance(extra.get("format"), str):
        return str(extra["format"])
    if not media_type:
        media_type = (split_data_url(part.url or "")[0] or "").lower()
    if media_type in _DOCUMENTS:
        return _DOCUMENTS[media_type]
    known = frozenset(_DOCUMENTS.values())
    if not media_type or media_type == "application/octet-stream":
        told = _by_extension(part.name, known) or _by_extension(part.url, known)
        if told is not None or not media_type:
            return told or ("txt" if part.text is not None and part.data is None else "pdf")
    if media_type.startswith("text/"):
        return "txt"
    raise refused(
        f"{path}.media_type", f"Bedrock takes documents of {', '.join(sorted(known))}, not {media_type}"
    )


def _by_extension(name: str | None, known: frozenset[str]) -> str | None:
    found = _EXTENSION.search(name or "")
    extension = found.group(1).lower() if found else ""
    extension = {"jpg": "jpeg", "htm": "html", "text": "txt"}.get(extension, extension)
    return extension if extension in known else None
