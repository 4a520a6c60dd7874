"""Sphinx: the pages of this folder, and the reference from docstrings. ``make docs`` builds them."""

from recsys_spark import __version__

project = "recsys_spark"
version = release = __version__
html_title = f"recsys_spark {__version__}"
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["wide.css"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
templates_path = ["templates"]
exclude_patterns = ["_build", "templates"]
suppress_warnings = ["misc.highlighting_failure"]
myst_heading_anchors = 3

# Types stand in the docstrings; members are shown where their class or module is.
autodoc_typehints = "none"
autodoc_default_options = {"exclude-members": "model_config"}
autosummary_generate = True
numpydoc_show_class_members = False
default_role = "code"
