"""Runs the Python code in the pages of this folder; ``test_documentation.py`` runs the README's."""

from typing import Any

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from tests import environment

environment.forget()

collect_ignore = ["_build"]


def name_the_module(namespace: dict[str, Any]) -> None:
    """Let ``Flask(__name__)`` in a page find a name."""
    namespace["__name__"] = "page"


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["*.md"],
    setup=name_the_module,
    teardown=dict.clear,  # apps go, and their jobs with them
).pytest()
