"""One request: its session, its cookie, and the response."""
