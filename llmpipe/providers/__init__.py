"""What answers in the end: dialects over HTTP, and a mock."""
