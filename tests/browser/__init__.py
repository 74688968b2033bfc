"""Tests in Debian's Chromium, driven by Playwright. Run them with ``-m browser``."""
