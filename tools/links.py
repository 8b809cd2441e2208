"""Find what leads nowhere in a folder of built pages: `python tools/links.py _build/html`.

Each page is read once. A link, picture, script or style sheet must be a file of the folder, and the
part after `#` the id or name of an element of its page. Links to other hosts are not followed.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: The attributes that hold an address, or several.
ADDRESSES = ("href", "src", "data", "poster", "action", "srcset")
IN_STYLE = re.compile(r"url\(\s*['\"]?([^'\")]+)")


class Page(HTMLParser):
    """The addresses that a page names, and the places in it that others can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names and how it can be named."""
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.places.add(value)
            elif name == "srcset":
                self.links += [part.split()[0] for part in value.split(",") if part.strip()]
            elif name in ADDRESSES:
                self.links.append(value)
            elif name == "style":
                self.links += IN_STYLE.findall(value)


def broken(folder: Path) -> list[str]:
    """Name each link of the folder's pages and style sheets that leads nowhere."""
    folder = folder.resolve()
    pages = {
        path: Page(path.read_text("utf8"))
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.parts  # there are the theme's templates
    }
    styles = {
        path: IN_STYLE.findall(path.read_text("utf8")) for path in sorted(folder.rglob("*.css"))
    }
    links = {path: page.links for path, page in pages.items()} | styles
    found = []
    for path, addresses in links.items():
        for address in dict.fromkeys(addresses):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or not target.is_relative_to(folder):
                found.append(f"{path.relative_to(folder)}: {address}: no such file")
            elif place and target in pages and place not in pages[target].places:
                found.append(f"{path.relative_to(folder)}: {address}: no such place in the page")
    return found


def main() -> int:
    """Print what is broken."""
    found = broken(Path(sys.argv[1]))
    print("\n".join(found) or "every link leads somewhere")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
