"""Finds what makes the sessions of a store grow: ``flask safesession diagnose``.

Key names and sizes are reported, never a value and never a user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from flask import Flask

from ..config.settings import Settings
from ..model.policy import ANONYMOUS_TIER, spelled
from ..model.text import span
from . import figures
from .figures import Growth, Key, Origin, Sizes, User, sized
from .sampling import PAYLOADS, SAMPLE, Sample, take

#: The names of all findings, in the order of ``docs/diagnosis.md``.
NAMES: tuple[str, ...] = (
    *("never-used-again", "only-a-token", "sign-in-per-call", "many-of-one-user"),
    *("growing-key", "large-key", "near-the-size-limit", "nearly-full", "not-removed"),
)

#: Fewer sessions than these show nothing.
FEW = 20
#: Of the sessions of one endpoint, the part that was never used again.
UNUSED = 0.8
#: Of all sessions, the part of one endpoint, or of those that hold only a CSRF token or a flash.
MANY = 0.1
#: Sessions of one user.
OF_ONE_USER = 20
#: The least sessions that are compared by a key, the entries of the longest container, and how much
#: longer they are in sessions that have been in use for the longer time.
COMPARED, LONG, LONGER = 8, 50, 1.5
#: The part of all bytes under one key, and its bytes in a typical session.
LARGE_SHARE, LARGE = 0.5, 4096
#: Of ``SAFESESSION_MAX_SESSION_SIZE``, the part that the largest session takes.
NEAR_THE_LIMIT = 0.8
#: Of the cap, the part that is in use; and seconds until it is reached.
FULL, FULL_SOON = 0.8, 21_600.0
#: Check intervals after which a session should have been removed, and seconds without a job.
OVERDUE_INTERVALS, OVERDUE = 5, 3600.0


@dataclass(frozen=True)
class Problem:
    """A finding: what was seen, why it happens, and what to change."""

    name: str
    seen: str
    cause: str
    fix: str


@dataclass(frozen=True)
class Diagnosis:
    """Figures of a store, and what is wrong with them.

    :param looked_at: sessions in the sample.
    :param users: the newest session of users with several, and the number of their sessions.
    :param process_bytes: memory of this process; ``None``: unknown on this platform.
    :param findings: first about all sessions, then about endpoints, users and keys.
    """

    looked_at: int
    sessions: int
    cap: int
    due: int
    overdue_seconds: float
    growth: Growth | None
    origins: tuple[Origin, ...]
    sizes: Sizes | None
    keys: tuple[Key, ...]
    users: tuple[User, ...]
    process_bytes: int | None
    findings: tuple[Problem, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all sessions were looked at, so that numbers by endpoint are no estimates."""
        return self.looked_at >= self.sessions

    @property
    def only_tokens(self) -> int:
        """Sessions, of those whose data were read, that hold only a CSRF token or a flash."""
        return sum(origin.only_tokens for origin in self.origins)


def diagnose(app: Flask, state: Any, size: int = SAMPLE, payloads: int = PAYLOADS) -> Diagnosis:
    """Returns the diagnosis of an app's store, from a sample; see :func:`.sampling.take`.

    :param state: the extension's state of *app*.
    """
    settings: Settings = state.settings
    found = figures_of(take(state.opened, settings, size, payloads), settings)
    return with_findings(found, settings, lambda endpoint: place_of(app, endpoint))


def place_of(app: Flask, endpoint: str) -> str:
    """Returns the path and the name of an endpoint; the name alone if the app has it no longer."""
    with suppress(KeyError):
        return f"{next(app.url_map.iter_rules(endpoint)).rule} ({endpoint})"
    return endpoint


def figures_of(sample: Sample, settings: Settings) -> Diagnosis:
    """Returns the figures of a sample, without findings."""
    counts, cap = sample.counts, settings.rules.cap.total
    return Diagnosis(
        len(sample.seen),
        counts.total,
        cap,
        counts.due,
        counts.overdue / 1000,
        figures.growth_of(sample, cap),
        tuple(figures.origins_of(sample.seen)),
        figures.sizes_of(sample.seen, counts.total),
        tuple(figures.keys_of(sample.seen)),
        tuple(figures.users_of(sample)),
        figures.process_bytes(),
    )


def with_findings(
    found: Diagnosis, settings: Settings, place: Callable[[str], str] = str
) -> Diagnosis:
    """Returns *found* with its findings.

    :param place: returns what to call an endpoint.
    """
    unused = [*_never_used_again(found, settings, place)]
    problems = chain(
        _nearly_full(found),
        _not_removed(found, settings),
        unused or _only_a_token(found),
        _sign_in_per_call(found, place),
        _many_of_one_user(found, settings),
        _growing_keys(found),
        _large_keys(found),
        _near_the_size_limit(found, settings),
    )
    return replace(found, findings=tuple(problems))


def growth_text(growth: Growth | None) -> str:
    """Returns the growth as a sentence without its end."""
    if growth is None:
        return "not known yet; look again in a minute or later"
    text = f"{growth.per_hour:+,.0f} sessions an hour, in the last {span(growth.over)}"
    return (
        text if growth.full_in is None else f"{text}; the cap is reached in {span(growth.full_in)}"
    )


def _never_used_again(
    found: Diagnosis, settings: Settings, place: Callable[[str], str]
) -> Iterator[Problem]:
    for origin in found.origins:
        if not (origin.anonymous and _is_mostly_unused(origin, found)):
            continue
        is_token = origin.with_data > 0 and origin.only_tokens / origin.with_data >= UNUSED
        what = "a CSRF token or a flash" if is_token else "something"
        fix = (
            "render the token on demand, only where a form is about to be sent"
            if is_token
            else "write to the session only after the visitor did something, and mark health checks"
            " and webhooks with @safe.exempt"
        )
        yield Problem(
            "never-used-again",
            f"{_subject(origin, place)} creates an anonymous session for every visitor:"
            f" {_number(origin.sessions, found)} of {found.sessions:,} sessions;"
            f" {_unused(origin)} were never used again",
            f"the view writes {what} to the session, also for bots, monitors and clients that keep"
            " no cookies",
            f"{fix}; or {_shorter_anonymous(settings)}",
        )


def _only_a_token(found: Diagnosis) -> Iterator[Problem]:
    read = found.sizes.with_data if found.sizes else 0
    if found.only_tokens >= max(FEW, read * MANY):
        yield Problem(
            "only-a-token",
            f"{found.only_tokens / read:.0%} of {read:,} sessions hold only a CSRF token or a"
            " flash",
            "each page with a form creates a session, also for visitors who never send the form",
            "render the token on demand, only where a form is about to be sent",
        )


def _sign_in_per_call(found: Diagnosis, place: Callable[[str], str]) -> Iterator[Problem]:
    for origin in found.origins:
        if not origin.anonymous and _is_mostly_unused(origin, found):
            yield Problem(
                "sign-in-per-call",
                f"{_subject(origin, place)} creates {_number(origin.sessions, found)} of"
                f" {found.sessions:,} sessions, with a user; {_unused(origin)} were never used"
                " again",
                "clients sign in for each call and drop the cookie",
                "let them keep the cookie, or authenticate calls by a token in views that are"
                " marked with @safe.exempt",
            )


def _many_of_one_user(found: Diagnosis, settings: Settings) -> Iterator[Problem]:
    for user in found.users:
        if user.sessions >= OF_ONE_USER:
            yield Problem(
                "many-of-one-user",
                f"one user has {user.sessions:,} sessions; the newest is {user.handle}",
                "a script signs in anew instead of keeping its cookie, or an account is shared",
                "let the script keep its cookie, or lower SAFESESSION_MAX_SESSIONS_PER_USER (it is"
                f" {settings.rules.cap.per_user:,}); `flask safesession show HANDLE --data` shows"
                " whose it is",
            )


def _growing_keys(found: Diagnosis) -> Iterator[Problem]:
    for key in found.keys:
        if key.lengths is None or not _is_growing(key):
            continue
        what, brief, long = key.lengths, key.lengths.brief, key.lengths.long
        entries = "keys like it" if key.several else "entries"
        yield Problem(
            "growing-key",
            f"{key.name!r} grows with use: {brief:.0f} {entries} in sessions that have been in use"
            f" briefly, {long:.0f} in the others, {what.longest:,} in the longest"
            f" ({sized(key.largest)}); it takes {key.share:.0%} of all bytes",
            "the app adds to it with every request and never removes anything",
            f"keep the last few {entries} only, or store them in the app's database and only their"
            " key in the session",
        )


def _large_keys(found: Diagnosis) -> Iterator[Problem]:
    for key in found.keys:
        is_large = key.share >= LARGE_SHARE and key.median >= LARGE
        if is_large and key.sessions >= COMPARED and not _is_growing(key):
            yield Problem(
                "large-key",
                f"{key.name!r} takes {key.share:.0%} of all bytes, {sized(key.median)} in one"
                f" session, {sized(key.largest)} in the largest",
                "the app keeps data in the session that are read again with every request",
                "store them in the app's database or a cache, and only their key in the session",
            )


def _near_the_size_limit(found: Diagnosis, settings: Settings) -> Iterator[Problem]:
    limit = settings.max_session_size
    if found.sizes is not None and found.sizes.largest >= NEAR_THE_LIMIT * limit:
        largest = found.keys[0].name if found.keys else ""
        yield Problem(
            "near-the-size-limit",
            f"the largest session has {sized(found.sizes.largest)} of the {sized(limit)} that"
            " SAFESESSION_MAX_SESSION_SIZE allows",
            f"see the key that takes the most bytes, {largest!r}",
            "make it smaller before its next write is refused; a larger"
            " SAFESESSION_MAX_SESSION_SIZE only puts that off",
        )


def _nearly_full(found: Diagnosis) -> Iterator[Problem]:
    left = found.growth.full_in if found.growth else None
    soon = left is not None and left < FULL_SOON
    if found.sessions < FULL * found.cap and not soon:
        return
    seen = f"{found.sessions:,} of {found.cap:,} sessions ({found.sessions / found.cap:.0%})"
    if found.growth is not None and left is not None and soon:
        seen += f", {found.growth.per_hour:+,.0f} an hour: the cap is reached in {span(left)}"
    yield Problem(
        "nearly-full",
        seen,
        "more sessions are created than end; at the cap each new one ends another",
        "see the endpoint that creates most of them; if they are real visitors, raise"
        " SAFESESSION_MAX_SESSIONS",
    )


def _not_removed(found: Diagnosis, settings: Settings) -> Iterator[Problem]:
    interval = settings.check_interval
    patience = OVERDUE if interval is None else OVERDUE_INTERVALS * interval / 1000
    if found.due >= FEW and found.overdue_seconds > patience:
        yield Problem(
            "not-removed",
            f"{found.due:,} sessions are past their end and still stored, the oldest for"
            f" {span(found.overdue_seconds)}",
            "SAFESESSION_CHECK_INTERVAL is None, so there is no purge job"
            if interval is None
            else "the purge job does not run: no process of the app is up, or all of them fail",
            "run `flask safesession purge` now, and regularly",
        )


def _is_mostly_unused(origin: Origin, found: Diagnosis) -> bool:
    is_large = origin.sessions >= MANY * found.sessions
    unused = origin.never_used >= UNUSED * origin.settled
    return origin.settled >= FEW and is_large and unused


def _is_growing(key: Key) -> bool:
    lengths = key.lengths
    if lengths is None or key.sessions < COMPARED or lengths.longest < LONG:
        return False
    return lengths.brief > 0 and lengths.long >= LONGER * lengths.brief


def _subject(origin: Origin, place: Callable[[str], str]) -> str:
    return place(origin.endpoint) if origin.endpoint else "an unknown page"


def _number(count: int, found: Diagnosis) -> str:
    return f"{count:,}" if found.is_whole else f"about {count:,}"


def _unused(origin: Origin) -> str:
    return f"{origin.never_used / origin.settled:.0%} of the {origin.settled:,} looked at"


def _shorter_anonymous(settings: Settings) -> str:
    policy = settings.rules.policy
    limits = policy.limits(ANONYMOUS_TIER)
    present = spelled(min(limits.idle, limits.lifetime))
    if ANONYMOUS_TIER in policy.tiers:
        return (
            f"give the tier 'anonymous' a shorter idle_timeout in SAFESESSION_TIERS ({present} now)"
        )
    return (
        f"give anonymous sessions less time than the {present} of all: SAFESESSION_EXPIRY"
        " 'tiered' and a tier 'anonymous' in SAFESESSION_TIERS"
    )
