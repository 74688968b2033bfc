"""Refuses forged forms, and lets pages load only this app's files. Needs no state.

A token in the session would require a stored session for each anonymous visitor who opens a page
with a form, and a form that was open past the session's end would fail. Instead, browsers send
where a request comes from, in headers that no page can set: ``Sec-Fetch-Site``, or ``Origin``
without it (plain HTTP, older browsers). A request with neither is not from a browser, so no cookie
is abused; ``curl`` works. OWASP's cheat sheet accepts this beside tokens. ``SameSite=Lax`` on the
cookie is the second defence.
"""

from __future__ import annotations

from flask import Flask, Response, abort, request

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": that would send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
}


def protect(app: Flask) -> None:
    """Check each request to ``app`` and set the headers of each response."""
    app.before_request(refuse_foreign_forms)
    app.after_request(set_headers)


def refuse_foreign_forms() -> None:
    """Refuse an unsafe request that another site made the browser send."""
    if request.method not in SAFE_METHODS and _is_foreign():
        abort(403, "This form was sent from another site, so nothing was changed.")


def _is_foreign() -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    # Compared as text: parsers raise on some values.
    return origin not in {None, f"http://{request.host}", f"https://{request.host}"}


def set_headers(response: Response) -> Response:
    """Add the headers. Pages are not cached, so that "back" shows no account after sign-out."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)  # the dashboard sets its own
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")
    return response
