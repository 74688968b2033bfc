"""The sessions of this application. Copy these lines."""

from __future__ import annotations

from typing import Unpack

from flask import Flask

from flask_safesession import SafeSession, SettingsDict

safe = SafeSession()

TIERS = {  # in the order of eviction: anonymous sessions first
    "anonymous": {"idle_timeout": "15m"},
    "customer": {"idle_timeout": "30m"},
    "admin": {"idle_timeout": "10m", "lifetime": "1h"},
    "teller": {"lifetime": "5m"},
}


def configure(app: Flask, **overrides: Unpack[SettingsDict]) -> None:
    """Give ``app`` server-side sessions. Settings of the environment stay."""
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    if app.config.setdefault("SAFESESSION_EXPIRY", "tiered") == "tiered":
        app.config.setdefault("SAFESESSION_TIERS", TIERS)
    app.config.setdefault("SAFESESSION_MAX_SESSIONS", 5_000)
    app.config.setdefault("SAFESESSION_RECORD_CLIENT", True)  # for "Your devices"
    safe.init_app(app, **overrides)
