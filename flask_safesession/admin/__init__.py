"""Managing sessions from outside a request."""
