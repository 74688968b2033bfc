"""The same application, once for each way to keep sessions."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgpack
import redis
from cachelib import SimpleCache
from flask import Flask, Request, Response
from flask.sessions import NullSession, SecureCookieSession, SessionInterface, SessionMixin
from flask_session import Session as FlaskSession
from itsdangerous import BadSignature, Signer

from flask_safesession import SafeSession

from .app import SECRET, add_views, make_app
from .server import Server
from .sql import name_of

CAP = 1_000_000
"""Sessions that each store may hold, so that none is evicted while requests are timed."""

BASELINE = "no session"
COOKIE = "Flask's cookie"
FLOOR = "floor"
SIGNED_FLOOR = "floor, signed"
FLASK_SESSION_REDIS = "Flask-Session, Redis"
FLASK_SESSION_MEMORY = "Flask-Session, SimpleCache"
OURS_REDIS = "SafeSession, Redis"
OURS_MEMORY = "SafeSession, memory"
OURS_SQLITE = "SafeSession, SQLite"
OURS_ON, FLASK_SESSION_ON = "SafeSession,", "Flask-Session, SQLAlchemy on"


def contenders(server: Server, folder: Path, databases: Sequence[str] = ()) -> dict[str, Flask]:
    """All of them by name, the application without sessions first; files are in *folder*.

    :param databases: URLs of SQL servers.
    """
    return {
        BASELINE: _without_session(),
        COOKIE: make_app(),
        FLOOR: make_app(Floor(server.client())),
        SIGNED_FLOOR: make_app(SignedFloor(server.client())),
        FLASK_SESSION_REDIS: _flask_session_redis(server),
        FLASK_SESSION_MEMORY: _flask_session_memory(),
        OURS_REDIS: _safesession(server.url),
        OURS_MEMORY: _safesession("memory://"),
        OURS_SQLITE: _safesession(f"sqlite:///{folder / 'sessions.sqlite3'}"),
        **{f"{FLASK_SESSION_ON} {name_of(url)}": _flask_session_sql(url) for url in databases},
        **{f"{OURS_ON} {name_of(url)}": _safesession(url) for url in databases},
    }


def _flask_session_sql(url: str) -> Flask:
    app = make_app(
        SESSION_TYPE="sqlalchemy",
        SESSION_SQLALCHEMY_TABLE="benchmark_sessions",
        SQLALCHEMY_DATABASE_URI=url.replace("postgresql:", "postgresql+psycopg:").replace(
            "mysql:", "mysql+pymysql:"
        ),
    )
    FlaskSession(app)
    return app


def _without_session() -> Flask:
    app = Flask("benchmarks")
    app.session_interface = NoSession()
    add_views(app, dict)
    return app


def _flask_session_redis(server: Server) -> Flask:
    app = make_app(SESSION_TYPE="redis", SESSION_REDIS=server.client())
    FlaskSession(app)
    return app


def _flask_session_memory() -> Flask:
    app = make_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache(CAP))
    FlaskSession(app)
    return app


def _safesession(store: str) -> Flask:
    app = make_app()
    SafeSession(app, store=store, max_sessions=CAP)
    return app


class NoSession(SessionInterface):
    """No session at all: what Flask itself costs."""

    def __init__(self) -> None:
        self._null = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        """Answer the same empty session every time; Flask never saves it."""
        return self._null


class FloorSession(SecureCookieSession):
    """Flask's dictionary that notices changes, and the ID that it is stored under."""

    sid: str | None = None


class Floor(SessionInterface):
    """The least that keeps a session on Redis: one ``GET`` to read, one ``SET`` to write.

    No signature, no rotation, no limits, no ``Vary``; of concurrent changes the last one wins.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def open_session(self, app: Flask, request: Request) -> FloorSession:
        """Load what the cookie points to."""
        sid = self.unseal(request.cookies.get("session", ""))
        packed = cast("bytes | None", self.client.get(f"floor:{sid}")) if sid else None
        session = FloorSession(msgpack.unpackb(packed) if packed else None)
        session.sid = sid if packed else None
        return session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what was changed; an emptied session is deleted."""
        assert isinstance(session, FloorSession)
        if not session.modified:
            return
        if not session:
            self.client.delete(f"floor:{session.sid}")
            response.delete_cookie("session")
            return
        sid = session.sid or secrets.token_urlsafe(32)
        self.client.set(f"floor:{sid}", msgpack.packb(dict(session)), ex=1800)
        if sid != session.sid:
            response.set_cookie("session", self.seal(sid), httponly=True, samesite="Lax")

    def seal(self, sid: str) -> str:
        """The cookie's value for an ID."""
        return sid

    def unseal(self, cookie: str) -> str:
        """The ID in a cookie's value, or nothing."""
        return cookie


class SignedFloor(Floor):
    """The floor with two things that no interface in earnest leaves out.

    The ID is signed, so that a forged one costs no call, and ``Vary`` keeps shared caches from
    handing one visitor's page to another.
    """

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.signer = Signer(SECRET, salt="floor")

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """As the floor does, and say that the response depends on the cookie."""
        if session.accessed:
            response.vary.add("Cookie")
        super().save_session(app, session, response)

    def seal(self, sid: str) -> str:
        """The ID with its signature."""
        return self.signer.sign(sid).decode()

    def unseal(self, cookie: str) -> str:
        """The ID if its signature is ours, else nothing."""
        try:
            return self.signer.unsign(cookie).decode()
        except BadSignature:
            return ""
