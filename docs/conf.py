"""Sphinx's configuration. ``nox -s docs`` builds, with warnings as errors."""

from importlib.metadata import version as installed_version

project = "Flask-SafeSession"
copyright = "the Flask-SafeSession maintainers"
author = "the Flask-SafeSession maintainers"
release = version = installed_version("Flask-SafeSession")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
python_use_unqualified_type_names = True

toc_object_entries = False

pygments_style, pygments_dark_style = "a11y-high-contrast-light", "github-dark"

html_theme = "furo"
html_title = "Flask-SafeSession"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_theme_options = {
    # the colours of the dashboard
    "light_css_variables": {
        "color-brand-primary": "#1d4f91",
        "color-brand-content": "#1d4f91",
        "color-brand-visited": "#1d4f91",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8ab8f2",
        "color-brand-content": "#8ab8f2",
        "color-brand-visited": "#8ab8f2",
    },
}
