"""A shim: every fact about the package stands in pyproject.toml.

The file is here for tools that look for a setup.py. Metadata written here as well would be a
second source of truth.
"""

from setuptools import setup

setup()
