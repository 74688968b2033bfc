"""What the library keeps of one request's session, beside what views see of it.

:class:`.session.Session` is the mapping on top. All other modules read and change the state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal, NamedTuple, Protocol

from flask import Flask, Request

from ..events import Event, emit
from ..model.identity import FLASK_LOGIN, FRESH, FS_PAA, Identity
from ..model.note import Note, Secret
from ..model.record import Record
from ..model.tokens import SessionID
from .data import PERMANENT
from .info import SessionInfo
from .scratch import Scratch

#: Stand-ins of one ID that are tried: each has to have ended within a minute for the next.
MAX_STAND_INS = 5


class Stored(NamedTuple):
    """A session that is in the store.

    :param note: its record's note.
    :param who: whose it is by its stored data.
    :param sid: the ID that the browser has; ``None``: no cookie of this request may be set again.
    :param stand_in: it stands in for an ID that is over.
    :param secret: what the secret of the browser's ID may do; ``None`` with no ID.
    """

    key: str
    record: Record
    note: Note
    who: Identity
    sid: SessionID | None = None
    stand_in: bool = False
    secret: Secret | None = None


class Suspect(NamedTuple):
    """A live session of which the cookie has a replaced secret, *age* milliseconds old."""

    stored: Stored
    secret: Secret
    age: int


class Loaded(NamedTuple):
    """What was found behind the cookie.

    :param data: the record's data, decoded: this request's own copy.
    :param stored: the live session, or ``None``.
    :param dead: the cookie's ID, if its session is over: what is written stands in for it.
    :param stand_in: how many stand-ins of that ID have ended, too.
    :param is_known: the store has, or remembers, the session of the cookie's ID.
    :param rotated: the cookie's session went on under another ID.
    :param onward: the key under which it went on, and the tag of its user.
    :param suspect: the live session of which the cookie has a replaced secret.
    :param stale: the cookie was signed with a fallback key.
    :param slide: using it restarts its idle time: the view is not passive.
    :param now: the store's clock in milliseconds, 0 if it was not asked.
    :param total: sessions in the store, where a save had them counted; else 0.
    :param ended: why the cookie's session has ended, if its visitor should know.
    """

    data: dict[Any, Any]
    stored: Stored | None = None
    dead: SessionID | None = None
    stand_in: int = 0
    is_known: bool = False
    rotated: bool = False
    onward: tuple[str, str] = ("", "")
    suspect: Suspect | None = None
    stale: bool = False
    slide: bool = True
    now: int = 0
    total: int = 0
    ended: str | None = None


#: What is to be done with the browser's cookie.
Cookie = Literal["keep", "set", "delete"]


class Saved(NamedTuple):
    """What the browser's cookie needs after a save.

    :param sid: the ID that it is to have.
    """

    cookie: Cookie = "keep"
    sid: SessionID | None = None


#: The cookie stays as it is.
NOTHING = Saved()
_NOT_LOADED = Loaded({})


class Host(Protocol):
    """What a session asks of the interface that has opened it."""

    def load(self, state: State) -> Loaded:
        """Returns what is behind the cookie. It is called at the first use."""
        ...

    def describe(self, state: State) -> SessionInfo:
        """Returns what is known of the session as it is now."""
        ...

    def end_others(self, state: State) -> int:
        """End the other sessions of this one's user. Returns how many there were."""
        ...


@dataclass(slots=True, eq=False, repr=False)
class State:
    """The state of one request's session.

    :param user_keys: top-level keys that may have the user.
    """

    host: Host
    app: Flask
    request: Request
    user_keys: tuple[str, ...]

    # -- what was loaded
    #: ``None``: the session was not used yet.
    data: dict[Any, Any] | None = None
    loaded: Loaded = _NOT_LOADED
    #: Why the session could not be loaded or stored. Then nothing more is stored.
    failed: Exception | None = None
    #: The first of a request's threads to use the session loads it, the others wait.
    loading: Any = field(default_factory=RLock)

    # -- what the request asked for, since the last save
    #: What ``session.permanent`` was set to.
    permanent: bool | None = None
    #: Keys were assigned or removed.
    changed: bool = False
    #: The keys that were assigned.
    assigned: set[str] = field(default_factory=set)
    #: ``session.modified = True``.
    forced: bool = False
    #: ``clear()``, ``regenerate()``, ``confirm_sign_in()``.
    cleared: bool = False
    regenerated: bool = False
    confirmed: bool = False
    #: A user key was assigned by the view of an unsafe request: perhaps a sign-in.
    signed_in: bool = False
    #: A user key that was assigned elsewhere, which is no sign-in.
    assigned_in_vain: str = ""
    #: Earlier saves of this request had changes.
    was_modified: bool = False

    # -- how far Flask is with the request
    #: Its own processing has begun: this is no WebSocket's or Socket.IO's event.
    dispatched: bool = False
    #: The view of an unsafe method is running.
    in_unsafe_view: bool = False
    #: The response is built, and the next save is for it.
    responding: bool = False
    #: The response is sent: what is written from now on is not stored.
    sealed: bool = False

    # -- what the response owes
    #: The last save that changed the browser's cookie.
    saved: Saved = NOTHING
    #: The ``Set-Cookie`` header that it has set.
    cookie_line: str = ""
    #: To be sent when the response has its cookie.
    events: tuple[Event, ...] = ()
    #: A warning of a write that is not stored was logged.
    warned: bool = False

    # -- using the session ----------------------------------------------------------------------

    def use(self) -> dict[Any, Any]:
        """Returns the data, which is loaded at the first use.

        :raises Exception: why it could not be loaded, once. Afterwards the request has an empty
            scratch, so that its error page can be built, and nothing of it is stored.
        """
        data = self.data
        if data is None:
            with self.loading:
                if (data := self.data) is not None:  # another thread of this request was faster
                    return data
                try:
                    data = self.hold(self.host.load(self))
                except Exception as error:
                    self.failed, self.data = error, Scratch(error)
                    raise
        return data

    def hold(self, loaded: Loaded) -> dict[Any, Any]:
        """Begin with *loaded*, and with the permanence that was assigned before."""
        data = loaded.data
        if self.permanent is not None and bool(data.get(PERMANENT)) != self.permanent:
            data[PERMANENT] = self.permanent
        self.loaded, self.data = loaded, data
        return data

    def change(self) -> dict[Any, Any]:
        """Returns the data, of which a key is about to be assigned or removed."""
        data = self.use()
        self.changed = True
        return data

    def assign(self, key: str, value: Any) -> None:
        """Assign *value* to *key*.

        Whether a user key makes it a sign-in is decided when the session is saved: what runs before
        each request assigns the same user again and again.
        """
        self.change()[key] = value
        self.assigned.add(key)
        if key in self.user_keys:
            self.signed_in = self.signed_in or self.in_unsafe_view
            self.assigned_in_vain = "" if self.signed_in else key

    def clear(self) -> None:
        """Remove all keys, and end the session."""
        self.change().clear()
        self.cleared = True
        self.forget_sign_in()

    def forget_sign_in(self) -> None:
        """Count nothing that was assigned so far as a sign-in."""
        self.signed_in = self.confirmed = False
        self.assigned.clear()

    # -- what the request did -------------------------------------------------------------------

    @property
    def modified(self) -> bool:
        """Whether a key was assigned or removed, or the session was marked as modified."""
        return self.changed or self.forced or self.was_modified

    @property
    def only_read(self) -> bool:
        """Whether the request did nothing but read, and perhaps change inside of values."""
        asked = self.forced or self.regenerated or self.cleared or self.confirmed
        return not (asked or self.changed or self.assigned)

    @property
    def is_confirmed(self) -> bool:
        """Whether the user was asked again: by us, by Flask-Login or by Flask-Security."""
        # Flask-Login's login_user assigns its own key, too, whatever the app calls the user.
        assigned = self.assigned
        fresh = FRESH in assigned and assigned.isdisjoint({*self.user_keys, FLASK_LOGIN})
        confirmed = fresh and self.use().get(FRESH) is True
        return self.confirmed or confirmed or FS_PAA in assigned

    @property
    def is_restored(self) -> bool:
        """Whether a remember-me cookie has brought the user back."""
        return FRESH in self.assigned and self.use().get(FRESH) is False

    @property
    def was_written(self) -> bool:
        """Whether the request meant to change the session, as far as that can be known."""
        if isinstance(self.data, Scratch):
            return self.data.written or self.forced or self.regenerated
        return self.changed

    # -- saves and responses --------------------------------------------------------------------

    def rebase(self, loaded: Loaded) -> None:
        """Continue with *loaded*, which is stored now: a second save finds nothing to do."""
        self.loaded, self.data = loaded, loaded.data
        self.was_modified = self.modified
        self.changed = self.forced = self.cleared = self.regenerated = False
        self.forget_sign_in()

    def seal(self) -> None:
        """Store nothing that is written from now on: the response is built."""
        self.was_modified = self.modified
        self.changed, self.sealed = False, True

    def note(self, event: Event) -> None:
        """Keep *event* until the response has its cookie."""
        self.events = (*self.events, event)

    def send_events(self) -> None:
        """Send the events that were kept."""
        if self.events:
            events, self.events = self.events, ()
            for event in events:
                emit(self.app, event)
