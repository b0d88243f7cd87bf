"""Vertex AI: Gemini, and Anthropic's models, on Google Cloud."""

from __future__ import annotations

import os
from typing import Any

from attrs import evolve

from llmpipe.errors import ConfigError
from llmpipe.providers.google_auth import GoogleAuth
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.options import filled, speaking
from llmpipe.providers.profile import Profile

__all__ = ("vertex",)

# Locations that are no single region have hosts of their own. Source: the SDKs google-genai and anthropic.
_HOSTS = {"eu": "aiplatform.eu.rep", "global": "aiplatform", "us": "aiplatform.us.rep"}


def vertex(
    profile: Profile,
    *,
    project: str | None = None,
    location: str | None = None,
    credentials: Any = None,
    base_url: str | None = None,
    dialect: Any = None,
    **options: Any,
) -> HTTPProvider:
    """A provider of Google Cloud.

    Args:
        project: by default what the environment variable GOOGLE_CLOUD_PROJECT says.
        location: such as ``"europe-west1"``, ``"eu"``, ``"us"`` or ``"global"``; by default
            GOOGLE_CLOUD_LOCATION, else ``"global"``.
        credentials: see `GoogleAuth`; not used where `api_key` or `auth` is given.
        options: the keywords of `HTTPProvider`.

    Raises: ConfigError as `HTTPProvider`, and where there is no project.
    """
    if isinstance(dialect, str):
        profile, dialect = speaking(profile, dialect), None
    project = project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    location = location or os.environ.get("GOOGLE_CLOUD_LOCATION") or profile.settings["location"]
    if base_url is not None:
        profile = evolve(profile, base_url=base_url)
    elif project is None:
        raise ConfigError(f"provider {profile.name!r} needs project=…, or GOOGLE_CLOUD_PROJECT")
    elif location in _HOSTS and profile.base_url is not None:
        host = _HOSTS[location]
        profile = evolve(profile, base_url=profile.base_url.replace("{location}-aiplatform", host))
    profile = filled(profile, {"project": project, "location": location})
    if options.get("api_key") is None and options.get("auth") is None:
        options["auth"] = GoogleAuth(credentials)
    return HTTPProvider(profile, dialect=dialect, **options)
