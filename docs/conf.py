"""The documentation site: `make docs` builds it into build/site.

Pages are the Markdown files of this folder and the notebooks of notebooks/. Commands and notebooks that pages
show are executed while it is built. What the site loads it carries along: it is read without a network.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import gaincell
from gaincell import units

project = "gaincell"
author = "The gaincell developers"
copyright = "The gaincell developers, Apache-2.0"
version = release = gaincell.__version__
html_title = f"gaincell {release}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "commands",
    "docstrings",
    "formats",
    "mathml",
    "shown_run",
    "sources",
]
exclude_patterns = ["_ext", "_static", "results", "data", "**.ipynb_checkpoints"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # backticks and signatures name more than has a page
highlight_language = "text"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_search_summary = False  # it would be fetched, which browsers refuse for files
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5a8f", "color-brand-content": "#0b5a8f"},
    "dark_css_variables": {"color-brand-primary": "#7fc0f0", "color-brand-content": "#7fc0f0"},
}

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4
smartquotes = False

os.environ["OMP_NUM_THREADS"] = "1"  # of commands and notebooks: pages are read side by side, a core each
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm misses a widget that pages cannot have
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # the default knows no tables
nb_execution_in_temp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
autodoc_type_aliases = {name: name for name, kind in vars(units).items() if hasattr(kind, "__metadata__")}
python_maximum_signature_line_length = 96
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # they are in the signature
napoleon_use_ivar = True  # as attributes they would be targets of links, with names that many classes share
napoleon_use_rtype = False
default_role = "py:obj"
