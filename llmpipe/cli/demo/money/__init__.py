"""The third scene of the demo: money, and state that processes share and outlives them."""
