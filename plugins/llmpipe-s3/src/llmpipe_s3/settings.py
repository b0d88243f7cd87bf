"""What the URL of a bucket says, read once and refused where it makes no sense."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import frozen

from llmpipe.errors import ConfigError

__all__ = ("Settings", "read_url")

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
        timeout: seconds any operation may take that does not read much.
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
    options = _options(query)
    endpoint = _endpoint(options.get("endpoint", ""))
    return Settings(
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        region=options.get("region", ""),
        profile=options.get("profile", ""),
        timeout=_number("timeout", options.get("timeout", "5"), 0.01, 600),
        connections=int(_number("connections", options.get("connections", "16"), 1, 256, whole=True)),
        path_style=_flag("path_style", options.get("path_style", "true" if endpoint else "false")),
    )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _KNOWN:
            if _SECRET.search(name):
                raise ConfigError(_NO_SECRETS)
            raise ConfigError(
                f"the URL of a bucket has no setting {name[:40]!r}; there are {', '.join(_KNOWN)}"
            )
        if name in options:
            raise ConfigError(f"the URL of the bucket sets {name!r} twice")
        options[name] = value
    return options


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


def _flag(name: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(f"{name} of a bucket is true or false, not {value[:40]!r}")
    return value == "true"


def _number(name: str, value: str, least: float, most: float, *, whole: bool = False) -> float:
    try:
        number = float(int(value)) if whole else float(value)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        kind = "whole number" if whole else "number"
        raise ConfigError(f"{name} of a bucket is a {kind} from {least:g} to {most:g}, not {value[:40]!r}")
    return number
