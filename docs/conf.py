"""Sphinx's configuration. ``nox -s docs`` builds, with warnings as errors."""

from importlib.metadata import version as installed_version

project = "Flask-SafeSession"
copyright = "the Flask-SafeSession maintainers"
author = "the Flask-SafeSession maintainers"
release = version = installed_version("Flask-SafeSession")

extensions = ["myst_parser", "pallets_sphinx_themes", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
python_use_unqualified_type_names = True

toc_object_entries = False

html_theme = "flask"
html_theme_options = {"globaltoc_maxdepth": "1"}  # the 404 page cannot be drawn without a number
html_title = f"Flask-SafeSession {release}"
html_short_title = "Flask-SafeSession"
html_static_path = ["_static"]
html_css_files = ["names.css"]
html_show_sourcelink = False
version_banner = False  # it would ask a server which release is the newest
html_sidebars = {"**": ["globaltoc.html", "localtoc.html", "searchbox.html"]}
