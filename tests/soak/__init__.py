"""The parts of ``python -m tests.soak``."""
