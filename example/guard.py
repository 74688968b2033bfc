"""Protection that needs no state: forged forms are refused, pages may load only what is ours.

Why not a token in the session: every stranger who only looks at a page with a form would need a
stored session then, and a form that was open past the session's end would fail. A browser says by
itself where a request comes from, in headers that no page can set: ``Sec-Fetch-Site``, or
``Origin`` where that one is missing (plain HTTP, older browsers). A request with neither does not
come from a browser, so nobody's cookie is abused; ``curl`` works. OWASP's cheat sheet names this
beside tokens. ``SameSite=Lax`` on the cookie is the second wall.
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
    """Check every request to ``app`` and set the headers of every response."""
    app.before_request(refuse_foreign_forms)
    app.after_request(set_headers)


def refuse_foreign_forms() -> None:
    """Refuse a request that changes something when another site made the browser send it."""
    if request.method not in SAFE_METHODS and _is_foreign():
        abort(403, "This form was sent from another site, so nothing was changed.")


def _is_foreign() -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = request.headers.get("Origin")
    # Compared as text: parsers raise on some of what a client can send.
    return origin not in {None, f"http://{request.host}", f"https://{request.host}"}


def set_headers(response: Response) -> Response:
    """Add the headers; nothing is cached, so that "back" shows no account after sign-out."""
    response.headers.extend(HEADERS)
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")
    return response
