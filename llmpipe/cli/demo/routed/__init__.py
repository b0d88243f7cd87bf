"""The second scene: a router over four providers that speak four dialects."""
