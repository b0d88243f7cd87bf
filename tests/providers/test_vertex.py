"""Google's access tokens, from a token server on this machine."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest

from llmpipe import Chain
from llmpipe.errors import AuthenticationFailed, ConfigError, NetworkError
from llmpipe.providers.factory import provider
from llmpipe.providers.google_auth import GoogleAuth
from tests.providers.kit import Peer, Server, response

cryptography = pytest.importorskip("cryptography")
pytest.importorskip("google.auth")
pytestmark = pytest.mark.real_time

REPLY = orjson.dumps({
    "candidates": [{"content": {"role": "model", "parts": [{"text": "Hello."}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3},
    "modelVersion": "gemini-x",
})  # fmt: skip


@pytest.fixture(scope="module")
def private_key() -> str:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()


def account(private_key: str, server: Server) -> dict[str, Any]:
    return {
        "type": "service_account",
        "project_id": "p-1",
        "private_key_id": "k-1",
        "private_key": private_key,
        "client_email": "robot@p-1.iam.gserviceaccount.com",
        "token_uri": server.url.replace("/v1", "/token"),
    }


class Google(Server):
    """The token server and Vertex AI at once."""

    def __init__(self, *, lifetime: int = 3600, refuse: bool = False, delay: float = 0.0) -> None:
        super().__init__(self._answer)
        self.tokens = 0
        self.used: list[str] = []
        self.lifetime, self.refuse, self.delay = lifetime, refuse, delay

    async def _answer(self, peer: Peer, number: int) -> None:
        while True:
            head, body = await peer.request()
            if not head.startswith(b"POST /token "):
                lines = head.decode().split("\r\n")
                self.used += [
                    line.split(" ")[2] for line in lines if line.lower().startswith("authorization")
                ]
                await peer.send(response(REPLY))
                continue
            asked = parse_qs(body.decode())
            assert asked["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
            self.tokens += 1
            await asyncio.sleep(self.delay)
            if self.refuse:
                said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
                await peer.send(response(json.dumps(said).encode(), status="400 Bad Request"))
                continue
            token = {
                "access_token": f"ya29.{self.tokens}",
                "expires_in": self.lifetime,
                "token_type": "Bearer",
            }
            await peer.send(response(json.dumps(token).encode()))


async def test_one_token_serves_many_calls_that_come_at_once(private_key):
    async with Google(delay=0.05) as server:
        core = provider(
            "vertex",
            project="p-1",
            credentials=account(private_key, server),
            base_url=server.url,
            model="gemini-x",
        )
        async with Chain(core) as chain:
            done = await asyncio.gather(*[chain.complete("hi") for _ in range(20)])
        assert {one.text for one in done} == {"Hello."}
        assert server.tokens == 1
        assert server.used == ["ya29.1"] * 20


async def test_a_token_is_renewed_before_it_ends(private_key):
    async with Google(lifetime=60) as server:  # less than the minutes that google-auth leaves
        core = provider(
            "vertex",
            project="p-1",
            credentials=account(private_key, server),
            base_url=server.url,
            model="gemini-x",
        )
        async with Chain(core) as chain:
            await chain.complete("hi")
            await chain.complete("hi")
        assert server.used == ["ya29.1", "ya29.2"]


async def test_credentials_that_google_refuses_are_an_error_of_the_key(private_key):
    async with Google(refuse=True) as server:
        core = provider(
            "vertex",
            project="p-1",
            credentials=account(private_key, server),
            base_url=server.url,
            model="gemini-x",
        )
        async with Chain(core) as chain:
            with pytest.raises(AuthenticationFailed, match="Invalid JWT Signature") as caught:
                await chain.complete("hi")
        assert not caught.value.sent
        assert "PRIVATE" not in repr(caught.value) + repr(core)


async def test_a_token_server_that_is_not_there_is_an_error_of_the_network(private_key):
    async with Google() as server:
        told = account(private_key, server)
    auth = GoogleAuth(told)
    with pytest.raises(NetworkError, match="token server") as caught:
        await auth.headers("POST", "https://x.example", b"")
    assert caught.value.retryable


async def test_who_waits_for_a_token_can_be_cancelled_and_the_others_get_theirs(private_key):
    async with Google(delay=0.2) as server:
        auth = GoogleAuth(account(private_key, server))
        first = asyncio.ensure_future(auth.headers("POST", "https://x.example", b""))
        second = asyncio.ensure_future(auth.headers("POST", "https://x.example", b""))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await second)["Authorization"].startswith("Bearer ya29.")
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.parametrize(
    ("credentials", "says"),
    [
        ({"client_email": "a"}, "no service account"),
        ({"client_email": "a", "token_uri": "b", "private_key": "-----BEGIN secret"}, "no service account"),
        ("/no/such/file.json", "No such file"),
        (7, "not a int"),
    ],
)
def test_wrong_credentials_are_told_without_being_shown(credentials, says):
    with pytest.raises(ConfigError, match=says) as caught:
        provider("vertex", project="p", credentials=credentials)
    assert "BEGIN" not in str(caught.value)
