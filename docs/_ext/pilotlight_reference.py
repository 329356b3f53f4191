"""Directives whose content is taken from the code when the pages are built.

What a reader of the reference sees can't differ from what the program does:
verbs and their options come from click, settings from the Structs and their
docstrings, parameters, metrics and errors from the objects that serve them.
"""

from __future__ import annotations

from collections.abc import Callable

import command_line
import demo_figures
import engine_options
import errors
import http_parameters
import load_figures
import metrics
import services
import settings
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives with Sphinx."""
    makers: dict[str, Callable[[str], str]] = {
        "pilotlight-commands": command_line.markdown,
        "pilotlight-demo": demo_figures.markdown,
        "pilotlight-engine-options": engine_options.markdown,
        "pilotlight-errors": errors.markdown,
        "pilotlight-http": http_parameters.markdown,
        "pilotlight-load": load_figures.markdown,
        "pilotlight-metrics": metrics.markdown,
        "pilotlight-service": services.markdown,
        "pilotlight-settings": settings.markdown,
    }
    for name, make in makers.items():
        app.add_directive(name, _directive(make))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _directive(make: Callable[[str], str]) -> type[SphinxDirective]:
    class Generated(SphinxDirective):
        """Puts Markdown in the place of the directive; its argument says what of."""

        optional_arguments = 1

        def run(self) -> list[nodes.Node]:
            text = make(self.arguments[0] if self.arguments else "")
            # What the code says may change without the page: never take it from the cache.
            self.env.note_reread()
            return self.parse_text_to_nodes(text, allow_section_headings=True)

    return Generated
