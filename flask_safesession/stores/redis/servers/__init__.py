"""Finds the servers, and keeps the connections to them."""
