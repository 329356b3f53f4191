"""How the documentation is built: `make docs`. Nothing is fetched, by the build or by readers."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Pilotlight"
author = "The Pilotlight contributors"
copyright = "The Pilotlight contributors, Apache-2.0"
release = version = version_of("pilotlight")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pilotlight_reference"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"Pilotlight {release}"
html_copy_source = False
html_show_sphinx = False
