"""The job that repeats the purge.

It runs in each process that serves requests. The first request starts it, also after a fork, which
threads do not survive.
"""

from __future__ import annotations

import atexit
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
    """Keeps one app's purge job running in this process.

    Keeps no reference to the app: the job is removed when the app is freed.
    """

    def __init__(self, app: Any, overrides: Overrides, neighbours: Neighbours) -> None:
        self._app = weakref.ref(app)
        self._overrides = overrides
        self._neighbours = neighbours
        self._id = f"flask-safesession-{id(self):x}"
        #: Called after each turn of this process with the store, to keep figures of the fleet.
        self.reports: list[Callable[[IndexedStore], object]] = []
        self._scheduler: Any = None
        self._leaving: Any = None
        self._failing = False
        self._refused = False
        self._running = threading.Lock()
        self._seconds = self._interval()
        # When to check that the job still runs, by the monotonic clock.
        self._check_at = 0.0 if self._seconds else float("inf")
        _jobs.add(self)

    def wake(self) -> None:
        """Start the job, or restart it if it has missed its time. Cheap otherwise."""
        if _process != os.getpid() and not _notice_fork():
            return  # another thread handles the fork
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + 2 * self._seconds
            try:
                self._start()
            except BaseException:  # a greenlet's time-out: the next request tries again
                self._check_at = 0.0
                raise

    def adopt(self) -> None:
        """Reschedule the job if the check interval has changed."""
        if self._interval() != self._seconds:
            self._seconds = self._interval()
            if self._scheduler is not None:
                self._check_at = time.monotonic() + 2 * self._seconds
                self._schedule()

    def refresh(self) -> StoreUnavailable | None:
        """Apply the settings that the store keeps for the fleet.

        Returns the error if the store did not answer.
        """
        try:
            self._overrides.refresh()
            self._neighbours.refresh()
        except StoreUnavailable as error:
            return error
        self.adopt()
        return None

    def report(self) -> StoreUnavailable | None:
        """Add what this process has counted to the figures of the fleet.

        Returns the error if the store did not answer.
        """
        index = self._overrides.opened.index
        try:
            for report in self.reports:
                if index is not None:  # else there is no place for figures
                    report(index)
        except StoreUnavailable as error:
            return error
        return None

    def leave(self) -> None:
        """Add what this process has counted since its last turn, when it ends.

        Waits a second for a turn. A process in which no job began reports nothing.
        """
        if self.reports and self._scheduler is not None and self._running.acquire(timeout=1):
            self.report()

    def run(self) -> PurgeReport | None:
        """Run the job once. ``None`` if it is another process's turn, or the store is down."""
        app = self._app()
        if app is None or not self._running.acquire(blocking=False):
            return None
        try:
            return self._turn(app)
        finally:
            self._running.release()
            if self._seconds:
                self._check_at = time.monotonic() + 2 * self._seconds

    def _turn(self, app: Any) -> PurgeReport | None:
        reports, failed = [], self.refresh()
        shards = self._overrides.opened.shards
        settings = self._overrides.settings.for_shards(len(shards))
        # In random order, so that the processes of a fleet begin with different shards.
        for shard in random.sample(shards, len(shards)):  # nosec B311  # not a secret
            try:
                if self._is_our_turn(shard):
                    reports.append(purge(app, shard, settings))
            except StoreUnavailable as error:  # of one shard; others may work
                failed = error
        failed = self.report() or failed
        if failed is not None and not self._failing:  # once, not every minute
            emit(app, StoreFailed("purge", str(failed)))
        if failed is None and self._failing:
            logger.info("the store answers the purge job again")
        self._failing = failed is not None
        return total(reports) if reports else None

    def _is_our_turn(self, shard: IndexedStore) -> bool:
        # A little less than the interval, so that the lease is free at the next run.
        return shard.lease("purge", max(1, int(self._seconds * 900)))

    def _start(self) -> None:
        own, first = self._overrides.settings.scheduler, self._scheduler is None
        if own is None and not _has_threads():
            self._check_at = float("inf")
            _report_no_threads()
            return
        if not first and not self._scheduler.running:
            return  # the app's own scheduler is not started: jobs would only pile up
        # If this is not the first time, the job has missed its turn: the wall clock, by which a
        # scheduler waits, was set back, or the job was removed from the app's own scheduler.
        when = {} if first else {"next_run_time": datetime.now(UTC)}
        try:
            self._scheduler = own or _process_scheduler()
            if self._scheduler is None:
                self._check_at = 0.0  # the next request is early enough
                return
            if first:
                self._leaving = weakref.finalize(self, _remove_job, self._scheduler, self._id)
                self._leaving.atexit = False
            self._schedule(**when)
        except Exception:  # noqa: BLE001  # a scheduler's errors must not fail a request
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
            return 0  # a store without an index removes sessions by itself
        return (self._overrides.settings.check_interval or 0) / 1000

    def _forked(self) -> None:
        """Reset the job in a forked child: the scheduler's thread is missing, locks may be held."""
        self._running = threading.Lock()
        if self._leaving is not None:
            self._leaving.detach()
        self._overrides.forked()
        own = self._overrides.settings.scheduler
        runs_in_parent = own is not None and own.running
        self._check_at = 0.0 if self._seconds and not runs_in_parent else float("inf")
        self._scheduler = None


def _has_threads() -> bool:
    """Whether threads run in this process: uWSGI requires ``--enable-threads``."""
    return bool(getattr(sys.modules.get("uwsgi"), "has_threads", True))


@cache
def _report_no_threads() -> None:
    """Report once per process that there is no job, however many apps there are."""
    logger.error(
        "the purge job cannot run, since uWSGI runs this process without threads: start uWSGI with"
        " --enable-threads, or %s",
        _BY_CRON,
    )


def _run(job: weakref.ref[PurgeJob]) -> None:
    alive = job()
    if alive is not None:
        alive.run()


def _remove_job(scheduler: Any, job_id: str) -> None:
    with suppress(LookupError):  # removed from the app's own scheduler before
        scheduler.remove_job(job_id)


class _DaemonExecutor(BaseExecutor):  # type: ignore[misc]  # APScheduler has no types
    """Runs each job on a daemon thread, so that a purge in progress does not delay the exit."""

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        threading.Thread(
            target=self._work, args=(job, run_times), name="safesession-purge", daemon=True
        ).start()

    def _work(self, job: Any, run_times: list[datetime]) -> None:
        try:
            events = run_job(job, job._jobstore_alias, run_times, self._logger.name)
        except BaseException as error:  # noqa: BLE001  # reported, as in APScheduler's own executors
            self._run_job_error(job.id, error, error.__traceback__)
        else:
            self._run_job_success(job.id, events)


_jobs: weakref.WeakSet[PurgeJob] = weakref.WeakSet()
_lock = threading.Lock()
_scheduler: BackgroundScheduler | None = None


def _process_scheduler() -> BackgroundScheduler | None:
    """Returns this process's scheduler, for all apps without one of their own.

    ``None``: another thread is starting it.
    """
    # Never wait for the lock: greenlets switch while a thread starts, and if gevent patched after
    # this module was imported, a waiting greenlet would block all of them.
    if _lock.acquire(blocking=False):
        try:
            if _scheduler is None:
                _start_scheduler()
        finally:
            _lock.release()
    return _scheduler


def _start_scheduler() -> None:
    global _scheduler  # noqa: PLW0603  # one per process
    executors: dict[str, Callable[..., Any]] = {"default": _DaemonExecutor()}
    made = BackgroundScheduler(daemon=True, timezone=UTC, executors=executors)
    try:
        made.start()
    finally:
        if made.running:  # also after a greenlet's time-out while the thread started
            _scheduler = made


@atexit.register
def _leave() -> None:
    """Let a worker that is replaced, after so many requests or by a deployment, lose no counts."""
    for job in list(_jobs):
        job.leave()


_process = os.getpid()
_noticed: dict[int, object] = {}


def _after_fork() -> None:
    # The parent's thread does not exist here, and its locks may be held.
    global _scheduler, _lock, _process  # noqa: PLW0603  # one per process
    _scheduler, _lock = None, threading.Lock()
    for job in _jobs:
        job._forked()
    _process = os.getpid()


def _notice_fork() -> bool:
    """Handle a fork without hooks (uWSGI's default). Returns whether that is done."""
    mine = object()
    if _noticed.setdefault(os.getpid(), mine) is mine:  # only the first thread
        _after_fork()
    return _process == os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
