"""What a failure of the store, or of the way to it, means for whoever asked.

Codes: "Error responses", Amazon S3 API Reference.
"""

from __future__ import annotations

from attrs import frozen
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.secret import scrub

__all__ = ("ERRORS", "Fault", "fault")

ERRORS = (BotoCoreError, ClientError, OSError, RecursionError, ResponseParserError)
"""What botocore raises; OSError has TimeoutError and what sockets raise. When redirected it asks for the
bucket's region, and where that is redirected too, again, until Python stops it."""


@frozen
class Fault:
    """How an error is taken.

    Attributes:
        error: what is raised.
        again: whether the same may be said again at once.
        trips: whether the store is to be left alone for a while.
    """

    error: StoreUnavailable | ConfigError
    again: bool
    trips: bool


# code: what is wrong, whether it may be said again, whether nothing else would be answered now either
_CODES: dict[str, tuple[str, bool, bool]] = {
    "AccessDenied": ("does not permit these credentials what is needed", False, False),
    "AllAccessDisabled": ("has been disabled", False, True),
    "AuthorizationHeaderMalformed": ("is in another region: set region", False, True),
    "ConditionalRequestConflict": ("was busy with the same object", True, False),
    "EntityTooLarge": ("does not take an object of that size", False, False),
    "ExpiredToken": ("refuses credentials that are past their time", False, True),
    "IllegalLocationConstraintException": ("is in another region: set region", False, True),
    "InternalError": ("has a failure of its own", True, True),
    "InvalidAccessKeyId": ("does not know the access key", False, True),
    "NoSuchBucket": ("is not there: make the bucket first", False, True),
    "NotImplemented": ("does not know conditional writes (If-None-Match), which a trail needs", False, False),
    "PermanentRedirect": ("is at another endpoint: set region or endpoint", False, True),
    "RequestTimeTooSkewed": ("says that this machine's clock is wrong", False, True),
    "ServiceUnavailable": ("is not to be had now", True, True),
    "SignatureDoesNotMatch": ("refuses the secret key", False, True),
    "SlowDown": ("gets more requests than it takes", True, True),
    "TooManyRequests": ("gets more requests than it takes", True, True),
    "XMinioStorageFull": ("is full", False, False),
    "QuotaExceeded": ("is full", False, False),
}


def fault(error: Exception, place: str) -> Fault:
    """How `error`, one of `ERRORS` met at the store at `place`, is taken."""
    if isinstance(error, ClientError):
        return _answered(error, place)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        message = (
            f"there are no credentials for {place}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "name a profile, or give the machine a role"
        )
        return Fault(StoreUnavailable(message), again=False, trips=True)
    if isinstance(error, RecursionError):
        what, again, trips = _CODES["PermanentRedirect"]
        return Fault(StoreUnavailable(f"{place} {what}", code="PermanentRedirect"), again, trips)
    if isinstance(error, ProfileNotFound):
        return Fault(ConfigError(scrub(str(error), max_chars=300)), again=False, trips=False)
    if isinstance(error, SSLError):
        message = f"the certificate or the TLS of {place} is not to be trusted"
        return Fault(StoreUnavailable(message), again=False, trips=True)
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError | TimeoutError):
        return Fault(StoreUnavailable(f"{place} did not answer in time"), again=False, trips=True)
    if isinstance(error, EndpointConnectionError | OSError):
        return Fault(StoreUnavailable(f"{place} is out of reach"), again=True, trips=True)
    message = f"{place} did not answer as a store does: {type(error).__name__}"
    return Fault(StoreUnavailable(message), again=True, trips=True)


def _answered(error: ClientError, place: str) -> Fault:
    said = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = str(said.get("Code", ""))
    if code in _CODES:
        what, again, trips = _CODES[code]
        return Fault(StoreUnavailable(f"{place} {what}", code=code), again, trips)
    busy = status == 429 or status >= 500
    why = scrub(f"{status} {code} {said.get('Message', '')}", max_chars=300)
    message = f"{place} refused: {why}"
    return Fault(StoreUnavailable(message.rstrip(), code=code or None), again=busy, trips=busy)
