"""What the URL of a bucket says, read once and refused where it makes no sense."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.state.url import flag, number, options

__all__ = ("Settings", "read_url")

_OF = "a bucket"
_KNOWN = ("connections", "endpoint", "path_style", "profile", "region", "timeout")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=-]+(/[A-Za-z0-9!_.*'()=-]+)*")
_SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)
_NO_SECRETS = (
    "credentials do not stand in the URL of a bucket: they are taken from AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, from a profile (profile=name), or from the machine's role"
)


@frozen(kw_only=True)
class Settings:
    """Where a trail lies, and how to reach it.

    Attributes:
        bucket, prefix: where its objects are; the prefix is without slashes at its ends, and may be "".
        endpoint: of a store that is not Amazon's; "" for Amazon's.
        region: "" for that of the environment or the profile.
        profile: of the configuration files; "" for the usual one.
        timeout: seconds any request may take, and any operation that does not read much.
        connections: at most, and threads that wait for them.
        path_style: whether the bucket stands in the path instead of the host's name.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    profile: str = ""
    timeout: float = 5.0
    connections: int = 16
    path_style: bool = False

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"s3://{self.bucket}" + (f" at {self.endpoint}" if self.endpoint else "")


def read_url(url: str) -> Settings:
    """The settings of ``s3://bucket/prefix?endpoint=https://minio.example:9000&region=eu-west-1``.

    Raises: ConfigError, which shows nothing that may be a secret.
    """
    scheme, mark, rest = url.partition("://")
    if scheme != "s3" or not mark:
        raise ConfigError("the URL of a bucket begins with s3://")
    if "#" in rest:
        raise ConfigError("a '#' in the URL of a bucket is written %23")
    address, _, query = rest.partition("?")
    bucket, _, prefix = address.partition("/")
    if "@" in bucket or ":" in bucket:
        raise ConfigError(_NO_SECRETS)
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"a bucket's name is 3 to 63 small letters, digits, dots and hyphens, not {bucket[:70]!r}"
        )
    prefix = unquote(prefix).strip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or len(prefix) > 200):
        raise ConfigError(
            "a prefix is letters, digits and !_.*'()=- with single slashes between, up to 200, not "
            f"{prefix[:70]!r}"
        )
    if any(part in (".", "..") for part in prefix.split("/")):
        raise ConfigError("a prefix has no parts . and ..")
    if any(_SECRET.search(name) for name, _ in parse_qsl(query) if name not in _KNOWN):
        raise ConfigError(_NO_SECRETS)
    told = options(query, _KNOWN, of=_OF)
    endpoint = _endpoint(told.get("endpoint", ""))
    return Settings(
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        region=told.get("region", ""),
        profile=told.get("profile", ""),
        timeout=number("timeout", told.get("timeout", "5"), 0.01, 600, of=_OF),
        connections=number("connections", told.get("connections", "16"), 1, 256, of=_OF),
        path_style=flag("path_style", told.get("path_style", "true" if endpoint else "false"), of=_OF),
    )


def _endpoint(value: str) -> str:
    if not value:
        return ""
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        raise ConfigError("endpoint of a bucket is such as https://minio.example:9000") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(_NO_SECRETS)
    if not fits or parts.path not in ("", "/") or parts.query:
        raise ConfigError("endpoint of a bucket is such as https://minio.example:9000")
    return value.rstrip("/")
