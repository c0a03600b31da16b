"""Sphinx configuration."""

import sys
from pathlib import Path

import sift_graph

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sift-graph"
author = "The sift-graph developers"
copyright = "the sift-graph developers"
version = release = sift_graph.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "catalogue",
    "mathml",
    "studies",
    "tutorials",
]
exclude_patterns = ["_build", "_ext", "_templates"]
templates_path = ["_templates"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
myst_enable_extensions = ["dollarmath", "deflist"]
nb_execution_mode = "off"  # the extension "tutorials" runs them, in their own directory
autosummary_generate = True
autosummary_imported_members = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "sift-graph"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
html_show_sourcelink = False
