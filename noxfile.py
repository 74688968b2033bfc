"""Whatever a contributor needs, in one command. ``.ci/run`` runs the same sessions."""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types", "docs"]


def install(session: nox.Session) -> None:
    """Install the clone with its ``dev`` extra: all that any session needs."""
    session.install("-e", ".[dev]")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the test suite; arguments after ``--`` go to pytest."""
    install(session)
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Look for faults in style and safety."""
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("bandit", "--quiet", "--configfile", "pyproject.toml", "-r", "flask_safesession")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of everything, and that the public ones are complete."""
    install(session)
    session.run("mypy")
    session.env["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"  # else it looks for a newer self
    session.run("pyright", "--verifytypes", "flask_safesession", "--ignoreexternal")
    session.run("pytest", "-q", "-m", "types")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session)
    session.run("sphinx-build", "-W", "--keep-going", "-E", "docs", "docs/_build/html")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Print the table of benchmarks; arguments after ``--`` go to it."""
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs)
