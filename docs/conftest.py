"""Runs the Python code in the pages of this folder; ``test_documentation.py`` runs the README's."""

import os
import secrets
import shutil
import tempfile
from typing import Any

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from tests.support import environment

environment.forget()

collect_ignore = ["_build"]


def prepare(namespace: dict[str, Any]) -> None:
    """Let ``Flask(__name__)`` in a page find a name, ``os.environ`` a secret key, and a folder."""
    namespace["__name__"] = "page"
    namespace["folder"] = tempfile.mkdtemp()
    os.environ["SECRET_KEY"] = secrets.token_hex()


def clean_up(namespace: dict[str, Any]) -> None:
    """Let apps go, and their jobs with them."""
    shutil.rmtree(namespace["folder"])
    namespace.clear()
    os.environ.pop("SECRET_KEY", None)


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["*.md"],
    setup=prepare,
    teardown=clean_up,
).pytest()
