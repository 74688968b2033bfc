"""gunicorn --config example/deploy/gunicorn.conf.py, from the root of a clone."""

import os
import tempfile
from typing import Any

wsgi_app = "example.deploy.wsgi:app"
bind = os.environ.get("BIND", "127.0.0.1:8000")

# Processes use the cores. Threads let others be served while one waits for the store.
workers = int(os.environ.get("WEB_CONCURRENCY", "3"))
threads = 4

# Longer than SAFESESSION_STORE_TIMEOUT and the slowest view: a worker that exceeds it is killed.
timeout = 30
# SIGTERM lets requests finish, and with them the changes of their sessions.
graceful_timeout = 30

# From 25.1 on gunicorn makes a socket for its commands in the home directory, which a service may
# not have. Older versions skip this line.
control_socket_disable = True

# The workers count into files here, and whichever is asked for /metrics adds them up. The folder
# has to be set before the application is imported, and to be empty when gunicorn starts.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="metrics-")


def child_exit(server: Any, worker: Any) -> None:  # noqa: ARG001  # as gunicorn calls it
    """Forget the live figures of a worker that has ended."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
