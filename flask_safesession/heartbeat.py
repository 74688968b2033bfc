"""A heartbeat for pages: how long the session has to go, and a way to go on with it.

``app.register_blueprint(heartbeat(safe))`` adds two endpoints at one address, the script that asks
them, and the template function ``heartbeat()``, which writes the tag for that script. The warning
is the one of WCAG 2.2, success criterion 2.2.1 (timing adjustable).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import flask
from flask import Blueprint, Response, abort, request, url_for
from markupsafe import Markup
from werkzeug.exceptions import HTTPException

from .expiry import milliseconds
from .extension import SafeSession
from .scratch import Scratch
from .session import Loaded, Session, is_empty

#: What a request that extends has to bear. Another site's page cannot add it: a browser asks the
#: server first (CORS), and nobody here says yes.
HEADER = "X-Heartbeat"
#: The shortest warning that leaves time to answer it, in seconds (WCAG 2.2.1).
SHORTEST_WARNING = 20
#: What visitors read. The first six are the warning's, the others say why a session has ended.
TEXTS: Mapping[str, str] = {
    "label": "Your session",
    "soon": "Your session is about to end. Press any key, or click, to go on.",
    "stay": "Go on",
    "last": "Your session is about to end, and cannot be made longer. Save what you are doing.",
    "seen": "OK",
    "again": "Sign in again",
    "ended": "Your session has ended.",
    "idle": "Your session has ended, because it was not used for a while.",
    "lifetime": "Your session has ended, because its time was up.",
    "evicted": "Your session has ended, because you signed in elsewhere.",
    "revoked": "Your session was ended from another device, or by an administrator.",
    "replayed": "Your session was ended for your safety: somebody else may have used it.",
}

_OF_THE_WARNING = ("label", "soon", "stay", "last", "seen", "again")
_A_YEAR = 365 * 86_400
_NO_SESSION = {"left": None, "extendable": False, "signed_in": False}


class _Script(NamedTuple):
    """What browsers get; the name is a digest of it."""

    name: str
    plain: bytes
    packed: bytes


class _Setup(NamedTuple):
    """What the app asked for: seconds, an endpoint, and texts."""

    warn: float
    every: float
    sign_in: str | None
    texts: Mapping[str, Any]
    script: _Script


def heartbeat(
    safe: SafeSession,
    *,
    url_prefix: str = "/heartbeat",
    warn: object = "60s",
    every: object = "60s",
    sign_in: str | None = None,
    texts: Mapping[str, Any] | None = None,
) -> Blueprint:
    """Make the blueprint, for :meth:`flask.Flask.register_blueprint`.

    :param url_prefix: where it is to be.
    :param warn: how long before the end pages warn: a duration, 20 seconds at least.
    :param every: how often a browser asks at most, however many tabs it has: a duration.
    :param sign_in: the endpoint where a page goes to when its session has ended; otherwise the page
        is loaded again.
    :param texts: in the place of those in :data:`TEXTS`; lazy strings of a translation, too.
    :raises ValueError: a duration is none, *warn* is too short, a text has no place.
    """
    if unknown := sorted({*(texts or ())} - {*TEXTS}):
        raise ValueError(f"texts: nothing is called {unknown[0]!r}; there are {', '.join(TEXTS)}")
    words = {**TEXTS, **(texts or {})}
    seconds = _long_enough(warn), milliseconds(every) / 1000
    setup = _Setup(*seconds, sign_in, words, _read_script())
    pages = Blueprint("heartbeat", __name__, url_prefix=url_prefix)
    pages.add_url_rule("", "pulse", safe.passive(partial(_pulse, words)))
    pages.add_url_rule("", "extend", partial(_extend, words), methods=["POST"])
    pages.add_url_rule("/<name>.js", "script", safe.exempt(partial(_serve, setup.script)))
    pages.add_app_template_global(partial(_tag, setup), "heartbeat")
    return pages


def _long_enough(warn: object) -> float:
    seconds = milliseconds(warn) / 1000
    if seconds < SHORTEST_WARNING:
        raise ValueError(
            f"warn={warn!r} is too short: people need {SHORTEST_WARNING} seconds at least to"
            " answer (WCAG 2.2.1)"
        )
    return seconds


# -- how the session is ---------------------------------------------------------------------------


def _pulse(texts: Mapping[str, Any]) -> Response:
    """Tell how the session is. That does not keep it alive."""
    if (state := _state(texts)) is None:
        abort(_asked_too_early())
    response = flask.jsonify(state)
    response.cache_control.no_store = True
    return response


def _extend(texts: Mapping[str, Any]) -> Response:
    """Use the session, and tell how it is then."""
    if not _is_ours():
        abort(403, "This request was sent by another site, so nothing was changed.")
    return _pulse(texts)


def _is_ours() -> bool:
    """Whether a page of this very origin sent the request.

    ``SameSite`` would not do: it lets pages of sibling domains through, and apps set it to "None".
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if request.headers.get(HEADER) is None or site not in {None, "same-origin"}:
        return False
    return site is not None or origin is None or urlsplit(origin).netloc == request.host


def _asked_too_early() -> Response:
    """Nothing can be told: the store is down, or the session's new ID is on its way.

    Only an answer with a 200 tells a page that its session has ended.
    """
    failed = _current()._failed
    if isinstance(failed, HTTPException):
        raise failed
    response = Response("Ask again.", 409, mimetype="text/plain")
    response.cache_control.no_store = True
    return response


def _state(texts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is told to pages; ``None``: nothing is known now.

    ``left``: seconds, ``None`` without a session; ``extendable``: using it makes it last longer;
    ``ended``: why the session of this visitor has ended, if it has and that is known.
    """
    session = _current()
    info, loaded = session.info, session._loaded
    if isinstance(session._data, Scratch) or _is_moving(loaded):
        return None
    if loaded.stored is None or (loaded.stored.stand_in and loaded.ended):
        if loaded.stored is None and not is_empty(session._data or {}):
            return None  # it is made with this response
        ended: str | None = getattr(info, "ended_reason", None)
        text = str(texts.get(ended or "ended", texts["ended"]))
        return {**_NO_SESSION, "ended": ended, "text": text}
    record = loaded.stored.record
    left = (info.expires_at - info.now).total_seconds() if info.expires_at and info.now else 0
    return {
        "left": max(left, 0),
        "extendable": record.deadline < record.absolute,
        "signed_in": info.user is not None,
        "ended": None,
    }


def _is_moving(loaded: Loaded) -> bool:
    """Whether the cookie is that of before a rotation: the new one is on its way."""
    return loaded.rotated


def _current() -> Session:
    session: Any = flask.session
    current: object = session._get_current_object()
    if not isinstance(current, Session):
        raise RuntimeError(  # noqa: TRY004  # no argument is wrong, but the app
            "a heartbeat needs SafeSession on the app, and a SECRET_KEY"
        )
    return current


# -- the script -----------------------------------------------------------------------------------


def _read_script() -> _Script:
    """The script as it is served: without comment lines and needless spaces.

    It is written for that: statements end with a semicolon, and no text in it has a space.
    """
    text = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("//"))
    plain = re.sub(r"\s*([^\w\s$])\s*", r"\1", "\n".join(lines)).strip().encode()
    return _Script(sha256(plain).hexdigest()[:16], plain, gzip.compress(plain, mtime=0))


def _serve(script: _Script, name: str) -> Response:
    """Send the script. Caches that have it under its name never need to ask again."""
    packed = request.accept_encodings.quality("gzip") > 0
    response = Response(script.packed if packed else script.plain, mimetype="text/javascript")
    if packed:
        response.content_encoding = "gzip"
    response.vary.add("Accept-Encoding")
    if name == script.name:
        response.headers["Cache-Control"] = f"public, max-age={_A_YEAR}, immutable"
    else:  # the page is of before an update, or of after it: fleets take more than one step
        response.headers["Cache-Control"] = "no-cache"
    return response


def _tag(setup: _Setup, **attributes: object) -> Markup:
    """The tag for the script; *attributes* are further ones of it, such as ``nonce``."""
    state = _state(setup.texts)
    data = {
        "url": url_for("heartbeat.pulse"),
        "state": state and flask.json.dumps(state, separators=(",", ":")),
        "warn": f"{setup.warn:g}",
        "every": f"{setup.every:g}",
        "next": setup.sign_in and url_for(setup.sign_in),
        **{name: setup.texts[name] for name in _OF_THE_WARNING},
    }
    written: dict[str, object] = {
        "src": url_for("heartbeat.script", name=setup.script.name),
        **attributes,
    }
    written |= {f"data-{name}": value for name, value in data.items()}
    given = ((name, value) for name, value in written.items() if value is not None)
    pairs = (Markup(' {}="{}"').format(name, value) for name, value in given)
    return Markup("<script{} defer></script>").format(Markup("").join(pairs))
