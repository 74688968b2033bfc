"""The job that repeats the purge.

It belongs to the process that serves requests: the first request starts it, also after a fork,
since threads do not survive one.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from ..config.overrides import Overrides
from ..errors import StoreUnavailable
from ..events import StoreFailed, emit, logger
from ..stores.base import IndexedStore
from .neighbours import Neighbours
from .purge import PurgeReport, purge, total

_BY_CRON = (
    "set SAFESESSION_CHECK_INTERVAL to None and run `flask safesession purge` from cron; until then"
    " nothing removes idle sessions in time"
)
_NO_JOB_HERE = f"the purge job cannot run in this process; if that stays so, {_BY_CRON}"
_NO_JOB_THERE = (
    "the purge job cannot be added to SAFESESSION_SCHEDULER; give a scheduler whose default job"
    " store is in memory, or None for the process's own"
)


class PurgeJob:
    """Sees to it that one app's purge job runs in this process.

    It does not hold the app: the job goes when the app does.
    """

    def __init__(self, app: Any, overrides: Overrides, neighbours: Neighbours) -> None:
        self._app = weakref.ref(app)
        self._overrides = overrides
        self._neighbours = neighbours
        self._id = f"flask-safesession-{id(self):x}"
        self._scheduler: Any = None
        self._leaving: Any = None
        self._failing = False
        self._refused = False
        self._running = threading.Lock()
        self._seconds = self._interval()
        # By the monotonic clock: when to look whether the job still comes round.
        self._look_at = 0.0 if self._seconds else float("inf")
        _jobs.add(self)

    def wake(self) -> None:
        """Start the job, or start it anew if it has missed its time. Cheap otherwise."""
        if _process != os.getpid() and not _notice_fork():
            return  # another thread is at it
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + 2 * self._seconds
            try:
                self._start()
            except BaseException:  # a greenlet's time is up: the next request does it
                self._look_at = 0.0
                raise

    def adopt(self) -> None:
        """Let the job come round as often as the settings say now."""
        if self._interval() != self._seconds:
            self._seconds = self._interval()
            if self._scheduler is not None:
                self._look_at = time.monotonic() + 2 * self._seconds
                self._schedule()

    def refresh(self) -> StoreUnavailable | None:
        """Go by the settings that the store keeps for all; what it said if it did not answer."""
        try:
            self._overrides.refresh()
            self._neighbours.refresh()
        except StoreUnavailable as error:
            return error
        self.adopt()
        return None

    def run(self) -> PurgeReport | None:
        """One run of the job: ``None`` if it is another process's turn, or the store is down."""
        app = self._app()
        if app is None or not self._running.acquire(blocking=False):
            return None
        try:
            return self._turn(app)
        finally:
            self._running.release()
            if self._seconds:
                self._look_at = time.monotonic() + 2 * self._seconds

    def _turn(self, app: Any) -> PurgeReport | None:
        reports, failed = [], self.refresh()
        shards = self._overrides.opened.shards
        settings = self._overrides.settings.for_shards(len(shards))
        # In any order: processes of a fleet begin at different ones.
        for shard in random.sample(shards, len(shards)):  # nosec B311  # no secret, an order
            try:
                if self._is_our_turn(shard):
                    reports.append(purge(app, shard, settings))
            except StoreUnavailable as error:  # of one shard; others may be well
                failed = error
        if failed is not None and not self._failing:  # once, not every minute
            emit(app, StoreFailed("purge", str(failed)))
        if failed is None and self._failing:
            logger.info("the store answers the purge job again")
        self._failing = failed is not None
        return total(reports) if reports else None

    def _is_our_turn(self, shard: IndexedStore) -> bool:
        # A little less than the interval, so that the next run finds it free.
        return shard.lease("purge", max(1, int(self._seconds * 900)))

    def _start(self) -> None:
        own, first = self._overrides.settings.scheduler, self._scheduler is None
        if own is None and not _has_threads():
            self._look_at = float("inf")
            _report_no_threads()
            return
        if not first and not self._scheduler.running:
            return  # the app's own, not started: what is added there would only pile up
        # Not the first time: the job missed its turn. A scheduler waits by the wall clock, and if
        # that was set back its wait may be hours; or the job was removed from the app's own.
        when = {} if first else {"next_run_time": datetime.now(UTC)}
        try:
            self._scheduler = own or _process_scheduler()
            if self._scheduler is None:
                self._look_at = 0.0  # the next request is early enough
                return
            if first:
                self._leaving = weakref.finalize(self, _remove_job, self._scheduler, self._id)
                self._leaving.atexit = False
            self._schedule(**when)
        except Exception:  # noqa: BLE001  # no visitor's business what a scheduler may raise
            if not self._refused:
                self._refused = True
                logger.exception("%s", _NO_JOB_HERE if own is None else _NO_JOB_THERE)

    def _schedule(self, **when: Any) -> None:
        self._scheduler.add_job(
            _run,
            IntervalTrigger(seconds=self._seconds, timezone=UTC),
            args=[weakref.ref(self)],
            id=self._id,
            name="Flask-SafeSession purge",
            coalesce=True,
            misfire_grace_time=None,
            max_instances=1,
            replace_existing=True,
            **when,
        )

    def _interval(self) -> float:
        """Returns the seconds between two runs; 0: there is no job."""
        if self._overrides.opened.index is None:
            return 0  # such a store removes sessions by itself
        return (self._overrides.settings.check_interval or 0) / 1000

    def _forked(self) -> None:
        """In a child: the parent's scheduler has no thread here, and its locks may be held."""
        self._running = threading.Lock()
        if self._leaving is not None:
            self._leaving.detach()
        self._overrides.forked()
        own = self._overrides.settings.scheduler
        goes_on = own is not None and own.running  # in the parent
        self._look_at = 0.0 if self._seconds and not goes_on else float("inf")
        self._scheduler = None


def _has_threads() -> bool:
    """Whether threads run in this process; uWSGI has to be asked for them."""
    return bool(getattr(sys.modules.get("uwsgi"), "has_threads", True))


@cache
def _report_no_threads() -> None:
    """Say once in a process that there is no job, whatever the number of apps."""
    logger.error(
        "the purge job cannot run, since uWSGI runs this process without threads: start it with"
        " --enable-threads, or %s",
        _BY_CRON,
    )


def _run(job: weakref.ref[PurgeJob]) -> None:
    alive = job()
    if alive is not None:
        alive.run()


def _remove_job(scheduler: Any, job_id: str) -> None:
    with suppress(LookupError):  # the scheduler was the app's own, and has been cleared
        scheduler.remove_job(job_id)


class _DaemonExecutor(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """Runs each job on a daemon thread: a purge in progress does not hold up the exit."""

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        threading.Thread(
            target=self._work, args=(job, run_times), name="safesession-purge", daemon=True
        ).start()

    def _work(self, job: Any, run_times: list[datetime]) -> None:
        try:
            events = run_job(job, job._jobstore_alias, run_times, self._logger.name)
        except BaseException as error:  # noqa: BLE001  # handed on, as its own executors do
            self._run_job_error(job.id, error, error.__traceback__)
        else:
            self._run_job_success(job.id, events)


_jobs: weakref.WeakSet[PurgeJob] = weakref.WeakSet()
_lock = threading.Lock()
_scheduler: BackgroundScheduler | None = None


def _process_scheduler() -> BackgroundScheduler | None:
    """The one scheduler of this process, for all apps that have none of their own.

    ``None``: another thread is about to start it.
    """
    # Nobody waits for the lock: greenlets take turns while a thread starts, and where gevent came
    # after this module, one that waited would stop all of them.
    if _lock.acquire(blocking=False):
        try:
            if _scheduler is None:
                _start_scheduler()
        finally:
            _lock.release()
    return _scheduler


def _start_scheduler() -> None:
    global _scheduler  # noqa: PLW0603  # one a process is the point
    executors: dict[str, Callable[..., Any]] = {"default": _DaemonExecutor()}
    made = BackgroundScheduler(daemon=True, timezone=UTC, executors=executors)
    try:
        made.start()
    finally:
        if made.running:  # also if a greenlet's time was up while the thread started
            _scheduler = made


_process = os.getpid()
_noticed: dict[int, object] = {}


def _after_fork() -> None:
    # The parent's thread is not here, its locks may be.
    global _scheduler, _lock, _process  # noqa: PLW0603  # one a process is the point
    _scheduler, _lock = None, threading.Lock()
    for job in _jobs:
        job._forked()
    _process = os.getpid()


def _notice_fork() -> bool:
    """Where no hooks ran at the fork: uWSGI runs none unless it is told to. Whether it is done."""
    mine = object()
    if _noticed.setdefault(os.getpid(), mine) is mine:  # one thread does it
        _after_fork()
    return _process == os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
