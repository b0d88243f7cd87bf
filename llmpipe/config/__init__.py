"""Chains from files, and the standard ones."""
