"""Providers as data: which dialect, where, how the key is sent, and what each can do.

Sources: each provider's API reference (its pages are named in comments where they say what nobody would
guess), the official SDKs, and recorded traffic of most. What a quirk means, the dialect's `Quirks` say.
"""

from __future__ import annotations

from llmpipe.providers.profile import Profile
from llmpipe.providers.profiles import anthropic, google, hosted, local, openai

__all__ = ("PROFILES", "Profile")

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        *openai.PROFILES[:1],  # where several keys are set, the command line takes the first
        *anthropic.PROFILES[:1],
        *openai.PROFILES[1:],
        *anthropic.PROFILES[1:],
        *google.PROFILES,
        *hosted.PROFILES,
        *local.PROFILES,
    )
}
"""All that are built in, by name."""
