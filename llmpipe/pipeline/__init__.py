"""The onion: calls, replies, the linker that builds it, and the chain that is its front door."""
