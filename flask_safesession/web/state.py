"""The state of one request's session, behind the mapping that views see.

:class:`.session.Session` is that mapping. All other modules read and change the state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal, NamedTuple, Protocol

from flask import Flask, Request

from ..events import Event, emit
from ..model.identity import FLASK_LOGIN, FRESH, FS_PAA, Identity
from ..model.note import Note, Secret
from ..model.policy import Limits, OwnLimits
from ..model.record import Record
from ..model.tokens import SessionID
from .data import PERMANENT, is_permanent
from .info import SessionInfo
from .scratch import Scratch

#: Stand-ins tried for one ID. There is a next one only if each ended within a minute.
MAX_STAND_INS = 5


class Stored(NamedTuple):
    """A session in the store.

    :param note: its record's note.
    :param who: the user and tier that its stored data names.
    :param sid: the ID that the browser has; ``None``: this request must not set its cookie again.
    :param stand_in: it stands in for a dead ID.
    :param secret: what the secret of the browser's ID may do; ``None`` without an ID.
    """

    key: str
    record: Record
    note: Note
    who: Identity
    sid: SessionID | None = None
    stand_in: bool = False
    secret: Secret | None = None


class Suspect(NamedTuple):
    """A live session, *age* milliseconds old, of which the cookie has a replaced secret."""

    stored: Stored
    secret: Secret
    age: int


class Loaded(NamedTuple):
    """What was loaded for the cookie.

    :param data: the decoded data: this request's own copy.
    :param stored: the live session, or ``None``.
    :param dead: the cookie's ID, if its session has ended: what is written stands in for it.
    :param stand_in: how many stand-ins of that ID have ended, too.
    :param is_known: the store has the session of the cookie's ID, or its tombstone.
    :param rotated: the cookie's session continued under another ID.
    :param onward: the key of that session, and the tag of its user; empty if there is none.
    :param suspect: the live session of which the cookie has a replaced secret.
    :param stale: the cookie was signed with a fallback key.
    :param slide: this use restarts the idle time: the view is not passive.
    :param now: the store's time in milliseconds; 0 if the store was not called.
    :param total: sessions in the store, if a save has counted them; else 0.
    :param ended: why the cookie's session has ended, if the visitor should know.
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


#: What a response does with the browser's cookie.
Cookie = Literal["keep", "set", "delete"]


class Saved(NamedTuple):
    """What the browser's cookie needs after a save.

    :param sid: the ID to set.
    """

    cookie: Cookie = "keep"
    sid: SessionID | None = None


#: The cookie stays as it is.
NOTHING = Saved()
_NOT_LOADED = Loaded({})


class Host(Protocol):
    """The methods that a session calls on its interface."""

    def load(self, state: State) -> Loaded:
        """Returns what the cookie leads to. Called at the first use."""
        ...

    def describe(self, state: State) -> SessionInfo:
        """Returns the info of the session as it is now."""
        ...

    def limits(self, state: State) -> Limits:
        """Returns the limits of the session's tier as it is now."""
        ...

    def end_others(self, state: State) -> int:
        """End the other sessions of this session's user. Returns how many it ended."""
        ...


@dataclass(slots=True, eq=False, repr=False)
class State:
    """The state of one request's session.

    :param user_keys: top-level keys that may hold the user.
    """

    host: Host
    app: Flask
    request: Request
    user_keys: tuple[str, ...]

    # -- what was loaded
    #: ``None``: the session is not loaded yet.
    data: dict[Any, Any] | None = None
    loaded: Loaded = _NOT_LOADED
    #: Why the session could not be loaded or stored. If set, nothing more is stored.
    failed: Exception | None = None
    #: Held while one of the request's threads loads the session; the others wait.
    loading: Any = field(default_factory=RLock)

    # -- what the request did since the last save
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
    #: The limits of ``expires_in()``, counted from the call.
    own_limits: OwnLimits | None = None
    #: A user key was assigned by the view of an unsafe request: perhaps a sign-in.
    signed_in: bool = False
    #: A user key that was assigned elsewhere, which is not a sign-in.
    assigned_in_vain: str = ""
    #: Earlier saves of this request had changes.
    was_modified: bool = False

    # -- how far Flask is with the request
    #: Flask's own processing has begun: this is not an event of a WebSocket or of Socket.IO.
    dispatched: bool = False
    #: The view of an unsafe method is running.
    in_unsafe_view: bool = False
    #: The response is built, and the next save is for it.
    responding: bool = False
    #: The response is built: later writes are not stored.
    sealed: bool = False

    # -- what the response owes
    #: The last save that changed the browser's cookie.
    saved: Saved = NOTHING
    #: The ``Set-Cookie`` header that it set.
    cookie_line: str = ""
    #: Events to send when the response has its cookie.
    events: tuple[Event, ...] = ()
    #: The warning of a write that is not stored has been logged.
    warned: bool = False

    # -- using the session ----------------------------------------------------------------------

    def use(self) -> dict[Any, Any]:
        """Returns the data. Loads it at the first use.

        :raises Exception: why it could not be loaded, once. Afterwards the request has an empty
            scratch session, so that its error page can be built; nothing is stored.
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
        """Set the data to that of *loaded*, with the permanence that was assigned before."""
        data = loaded.data
        if self.permanent is not None and is_permanent(data) != self.permanent:
            data[PERMANENT] = self.permanent
        self.loaded, self.data = loaded, data
        return data

    def change(self) -> dict[Any, Any]:
        """Returns the data, and marks it as changed."""
        data = self.use()
        self.changed = True
        return data

    def assign(self, key: str, value: Any) -> None:
        """Assign *value* to *key*.

        Whether a user key makes this a sign-in is decided at the save: ``before_request`` functions
        may assign the same user at each request.
        """
        self.change()[key] = value
        self.assigned.add(key)
        if key in self.user_keys:
            self.signed_in = self.signed_in or self.in_unsafe_view
            self.assigned_in_vain = "" if self.signed_in else key

    def clear(self) -> None:
        """Remove all keys, and end the session."""
        self.change().clear()
        self.cleared, self.own_limits = True, None
        self.forget_sign_in()

    def forget_sign_in(self) -> None:
        """Count nothing assigned so far as a sign-in."""
        self.signed_in = self.confirmed = False
        self.assigned.clear()

    # -- what the request did -------------------------------------------------------------------

    @property
    def modified(self) -> bool:
        """Whether a key was assigned or removed, or the session was marked as modified."""
        return self.changed or self.forced or self.was_modified

    @property
    def only_read(self) -> bool:
        """Whether the request only read, apart from changes inside values."""
        asked = self.is_asked or self.cleared or self.confirmed
        return not (asked or self.changed or self.assigned)

    @property
    def is_asked(self) -> bool:
        """Whether the request asked for a write, a new ID or limits, which must not be lost."""
        return self.forced or self.regenerated or self.own_limits is not None

    @property
    def is_confirmed(self) -> bool:
        """Whether a sign-in was confirmed: by the app, Flask-Login or Flask-Security."""
        # Freshness alone is confirm_login; login_user also assigns Flask-Login's user key.
        assigned = self.assigned
        fresh = FRESH in assigned and assigned.isdisjoint({*self.user_keys, FLASK_LOGIN})
        confirmed = fresh and self.use().get(FRESH) is True
        return self.confirmed or confirmed or FS_PAA in assigned

    @property
    def is_restored(self) -> bool:
        """Whether a remember-me cookie restored the user."""
        return FRESH in self.assigned and self.use().get(FRESH) is False

    @property
    def was_written(self) -> bool:
        """Whether the request wrote to the session, as far as can be known."""
        if isinstance(self.data, Scratch):
            return self.data.written or self.is_asked
        return self.changed

    # -- saves and responses --------------------------------------------------------------------

    def rebase(self, loaded: Loaded) -> None:
        """Continue with *loaded*, which is now stored: a second save has nothing to do."""
        self.loaded, self.data = loaded, loaded.data
        self.was_modified = self.modified
        self.changed = self.forced = self.cleared = self.regenerated = False
        self.own_limits = None
        self.forget_sign_in()

    def seal(self) -> None:
        """Ignore later writes: the response is built."""
        self.was_modified = self.modified
        self.changed, self.sealed = False, True

    def note(self, event: Event) -> None:
        """Keep *event* until the response has its cookie."""
        self.events = (*self.events, event)

    def send_events(self) -> None:
        """Send the kept events."""
        if self.events:
            events, self.events = self.events, ()
            for event in events:
                emit(self.app, event)
