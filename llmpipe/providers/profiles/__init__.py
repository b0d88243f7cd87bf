"""Providers as data: which dialect, where, how the key is sent, and what each can do.

Sources: each provider's documentation, the official SDKs, reports of what servers answered, and recorded
traffic of most. They are named in comments beside what nobody would guess; what is told by none of them is
called assumed, and is set so that a mistake shows at once. What a quirk means, the dialect's `Quirks` say.
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
