"""Metrics and traces of store calls and of sessions."""
