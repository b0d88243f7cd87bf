"""What every test stands on: no network, no settings from outside, properties without a stopwatch."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
# All that a provider's key, or its cloud, could be found by.
OUTSIDE = (
    "ANTHROPIC_", "AWS_", "AZURE_", "CEREBRAS_", "COHERE_", "CO_API_", "DEEPSEEK_", "FIREWORKS_", "GEMINI_",
    "GOOGLE_", "GROQ_", "LLAMA_", "LLMPIPE_", "LLM_", "MISTRAL_", "OLLAMA_", "OPENAI_", "OPENROUTER_",
    "PERPLEXITY_", "TOGETHER_", "VLLM_", "XAI_",
)  # fmt: skip
OURS = ("LLMPIPE_LONG", "LLMPIPE_WIRE")  # what tells the tests themselves how to run

# A slow machine is no failure. In CI the examples are the same in each run.
hypothesis.settings.register_profile(
    "llmpipe", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("llmpipe")


@pytest.fixture(scope="session")
def wire() -> Path | None:
    """The directory of recorded provider traffic, or None where it is not at hand."""
    found = Path(os.environ.get("LLMPIPE_WIRE", ROOT.parent / "shared" / "wire"))
    return found if any(found.glob("*/*.json")) else None


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(OUTSIDE) and name not in OURS]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse to look up or reach anything that is not this machine."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_unless_local(address[0])
        connect(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_unless_local(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def _refuse_unless_local(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        address = None
    if address is None or not (address.is_loopback or address.is_unspecified):
        raise RuntimeError(f"a test tried to reach {name!r}; tests stay on this machine")
