"""The settings as keyword arguments, for type checkers and editors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from typing import Any, Literal, TypeAlias, TypedDict

#: Seconds, a ``timedelta``, or text such as ``"30m"``.
Duration: TypeAlias = float | str | timedelta
#: A number, also as the text of an environment variable.
Number: TypeAlias = int | str


class SettingsDict(TypedDict, total=False):
    """The keyword arguments of :class:`~flask_safesession.SafeSession` (PEP 692).

    For a function of your own that passes settings on::

        def create_app(**settings: Unpack[SettingsDict]) -> Flask: ...
    """

    store: Any  # a URL, a store, or a client of a package that may not be installed
    store_password: str | Callable[[], str] | None
    expiry: Literal["sliding", "fixed", "tiered"]
    idle_timeout: Duration
    lifetime: Duration
    longest_lifetime: Duration | None
    tiers: Mapping[str, Mapping[str, Duration]]
    tier_key: str
    user_key: str | Iterable[str] | Callable[[Any], Any]
    touch_interval: Duration | None
    max_sessions: Number | None
    max_sessions_per_user: Number | Mapping[str, Number] | None
    when_full: Literal["evict", "reject"]
    when_user_full: Literal["evict-oldest", "reject"]
    max_session_size: Number | None
    check_interval: Duration | None
    purge_batch: Number | None
    scheduler: Any  # APScheduler ships no types
    store_timeout: Duration
    on_outage: Literal["unavailable", "readonly-anonymous"]
    key_prefix: str
    shards: Number | None
    wait_replicas: Number
    record_client: bool
    renew_interval: Duration | None
    renew_grace: Duration
    adopt: Any  # a URL, a store, or a list of them
    adopt_until: date | str | None
