"""Whatever a contributor needs, in one command. ``.ci/run`` runs the same sessions."""

import shutil
import tarfile
import zipfile
from pathlib import Path

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


SMALLEST_APP = """
import secrets
from flask import Flask
from flask_safesession import SafeSession

app = Flask(__name__)
app.secret_key = secrets.token_hex()
app.config.update(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_SAMESITE="Lax")
SafeSession(app, idle_timeout="10m")
"""


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel into ``dist``, and try the wheel in an environment of its own."""
    install(session)
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    [sdist], [wheel] = Path("dist").glob("*.tar.gz"), Path("dist").glob("*.whl")
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    if missing := missing_files(sdist, wheel):
        session.error(f"not in the wheel or the sdist: {', '.join(sorted(missing))}")
    folder = Path(session.create_tmp()).resolve()
    (folder / "smallest.py").write_text(SMALLEST_APP)
    session.run("python", "-m", "venv", "--clear", str(folder / "venv"))
    programs, wheel = folder / "venv" / "bin", wheel.resolve()
    session.env["PYTHONPATH"] = ""
    with session.chdir(folder):  # from here no clone can be imported
        session.run(str(programs / "pip"), "install", "--quiet", str(wheel), external=True)
        check = ["--app", "smallest", "safesession", "check"]
        session.run(str(programs / "flask"), *check, external=True)


def missing_files(sdist: Path, wheel: Path) -> set[str]:
    """Returns files of the package that the wheel lacks, and those that the sdist lacks."""
    with zipfile.ZipFile(wheel) as archive:
        missing = files_in("flask_safesession") - set(archive.namelist())
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    return (
        missing | files_in("flask_safesession", "tests", "docs", "example", "benchmarks") - packed
    )


def files_in(*folders: str) -> set[str]:
    found = {path for folder in folders for path in Path(folder).rglob("*") if path.is_file()}
    return {str(path) for path in found if not {"__pycache__", "_build"} & set(path.parts)}


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Print the table of benchmarks; arguments after ``--`` go to it."""
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs)
