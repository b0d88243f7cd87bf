"""Requests signed with AWS credentials, as AWS's own SDK for Python signs them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NoConnection
from botocore.session import Session

from llmpipe import AuthenticationFailed, ConfigError
from llmpipe.secret import Secret, scrub

__all__ = ("SigV4",)

# botocore renews credentials that live for less than 15 minutes more, and asks the network for that: a
# minute before it would, it is asked from a thread.
_RENEWED = 15 * 60 + 60


class SigV4:
    """Signs each request with AWS Signature Version 4: an `auth` of `HTTPProvider`.

    Credentials are those given, or what botocore finds: the environment, the shared files, SSO, a role
    of the container or the machine. They are looked for when the first request is made, and renewed in
    good time; both happen in a thread, because they may ask the network.

    Args:
        region: such as ``us-east-1``; part of the signature.
        access_key_id, secret_access_key, session_token: the credentials themselves.
        profile: the name of a profile in the shared files, where not the default one is meant.
        credentials: those of botocore, from a session of one's own.
        service: part of the signature; the signing name of what is called.

    Raises: ConfigError for half of a key, or for credentials that are given in two ways.
    """

    __slots__ = ("_credentials", "_lock", "_profile", "region", "service")

    def __init__(
        self,
        region: str,
        *,
        access_key_id: str | None = None,
        secret_access_key: str | Secret | None = None,
        session_token: str | Secret | None = None,
        profile: str | None = None,
        credentials: Any = None,
        service: str = "bedrock",
    ) -> None:
        if (access_key_id is None) != (secret_access_key is None):
            raise ConfigError("access_key_id and secret_access_key go together: give both, or none")
        if session_token is not None and access_key_id is None:
            raise ConfigError("session_token needs access_key_id and secret_access_key beside it")
        ways = {"access_key_id": access_key_id, "profile": profile, "credentials": credentials}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are two ways to say whose requests these are; give one")
        if access_key_id is not None and secret_access_key is not None:
            token = None if session_token is None else Secret(session_token).reveal()
            credentials = Credentials(
                Secret(access_key_id).reveal(), Secret(secret_access_key).reveal(), token
            )
        self.region = region
        self.service = service
        self._profile = profile
        self._credentials = credentials
        self._lock = threading.Lock()

    async def headers(self, method: str, url: str, body: bytes | None) -> Mapping[str, str]:
        """``Authorization``, ``X-Amz-Date`` and, for temporary credentials, ``X-Amz-Security-Token``.

        Raises: AuthenticationFailed if there are no credentials, or they cannot be renewed; nothing was sent.
        """
        found = self._credentials
        if found is None or _may_block(found):
            # A call that is cancelled or out of time does not wait for AWS; what is found serves the next.
            frozen = await anyio.to_thread.run_sync(self._found, abandon_on_cancel=True)
        else:
            frozen = found.get_frozen_credentials()
        return self._signed(frozen, method, url, body)

    def _signed(self, frozen: Any, method: str, url: str, body: bytes | None) -> dict[str, str]:
        """The steps of `SigV4Auth.add_auth`, which also logs what it signs: a session token too."""
        date = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {"X-Amz-Date": date}
        if frozen.token:
            headers["X-Amz-Security-Token"] = frozen.token
        request = AWSRequest(method=method, url=url, data=body or b"", headers=headers)
        request.context["timestamp"] = date
        signer = SigV4Auth(frozen, self.service, self.region)
        signature = signer.signature(
            signer.string_to_sign(request, signer.canonical_request(request)), request
        )
        names = signer.signed_headers(signer.headers_to_sign(request))
        proof = f"Credential={signer.scope(request)}, SignedHeaders={names}, Signature={signature}"
        return {**headers, "Authorization": f"AWS4-HMAC-SHA256 {proof}"}

    def _found(self) -> Any:
        """The credentials of this moment. May take seconds."""
        try:
            with self._lock:
                if self._credentials is None:
                    self._credentials = Session(profile=self._profile).get_credentials()
            if self._credentials is None:
                raise _failed(
                    "there are no AWS credentials: give them, or configure them as for any AWS tool"
                )
            return self._credentials.get_frozen_credentials()
        # A RuntimeError is what botocore raises for renewed credentials that are out of time already.
        except (BotoCoreError, ClientError, RuntimeError) as error:
            passing = isinstance(error, HTTPClientError | NoConnection)
            raise _failed(f"AWS credentials cannot be had: {scrub(str(error))}", retryable=passing) from None

    def __repr__(self) -> str:
        return f"<SigV4 for {self.service} in {self.region}>"


def _may_block(credentials: Any) -> bool:
    """Whether asking for the values could ask the network. Credentials of an unknown kind could."""
    if isinstance(credentials, RefreshableCredentials):
        return bool(credentials.refresh_needed(_RENEWED))
    return type(credentials) is not Credentials


def _failed(message: str, *, retryable: bool = False) -> AuthenticationFailed:
    return AuthenticationFailed(
        message, code="aws_credentials", phase="validate", sent=False, retryable=retryable
    )
