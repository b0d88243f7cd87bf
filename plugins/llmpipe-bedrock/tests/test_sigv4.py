from __future__ import annotations

import copy
import datetime as dt
import logging
import threading
from pathlib import Path

import pytest
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]  # botocore has no types
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # as above
from botocore.credentials import (  # type: ignore[import-untyped]  # as above
    Credentials,
    DeferredRefreshableCredentials,
    RefreshableCredentials,
)
from botocore.exceptions import (  # type: ignore[import-untyped]  # as above
    ConnectTimeoutError,
    CredentialRetrievalError,
)
from hypothesis import given
from hypothesis import strategies as st

from llmpipe import AuthenticationFailed, ConfigError
from llmpipe.providers.auth import Auth
from llmpipe.secret import Secret
from llmpipe_bedrock import SigV4

ID, KEY, TOKEN = "AKIDEXAMPLEEXAMPLEID", "wJalrXUtnFEMIexampleKEYexample", "session-token-example=="
URL = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-v2%3A1/converse"


def vendors(
    method: str, url: str, body: bytes, date: str, token: str | None = None, region: str = "us-east-1"
) -> str:
    """The Authorization that botocore gives a request of that date."""
    moment = dt.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: moment)
        request = AWSRequest(method=method, url=url, data=body)
        SigV4Auth(Credentials(ID, KEY, token), "bedrock", region).add_auth(request)
    assert request.headers["X-Amz-Date"] == date
    return str(request.headers["Authorization"])


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("POST", URL, b'{"messages": []}'),
        ("POST", URL.replace("%3A", ":"), b"{}"),
        ("GET", "http://localhost:8080/model/arn%3Aaws%3Abedrock%3A%3A%2Fx/converse?b=2&a=1", None),
    ],
)
async def test_a_signature_is_the_one_that_botocore_makes(method, url, body, token):
    auth = SigV4("us-east-1", access_key_id=ID, secret_access_key=KEY, session_token=token)
    headers = await auth.headers(method, url, body)
    assert headers["Authorization"] == vendors(method, url, body or b"", headers["X-Amz-Date"], token)
    assert headers.get("X-Amz-Security-Token") == token
    assert set(headers) == {"Authorization", "X-Amz-Date", *(["X-Amz-Security-Token"] if token else [])}


@given(st.binary(max_size=50), st.text("abc/-_.~", min_size=1, max_size=20))
async def test_every_body_and_path_has_its_own_signature(body, path):
    headers = await SigV4("eu-west-1", access_key_id=ID, secret_access_key=KEY).headers(
        "POST", URL + path, body
    )
    date = headers["X-Amz-Date"]
    assert headers["Authorization"] == vendors("POST", URL + path, body, date, None, "eu-west-1")
    assert headers["Authorization"] != vendors("POST", URL + path, body + b"x", date, None, "eu-west-1")


def test_it_is_an_auth_and_shows_no_secret():
    auth = SigV4("us-east-1", access_key_id=ID, secret_access_key=Secret(KEY), session_token=Secret(TOKEN))
    assert isinstance(auth, Auth)
    for text in (repr(auth), str(auth), f"{auth}"):
        assert KEY not in text
        assert TOKEN not in text
        assert ID not in text


async def test_nothing_secret_is_logged(caplog):
    caplog.set_level(logging.DEBUG)
    auth = SigV4("us-east-1", access_key_id=ID, secret_access_key=KEY, session_token=TOKEN)
    signature = (await auth.headers("POST", URL, b"{}"))["Authorization"].rpartition("=")[2]
    for secret in (KEY, TOKEN, signature):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"access_key_id": ID},
        {"secret_access_key": KEY},
        {"session_token": TOKEN},
        {"access_key_id": ID, "secret_access_key": KEY, "profile": "x"},
        {"profile": "x", "credentials": Credentials(ID, KEY)},
        {"access_key_id": ID, "secret_access_key": "a\nb"},
    ],
)
def test_credentials_by_halves_or_twice_are_refused(options):
    with pytest.raises(ConfigError) as caught:
        SigV4("us-east-1", **options)
    assert KEY not in str(caught.value)


async def test_credentials_are_those_of_the_surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    headers = await SigV4("us-east-1").headers("POST", URL, b"{}")
    assert headers["Authorization"] == vendors("POST", URL, b"{}", headers["X-Amz-Date"])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    Path(tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id={ID}\naws_secret_access_key={KEY}\n"
    )
    headers = await SigV4("us-east-1", profile="work").headers("POST", URL, b"{}")
    assert headers["Authorization"] == vendors("POST", URL, b"{}", headers["X-Amz-Date"])


@pytest.mark.parametrize("profile", [None, "nobodys"])
async def test_without_credentials_nothing_is_sent(profile):
    with pytest.raises(AuthenticationFailed) as caught:
        await SigV4("us-east-1", profile=profile).headers("POST", URL, b"{}")
    assert (caught.value.sent, caught.value.retryable, caught.value.code) == (False, False, "aws_credentials")


def refreshing(seconds: float, refresh) -> RefreshableCredentials:
    """Credentials that are good for so many seconds more."""
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return RefreshableCredentials(ID, KEY, TOKEN, until, refresh, "test")


def renewed() -> dict[str, str]:
    until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    return {"access_key": ID, "secret_key": KEY, "token": "new-token", "expiry_time": until.isoformat()}


async def test_credentials_are_renewed_in_a_thread_before_they_end():
    threads: list[int] = []

    def refresh() -> dict[str, str]:
        threads.append(threading.get_ident())
        return renewed()

    auth = SigV4("us-east-1", credentials=refreshing(60, refresh))
    for _ in range(3):
        assert (await auth.headers("POST", URL, b""))["X-Amz-Security-Token"] == "new-token"
    (thread,) = threads
    assert thread != threading.get_ident()


async def test_credentials_that_last_are_not_renewed_and_need_no_thread(monkeypatch):
    auth = SigV4("us-east-1", credentials=refreshing(3600, lambda: pytest.fail("renewed")))
    monkeypatch.setattr("anyio.to_thread.run_sync", lambda *_, **__: pytest.fail("asked a thread"))
    assert (await auth.headers("POST", URL, b""))["X-Amz-Security-Token"] == TOKEN


async def test_credentials_that_are_fetched_first_are_fetched_in_a_thread():
    here = threading.get_ident()
    deferred = DeferredRefreshableCredentials(
        lambda: renewed() if threading.get_ident() != here else pytest.fail("in the loop"), "test"
    )
    auth = SigV4("us-east-1", credentials=deferred)
    assert (await auth.headers("POST", URL, b""))["X-Amz-Security-Token"] == "new-token"


@pytest.mark.parametrize(
    ("problem", "retryable"),
    [
        (CredentialRetrievalError(provider="x", error_msg=f"aws_secret_access_key={KEY}"), False),
        (ConnectTimeoutError(endpoint_url="http://sts"), True),
        (RuntimeError("refreshed, but still expired"), False),
    ],
)
async def test_credentials_that_cannot_be_renewed_are_a_failed_authentication(problem, retryable, caplog):
    def refresh() -> dict[str, str]:
        raise copy.copy(problem)

    with pytest.raises(AuthenticationFailed) as caught:
        await SigV4("us-east-1", credentials=refreshing(60, refresh)).headers("POST", URL, b"")
    assert caught.value.retryable is retryable
    assert caught.value.sent is False
    assert caught.value.__cause__ is None
