"""Servers that tests start for themselves, and that never outlive them."""
