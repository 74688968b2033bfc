"""Looking after sessions from outside a request."""
