"""The provider ``bedrock``: where it is, and how its requests prove whose they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from attrs import evolve, fields
from botocore.exceptions import BotoCoreError
from botocore.session import Session

from llmpipe import Capabilities, ConfigError
from llmpipe.dialects.bedrock_converse import BedrockConverse
from llmpipe.providers.endpoint import APIKey
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.profile import Profile
from llmpipe.secret import Secret
from llmpipe_bedrock.sigv4 import SigV4

__all__ = ("PROFILE", "bedrock")

PROFILE = Profile(
    "bedrock",
    "bedrock.converse",
    None,
    version="2023-09-30",
    key_env="AWS_BEARER_TOKEN_BEDROCK",
    key_required=False,
    chat_path="/model/{model}/converse",
    stream_path="/model/{model}/converse-stream",
    stream_type="application/vnd.amazon.eventstream",
    embeddings_path="",
    models_path="",
    headers={"Accept": "*/*"},  # JSON of a whole reply, and AWS's own framing of a stream
    capabilities=Capabilities(audio=True),
    prices="aws",
)
"""What Bedrock is, but for the region."""

_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")


def bedrock(  # noqa: PLR0913  each is a keyword of a configuration file
    *,
    region: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | Secret | None = None,
    session_token: str | Secret | None = None,
    profile: str | None = None,
    credentials: Any = None,
    api_key: APIKey | None = None,
    base_url: str | None = None,
    quirks: Mapping[str, Any] | None = None,
    model: str = "",
    name: str | None = None,
    wire: Literal["auto", "stream"] = "auto",
    headers: Mapping[str, str] | None = None,
    transport: Mapping[str, Any] | None = None,
    capabilities: Capabilities | None = None,
    on_loss: Literal["warn", "refuse"] = "warn",
) -> HTTPProvider:
    """A provider that speaks Converse with Amazon Bedrock.

    Whose requests these are is said in one of three ways, the first that is there: AWS credentials that
    are given (`access_key_id` and the rest, `profile`, `credentials`: see `SigV4`); a Bedrock API key
    (`api_key`, or the environment variable ``AWS_BEARER_TOKEN_BEDROCK``); what botocore finds.

    Args:
        region: by default ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or what the profile says.
        base_url: another address than the region's, such as a VPC endpoint's.
        quirks: fields of `BedrockConverse`, such as ``{"json_schema": False}`` for models without it.
        model, name, wire, headers, transport, capabilities, on_loss: those of `HTTPProvider`.

    Raises: ConfigError for a region that is missing or none, for credentials that are incomplete or given
    in two ways, and for an unknown quirk.
    """
    given = any(
        one is not None for one in (access_key_id, secret_access_key, session_token, profile, credentials)
    )
    if given and api_key is not None:
        raise ConfigError(
            "an api_key and AWS credentials are two ways to say whose requests these are; give one"
        )
    if not given and api_key is None:
        api_key = os.environ.get(PROFILE.key_env) or None
    if region is None and (base_url is None or api_key is None):
        region = _configured_region(profile)
    if region is not None and not _REGION.fullmatch(region):
        raise ConfigError(f"region must be a region of AWS, such as 'us-east-1', not {region!r}")
    auth = None
    if api_key is None:
        auth = SigV4(
            region or "",
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            profile=profile,
            credentials=credentials,
        )
    return HTTPProvider(
        evolve(PROFILE, base_url=base_url or _address(region or ""), quirks=_quirks(quirks or {})),
        api_key=api_key,
        auth=auth,
        model=model,
        name=name,
        wire=wire,
        headers=headers,
        transport=transport,
        capabilities=capabilities,
        on_loss=on_loss,
    )


def _configured_region(profile: str | None) -> str:
    """The region of the surroundings. Raises: ConfigError if they name none."""
    region = os.environ.get(
        "AWS_REGION"
    )  # what AWS's other SDKs and its own machines say; botocore does not read it
    try:
        region = region or Session(profile=profile).get_config_variable("region")
    except BotoCoreError as error:  # such as a profile that there is not
        raise ConfigError(f"provider 'bedrock': {error}") from None
    if not region:
        raise ConfigError(
            "provider 'bedrock' needs region=…, such as 'us-east-1', or AWS_REGION in the environment"
        )
    return str(region)


def _address(region: str) -> str:
    """The host of a region. Those of China have a domain of their own; isolated ones need `base_url`."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{suffix}"


def _quirks(told: Mapping[str, Any]) -> Mapping[str, Any]:
    known = [one.name for one in fields(BedrockConverse)]
    for name in told:
        if name not in known:
            raise ConfigError(f"bedrock.converse has no quirk {name!r}; it has {', '.join(known)}")
    return told
