"""The application for a server in production: with metrics, and aware of the proxies before it."""

from __future__ import annotations

import os

from werkzeug.middleware.proxy_fix import ProxyFix

from flask_safesession.instrumentation.prometheus import instrument

from .. import create_app
from ..sessions import safe

app = create_app()
app.add_url_rule("/metrics", "metrics", instrument(safe).page)  # nginx.conf keeps it from visitors

# How many proxies add the visitor's address to X-Forwarded-For. With a number too high, visitors
# can forge their address; without ProxyFix, all have that of the last proxy.
if proxies := int(os.environ.get("PROXIES", "0")):
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=1)  # type: ignore[method-assign]
