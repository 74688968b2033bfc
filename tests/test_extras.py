"""Parts that need a package of their own, where that is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = """
import sys

part, module = sys.argv[1:]
sys.modules[module] = None
import flask_safesession

try:
    __import__(f"flask_safesession.instrumentation.{part}")
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("part", "module", "package"),
    [
        ("opentelemetry", "opentelemetry", "opentelemetry-api"),
        ("prometheus", "prometheus_client", "prometheus-client"),
    ],
)
def test_it_says_what_to_install(part: str, module: str, package: str) -> None:
    """In a process of its own: here the package is there, and imported."""
    command = [sys.executable, "-c", IMPORT, part, module]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"needs {package}" in done.stdout
    assert done.stdout.rstrip().endswith(f"pip install {package}")


def test_an_app_on_memory_pays_for_no_other_store() -> None:
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # coverage has sqlite3
        "import flask, flask_safesession\n"
        "app = flask.Flask('on memory')\n"
        "flask_safesession.SafeSession(app)\n"
        "ours = {f'flask_safesession.stores.{name}' for name in ('redis.store', 'sql.tables')}\n"
        "print({'redis', 'sqlite3', *ours} & (sys.modules.keys() - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_url_of_memcached_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['pymemcache'] = None\n"
        "import flask, flask_safesession\n"
        "try:\n"
        "    flask_safesession.SafeSession(flask.Flask('x'), store='memcached://localhost')\n"
        "except flask_safesession.ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install pymemcache" in done.stdout
