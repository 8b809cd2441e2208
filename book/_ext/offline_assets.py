"""Make the built book need no network, and give it our style sheets and script.

MathJax is one file, taken from the installed `sphinx-mathjax-offline`; nothing comes from a CDN.
The buttons that open a chapter elsewhere appear only where `_config.yml` names a repository.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

STATIC = Path(__file__).parents[1] / "_static"


def mathjax_file() -> Path:
    """Find MathJax (SVG output, fonts inside) in the installed package."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ExtensionError(
            "offline_assets: install sphinx-mathjax-offline, which ships MathJax."
        )
    return Path(spec.origin).parent / "static" / "mathjax" / "tex-svg.js"


def theme_options(options: dict[str, Any]) -> dict[str, Any]:
    """Complete the theme's options: one search bar; repository buttons only with a repository."""
    bars: dict[str, Any] = {
        f"navbar_{part}": []
        for part in ("start", "center", "end", "persistent")
    }
    options = bars | options
    if options.get("repository_url"):
        return options | {
            "use_repository_button": True,
            "use_source_button": True,
        }
    return options | {"repository_url": "", "launch_buttons": {}}


def is_wanted(asset: Any) -> bool:
    """Tell whether an asset is local, and neither thebe's nor the state of a live widget."""
    name = str(getattr(asset, "filename", asset) or "")
    kind = getattr(asset, "attributes", {}).get("type", "")
    unwanted = "thebe" in name or "widget-state" in kind
    return not unwanted and not name.startswith(("http:", "https:", "//"))


def configure(app: Sphinx, config: Config) -> None:
    config.mathjax_path = mathjax_file().name
    config.html_static_path += [str(mathjax_file()), str(STATIC)]
    config.html_css_files += sorted(path.name for path in STATIC.glob("*.css"))
    config.html_js_files += [
        (path.name, {"defer": "defer"}) for path in STATIC.glob("*.js")
    ]
    config.html_theme_options = theme_options(config.html_theme_options)


def clean_assets(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any
) -> None:
    for kind in ("script_files", "css_files"):
        context[kind] = [a for a in context.get(kind, []) if is_wanted(a)]


def setup(app: Sphinx) -> dict[str, bool]:
    # Jupyter Book loads thebe whether it is used or not.
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)
    app.connect("config-inited", configure)
    app.connect("html-page-context", clean_assets, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
