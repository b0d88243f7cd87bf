"""Access tokens of Google Cloud, from google-auth (the extra ``llmpipe[vertex]``)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from anyio import to_thread

from llmpipe.errors import AuthenticationFailed, ConfigError, LLMError, NetworkError
from llmpipe.secret import scrub

__all__ = ("GoogleAuth",)

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class GoogleAuth:
    """Gives each request a token, which is fetched when it is first needed and renewed before it ends.

    However many requests wait for a token, one fetches it, in a worker thread.

    Args:
        credentials: a path to the key file of a service account; what stands in one, as a mapping;
            credentials of google-auth; or None for the surroundings' own (GOOGLE_APPLICATION_CREDENTIALS,
            gcloud's login, the machine's service account).

    Raises: ConfigError where google-auth is not installed, or `credentials` is none of these.
    """

    def __init__(self, credentials: Any = None) -> None:
        try:
            import google.auth  # noqa: PLC0415  an extra
            import google.auth.transport.requests  # noqa: F401  PLC0415  the same
        except ImportError:
            raise ConfigError(
                "credentials of Google need google-auth: pip install 'llmpipe[vertex]'"
            ) from None
        self._credentials = _loaded(credentials)
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def headers(self, method: str, url: str, body: bytes | None) -> Mapping[str, str]:
        """``Authorization`` with a token that is good for some minutes yet.

        Raises: AuthenticationFailed where Google refuses the credentials, NetworkError where it cannot be
        asked.
        """
        if not self._valid:
            lock = self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
            async with lock:
                if not self._valid:
                    await to_thread.run_sync(self._renew, abandon_on_cancel=True)
        return {"Authorization": f"Bearer {self._credentials.token}"}

    @property
    def _valid(self) -> bool:
        return self._credentials is not None and bool(self._credentials.valid)

    def _renew(self) -> None:
        """Blocks. Raises: as `headers`."""
        import google.auth  # noqa: PLC0415  an extra
        from google.auth import exceptions  # noqa: PLC0415  the same
        from google.auth.transport.requests import Request  # noqa: PLC0415  the same

        problem: LLMError
        try:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=[_SCOPE])
            self._credentials.refresh(Request())
            return
        except exceptions.TransportError as error:
            problem = NetworkError(f"Google's token server: {scrub(str(error))}", phase="connect", sent=False)
        except exceptions.GoogleAuthError as error:
            retryable = bool(getattr(error, "retryable", False))
            problem = AuthenticationFailed(
                f"Google's token server: {scrub(str(error))}", retryable=retryable, sent=False
            )
        raise problem  # outside of the except block: what stood there holds the assertion

    def __repr__(self) -> str:
        return "GoogleAuth(…)"


def _loaded(given: Any) -> Any:
    """Credentials of google-auth; None for those that are looked for later. Raises ConfigError."""
    if given is None:
        return None
    if isinstance(given, str | Mapping):
        from google.oauth2 import service_account  # noqa: PLC0415  an extra

        kind: Any = service_account.Credentials
        try:
            if isinstance(given, str):
                return kind.from_service_account_file(given, scopes=[_SCOPE])
            return kind.from_service_account_info(dict(given), scopes=[_SCOPE])
        except OSError as error:
            raise ConfigError(f"the key file of the service account: {error.strerror}") from None
        except (ValueError, KeyError, TypeError):  # its words may hold a piece of the key
            raise ConfigError(
                "credentials are no service account: client_email, token_uri and private_key are needed"
            ) from None
    if callable(getattr(given, "refresh", None)):
        return given
    raise ConfigError(
        f"credentials must be a path, a mapping or credentials of google-auth, not a {type(given).__name__}"
    )
