"""Pictures, sound, films and files: ``inlineData`` with base64, ``fileData`` with an address."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from llmpipe.dialects.checked import invalid
from llmpipe.dialects.gemini_generate.fields import NAME, Fields
from llmpipe.dialects.losses import Losses, native
from llmpipe.dialects.media import check_image_url, image_type, split_data_url
from llmpipe.types import Audio, Document, Image

__all__ = ("Media", "encode_media", "media_part", "read_media")

Media = Image | Document | Audio

_INLINE, _FILE = "inlineData", "fileData"
_FILES = "https://generativelanguage.googleapis.com/v1beta/"
# Formats of sound by the media type that Google documents for them. OpenAI's words where it has some.
_FORMATS = {
    "audio/wav": "wav",
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
    "audio/aiff": "aiff",
    "audio/aac": "aac",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "audio/m4a": "m4a",
    "audio/webm": "webm",
    "audio/opus": "opus",
}
_TO_STANDARD = str.maketrans("-_", "+/")
_SOUNDS = {form: kind for kind, form in reversed(_FORMATS.items())}
# A table of our own: the standard library's is read from the machine's files.
_ENDINGS = {
    "3gp": "video/3gpp",
    "aac": "audio/aac",
    "aiff": "audio/aiff",
    "avi": "video/avi",
    "css": "text/css",
    "csv": "text/csv",
    "flac": "audio/flac",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "html": "text/html",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "m4a": "audio/m4a",
    "md": "text/markdown",
    "mov": "video/mov",
    "mp3": "audio/mp3",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpg",
    "ogg": "audio/ogg",
    "pdf": "application/pdf",
    "png": "image/png",
    "rtf": "text/rtf",
    "txt": "text/plain",
    "wav": "audio/wav",
    "webm": "video/webm",
    "webp": "image/webp",
    "wmv": "video/wmv",
    "xml": "text/xml",
}


def media_part(inline: Mapping[str, Any] | None, file: Mapping[str, Any] | None) -> Media | None:
    """The part that ``inlineData`` or ``fileData`` is; None where it lacks what it needs.

    What they have besides is in `extra`, under the name of the object it stood in. Data is in the alphabet of
    base64 that all wires know: Google's SDK writes that of addresses, as JSON for protocol buffers may.
    """
    data = _text(inline, "data")
    if data is not None and ("-" in data or "_" in data):
        data = data.translate(_TO_STANDARD)
    if inline is not None and data is not None:
        kind = _text(inline, "mimeType") or ""
        rest = {k: v for k, v in inline.items() if k not in ("data", "mimeType") and v is not None}
        if kind.startswith("audio/"):
            form = _FORMATS.get(kind, kind.removeprefix("audio/"))
            if _SOUNDS.get(form, f"audio/{form}") != kind:
                rest["mimeType"] = kind
            return Audio(data, form, extra={_INLINE: rest} if rest else {})
        extra = {_INLINE: rest} if rest else {}
        if kind.startswith("image/"):
            return Image(data=data, media_type=kind, extra=extra)
        return Document(data=data, media_type=kind or None, extra=extra)
    url = _text(file, "fileUri")
    if file is None or url is None:
        return None
    kind = _text(file, "mimeType") or ""
    rest = {k: v for k, v in file.items() if k not in ("fileUri", "mimeType") and v is not None}
    extra = {_FILE: rest} if rest else {}
    if kind.startswith("image/"):
        return Image(url=url, media_type=kind, extra=extra)
    return Document(url=url, media_type=kind or None, extra=extra)


def read_media(fields: Fields) -> Media:
    """A caller's ``inlineData`` or ``fileData``, whichever is there.

    Raises: InvalidRequest naming the path; also for an address that is neither Google's storage
    nor fit for a server to read.
    """
    if fields.rest.get(_INLINE) is not None:
        inline = fields.nested(_INLINE)
        wire = {"data": inline.need_text("data"), "mimeType": inline.need_text("mimeType")}
        part = media_part({**wire, **inline.rest}, None)
    else:
        file = fields.nested(_FILE)
        url = file.need_text("fileUri")
        if not url.lower().startswith("gs://"):
            check_image_url(url, file.at("fileUri"))
        part = media_part(None, {"fileUri": url, "mimeType": file.text("mimeType"), **file.rest})
    assert part is not None  # both have what they need
    return part


def encode_media(part: Media, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    """The wire's part. `written_in` is the dialect of its message, and so of its `extra`.

    Raises: InvalidRequest for one that has neither data nor an address.
    """
    extra = dict(native(part.extra, written_in, NAME, path, losses))
    if isinstance(part, Audio):
        wire = _inline(part.data, _SOUNDS.get(part.format, f"audio/{part.format}"))
    elif isinstance(part, Image):
        if part.detail is not None:
            losses.dropped(f"{path}.detail", "Gemini has one resolution for all")
        wire = _image(part, path)
    else:
        if part.name is not None:
            losses.dropped(f"{path}.name", "Gemini's files have none")
        wire = _document(part, path)
    for name in (_INLINE, _FILE):
        more = extra.pop(name, None)
        if name in wire and isinstance(more, Mapping):
            wire[name] = {**wire[name], **more}
    return {**wire, **extra}


def _image(part: Image, path: str) -> dict[str, Any]:
    if part.data is not None:
        return _inline(part.data, part.media_type or image_type(part.data) or "image/png")
    if part.url is None:
        raise invalid(path, "an Image needs a url or data")
    return _address(part.url, part.media_type, "image/jpeg")


def _document(part: Document, path: str) -> dict[str, Any]:
    if part.data is not None:
        return _inline(part.data, part.media_type or _guess(part.name or "") or "application/pdf")
    if part.text is not None:
        try:
            raw = part.text.encode()
        except UnicodeEncodeError:
            raise invalid(f"{path}.text", "is no Unicode text: it has half of a character") from None
        return _inline(b64encode(raw).decode(), part.media_type or "text/plain")
    if part.url is not None:
        return _address(part.url, part.media_type, "application/pdf")
    if part.file_id is not None:
        url = part.file_id if "://" in part.file_id else f"{_FILES}{part.file_id}"
        return _file(url, part.media_type)
    raise invalid(path, "a Document needs a url, data, text or a file_id")


def _address(url: str, kind: str | None, default: str) -> dict[str, Any]:
    """An address. A ``data:`` URL becomes what it holds."""
    found, data = split_data_url(url)
    if found is not None:
        return _inline(data, found)
    if kind is None and not url.startswith(_FILES):  # an upload's own type is known to the API
        kind = _guess(url) or (None if _is_youtube(url) else default)
    return _file(url, kind)


def _inline(data: str, kind: str) -> dict[str, Any]:
    return {_INLINE: {"mimeType": kind, "data": data}}


def _file(url: str, kind: str | None) -> dict[str, Any]:
    return {_FILE: {"fileUri": url} if kind is None else {"mimeType": kind, "fileUri": url}}


def _guess(url: str) -> str | None:
    try:
        path = urlsplit(url).path
    except ValueError:  # such as "http://[": not an address at all
        return None
    return _ENDINGS.get(path.rpartition(".")[2].lower())


def _is_youtube(url: str) -> bool:
    return url.startswith(("https://www.youtube.com/", "https://youtu.be/", "https://youtube.com/"))


def _text(wire: Mapping[str, Any] | None, name: str) -> str | None:
    value = wire.get(name) if wire is not None else None
    return value if isinstance(value, str) else None
