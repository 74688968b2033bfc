"""A heartbeat for pages: shows how long the session lasts, and extends it.

``app.register_blueprint(heartbeat(safe))`` adds two endpoints at one address, the script that calls
them, and the template function ``heartbeat()``, which returns the script's tag. The warning follows
WCAG 2.2, success criterion 2.2.1 (timing adjustable).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import flask
from flask import Blueprint, Response, abort, current_app, request, url_for
from itsdangerous import Signer
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BuildError

from ..errors import ConfigError
from ..extension import SafeSession
from ..model.codec import plain
from ..model.policy import milliseconds
from ..web.data import is_empty
from ..web.info import SessionInfo
from ..web.scratch import Scratch
from ..web.session import current_state
from ..web.state import Loaded, State

#: A header that an extending request must have. Another site's page cannot add it: its browser asks
#: the server first (CORS), which does not allow it.
HEADER = "X-Heartbeat"
#: The shortest warning that leaves time to answer it, in seconds (WCAG 2.2.1).
SHORTEST_WARNING = 20
#: The shortest time between two requests of the script, in seconds.
SHORTEST_EVERY = 1
#: The texts for visitors: those of the two dialogs, then the reasons why a session has ended.
TEXTS: Mapping[str, str] = {
    "head": "Your session is about to end",
    "soon": "Press any key, or click, to stay signed in.",
    "stay": "Stay signed in",
    "last": "It cannot be made longer. Save what you are doing.",
    "seen": "OK",
    "over": "Session ended",
    "again": "Sign in again",
    "ended": "Your session has ended.",
    "idle": "Your session has ended, because it was not used for a while.",
    "lifetime": "Your session has ended, because its time was up.",
    "evicted": "Your session has ended, because you signed in elsewhere.",
    "revoked": "Your session was ended from another device, or by an administrator.",
    "replayed": "Your session was ended for your safety: somebody else may have used it.",
    "other": "Your session has ended, because another account signed in with this browser.",
}

_OF_THE_DIALOGS = ("head", "soon", "stay", "last", "seen", "over", "again")
_A_YEAR = 365 * 86_400
_SALT = b"flask-safesession.heartbeat"
_PATH = re.compile(r"/[^/\\\s?#][^\\\s?#]*")
# Not ".name", which is relative to the blueprint of the page.
_ENDPOINT = re.compile(r"[^./\\\s:?#][^/\\\s:?#]*")


class _Script(NamedTuple):
    """The script as browsers get it. The name is a digest of it."""

    name: str
    plain: bytes
    packed: bytes


class _Setup(NamedTuple):
    """The arguments of :func:`heartbeat`, checked. Times are in seconds."""

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
    """Returns the blueprint, for :meth:`flask.Flask.register_blueprint`.

    :param safe: the extension of the app.
    :param url_prefix: the path where it is mounted.
    :param warn: how long before the end pages warn: a duration, 20 seconds at least.
    :param every: how long a browser waits between two requests, however many tabs it has: a
        duration, a second at least.
    :param sign_in: the endpoint that a page opens when its session has ended, such as
        ``"account.login"``; ``None``: the page is loaded again.
    :param texts: replacements for :data:`TEXTS`, also lazy strings of a translation.
    :raises ValueError: an argument is wrong; the message has the fix.
    """
    if not isinstance(safe, SafeSession):
        raise _wrong("safe", safe, "give the SafeSession of the app")
    _check_names(url_prefix, sign_in)
    words = {**TEXTS, **_checked_texts(texts)}
    seconds = (
        _seconds("warn", warn, SHORTEST_WARNING, "to answer (WCAG 2.2.1)"),
        _seconds("every", every, SHORTEST_EVERY, "between two questions"),
    )
    setup = _Setup(*seconds, sign_in, words, _read_script())
    pages = Blueprint("heartbeat", __name__, url_prefix=url_prefix)
    pages.add_url_rule("", "pulse", safe.passive(partial(_pulse, words)))
    pages.add_url_rule("", "extend", partial(_extend, words), methods=["POST"])
    pages.add_url_rule("/<name>.js", "script", safe.exempt(partial(_serve, setup.script)))
    pages.add_app_template_global(partial(_tag, setup), "heartbeat")
    return pages


# -- checks of the arguments ----------------------------------------------------------------------


def _wrong(name: str, value: object, fix: str) -> ValueError:
    return ValueError(f"heartbeat({name}={value!r}): {fix}")


def _check_names(url_prefix: object, sign_in: object) -> None:
    if not (isinstance(url_prefix, str) and _PATH.fullmatch(url_prefix)):
        fix = 'give a path that begins with one slash, such as "/heartbeat"'
        raise _wrong("url_prefix", url_prefix, fix)
    if sign_in is not None and not (isinstance(sign_in, str) and _ENDPOINT.fullmatch(sign_in)):
        fix = (
            'give the name of an endpoint, such as "login" or "account.login", not an address;'
            ' the command "flask routes" lists them'
        )
        raise _wrong("sign_in", sign_in, fix)


def _checked_texts(texts: object) -> Mapping[str, Any]:
    if texts is None:
        return {}
    if not isinstance(texts, Mapping):
        raise _wrong("texts", texts, "give a dict of texts")
    for name, text in texts.items():
        if name not in TEXTS:
            there_are = f"there is no text {name!r}; there are {', '.join(TEXTS)}"
            raise _wrong("texts", texts, there_are)
        if not _is_text(text):
            raise _wrong("texts", texts, f"{name!r} must be a text that is not blank")
    return texts


def _is_text(value: object) -> bool:
    """Whether *value* is a text, or a lazy string, which can only be read in a request."""
    if isinstance(value, str):
        return bool(value.strip())
    return type(value).__module__ != "builtins"


def _seconds(name: str, value: object, least: int, why: str) -> float:
    try:
        seconds = milliseconds(value) / 1000
    except ValueError as error:
        raise _wrong(name, value, str(error)) from None
    if seconds < least:
        raise _wrong(name, value, f"that is too short: at least {least} seconds are needed {why}")
    return seconds


# -- the session's state -------------------------------------------------------------------------


def _pulse(texts: Mapping[str, Any]) -> Response:
    """Respond with the session's state. Does not keep the session alive."""
    if (state := _state(texts)) is None:
        abort(_asked_too_early())
    response = flask.jsonify(state)
    response.cache_control.no_store = True
    return response


def _extend(texts: Mapping[str, Any]) -> Response:
    """Use the session, and respond with its state."""
    if not _is_ours():
        abort(403, "This request was sent by another site, so nothing was changed.")
    return _pulse(texts)


def _is_ours() -> bool:
    """Whether a page of this origin sent the request.

    ``SameSite`` is not enough: it allows pages of sibling domains, and apps set it to "None".
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if request.headers.get(HEADER) is None or site not in {None, "same-origin"}:
        return False
    # Compared as text: parsers raise on some values. Behind a proxy the scheme may differ from the
    # browser's.
    ours = {None, f"http://{request.host}", f"https://{request.host}"}
    return site is not None or origin in ours


def _asked_too_early() -> Response:
    """Returns the response for an unknown state: an outage, or a new ID on its way.

    It is not a 200, since only a 200 can end a page's session.
    """
    failed = _current().failed
    if isinstance(failed, HTTPException):
        raise failed
    response = Response("Ask again.", 409, mimetype="text/plain")
    response.cache_control.no_store = True
    return response


def _state(texts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the session's state for pages; ``None``: it is unknown now.

    ``left``: seconds, ``None`` without a session; ``extendable``: using the session extends it;
    ``who``: digests of its user; ``ended``: why the visitor's session has ended, if known;
    ``text``: the text for a page whose session has ended.
    """
    state = _current()
    data = state.use()
    info, loaded = state.host.describe(state), state.loaded
    if isinstance(data, Scratch) or loaded.rotated:
        return None  # the cookie is from before a rotation: the new one is on its way
    if loaded.stored is None and not is_empty(data):
        return None  # this response creates it
    ended = info.ended_reason
    why = "other" if info.user is not None else ended or "ended"
    return {
        **_time_left(info, loaded),
        "signed_in": info.user is not None,
        "who": _digests_of(info),
        "ended": ended,
        "text": str(texts.get(why, texts["ended"])),
    }


def _time_left(info: SessionInfo, loaded: Loaded) -> dict[str, Any]:
    if loaded.stored is None or (loaded.stored.stand_in and loaded.ended):
        return {"left": None, "extendable": False}  # a stand-in is not the page's session
    record = loaded.stored.record
    left = (info.expires_at - info.now).total_seconds() if info.expires_at and info.now else 0
    return {"left": max(left, 0), "extendable": record.deadline < record.absolute}


def _digests_of(info: SessionInfo) -> list[str]:
    """Returns digests of the user, or of an anonymous session: one for each secret key.

    Pages compare them to detect that another user has signed in. One in common is enough, so a new
    secret key ends no page. They are keyed, so they cannot be computed from a name.
    """
    subject = f"session:{info.handle}" if info.user is None else f"user:{plain(info.user)}"
    if info.user is None and info.handle is None:
        return []
    fallbacks = current_app.config.get("SECRET_KEY_FALLBACKS") or ()
    return [_digest(key, subject) for key in (current_app.secret_key, *fallbacks) if key]


def _digest(key: str | bytes, subject: str) -> str:
    signer = Signer(key, salt=_SALT, key_derivation="hmac", digest_method=sha256)
    return signer.get_signature(subject.encode("utf-8", "surrogatepass")).decode("ascii")[:16]


def _current() -> State:
    if (state := current_state()) is None:
        raise RuntimeError("a heartbeat requires SafeSession on the app, and a SECRET_KEY")
    return state


# -- the script -----------------------------------------------------------------------------------


def _read_script() -> _Script:
    """Returns the script as it is served: without comment lines and needless spaces.

    The source allows this: statements end with a semicolon, and no string has a space.
    """
    text = Path(__file__).with_name("heartbeat.js").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("//"))
    dense = re.sub(r"\s*([^\w\s$])\s*", r"\1", "\n".join(lines)).strip()
    served = re.sub(r"[;,]}", "}", dense).encode()
    return _Script(sha256(served).hexdigest()[:16], served, gzip.compress(served, mtime=0))


def _serve(script: _Script, name: str) -> Response:
    """Serve the script. Under its current name, caches keep it for a year."""
    packed = request.accept_encodings.quality("gzip") > 0
    response = Response(script.packed if packed else script.plain, mimetype="text/javascript")
    if packed:
        response.content_encoding = "gzip"
    response.vary.add("Accept-Encoding")
    if name == script.name:
        response.headers["Cache-Control"] = f"public, max-age={_A_YEAR}, immutable"
    else:  # during an update, pages and scripts of two versions mix
        response.headers["Cache-Control"] = "no-cache"
    return response


def _tag(setup: _Setup, **attributes: object) -> Markup:
    """Returns the tag for the script, with further *attributes* such as ``nonce``."""
    state = _state(setup.texts)
    data = {
        "url": url_for("heartbeat.pulse"),
        "state": state and flask.json.dumps(state, separators=(",", ":")),
        "warn": f"{setup.warn:g}",
        "every": f"{setup.every:g}",
        "next": setup.sign_in and _address_of(setup.sign_in),
        **{name: setup.texts[name] for name in _OF_THE_DIALOGS},
    }
    written: dict[str, object] = {
        "src": url_for("heartbeat.script", name=setup.script.name),
        **attributes,
    }
    written |= {f"data-{name}": value for name, value in data.items()}
    given = ((name, value) for name, value in written.items() if value is not None)
    pairs = (Markup(' {}="{}"').format(name, value) for name, value in given)
    return Markup("<script{} defer></script>").format(Markup("").join(pairs))


def _address_of(sign_in: str) -> str:
    try:
        return url_for(sign_in)
    except BuildError as error:
        problem = f"heartbeat(sign_in={sign_in!r}): {error}"
        raise ConfigError([problem], "pages cannot link to the sign-in page") from error
