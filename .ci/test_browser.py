"""Look at the built book as a reader does: in a browser, from the disk, without a network.

Needs `make book` and Chromium. Each page is opened once, and several pages side by side; every test
below looks at it, on a desktop and at last in a window as narrow as a phone.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools"))
import links  # noqa: E402

HTML = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"
PAGES = sorted(
    str(path.relative_to(HTML))
    for path in HTML.rglob("*.html")
    if "_static" not in path.parts and path != HTML / "index.html"  # which leads to the first page
)
NOTEBOOKS = [page for page in PAGES if (HTML / "_sources" / page).with_suffix(".ipynb").exists()]
CHAPTERS = [page for page in NOTEBOOKS if re.match(r"\d", Path(page).name)]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
FIGURE_TEXT, LEAST_TEXT = 10 / 72 * 110, 8.5  # pixels: as drawn (ssmlab.viz), and on any screen
HEAVIEST_PAGE = 300_000  # bytes, gzipped, apart from what the pages share
LONGEST_CHAPTER, LARGEST_CHAPTER = 90, 2  # seconds, gigabytes

# Lists the elements that reach beyond the screen and stand in nothing that scrolls sideways.
CUT_OFF = """elements => elements.filter(element => {
  if (element.getBoundingClientRect().right <= window.innerWidth + 1) return false;
  for (let e = element; e && e.tagName !== "MAIN"; e = e.parentElement)
    if (/auto|scroll/.test(getComputedStyle(e).overflowX)) return false;
  return element.checkVisibility();
}).map(element => element.outerHTML.slice(0, 100))"""

# The names that a line break cuts in two.
CUT_NAMES = """names => names.filter(
  name => name.getClientRects().length > 1
).map(name => name.textContent)"""

# How far each figure is scaled down from the size at which it was drawn.
SCALES = """images => images.map(image =>
  image.getBoundingClientRect().width / (parseFloat(image.style.width) || image.naturalWidth)
)"""

# What axe finds that is not ours: the rule, and a pattern of the element.
THEME_FINDINGS = {
    "region": r'<img [^>]*class="logo__image',  # the theme's sidebar
    "aria-allowed-role": r'<div [^>]*role="doc-biblioentry"',  # docutils' lists of references
    "aria-deprecated-role": r'<div [^>]*role="doc-biblioentry"',
    "aria-required-children": r'<div role="list" class="citation-list">',
}


@dataclass
class Opened:
    """A page in the browser and what happened while it loaded."""

    name: str
    page: object
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium(), args=FLAGS)


def settle(page) -> None:
    """Wait for the mathematics."""
    page.evaluate("window.MathJax?.startup?.promise")


def load(context, name: str, query: str = "") -> Opened:
    opened = Opened(name, context.new_page())
    page = opened.page
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: opened.complaints.append(message.text) if message.type == "error" else None,
    )
    page.goto((HTML / name).as_uri() + query, wait_until="load")
    settle(page)
    return opened


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    yield context
    context.close()


@pytest.fixture(
    scope="module", params=[pytest.param(p, marks=pytest.mark.xdist_group(p)) for p in PAGES]
)
def opened(context, request):
    opened = load(context, request.param)
    yield opened
    opened.page.close()


def test_links_are_whole():
    assert PAGES
    assert links.broken(HTML) == []


def set_mode(page, mode: str) -> None:
    page.evaluate(
        "mode => Object.assign(document.documentElement.dataset, {mode, theme: mode})", mode
    )


def test_no_request_leaves_the_machine(opened):
    remote = [
        url for url in opened.requests if urlsplit(url).scheme not in ("file", "data", "blob")
    ]
    assert not remote


def test_nothing_complains(opened):
    assert not opened.complaints


def test_mathematics_is_rendered(opened):
    formulas = opened.page.locator(".math").count()
    if opened.name in CHAPTERS:
        assert formulas > 0, "a chapter without a formula"
    assert opened.page.locator(".math:not(:has(mjx-container))").count() == 0, "left as source"
    assert opened.page.locator("[data-mml-node=merror], mjx-merror").count() == 0, "an error node"
    unknown = opened.page.locator("mjx-assistive-mml [mathcolor=red]")
    assert unknown.all_text_contents() == [], "macros that MathJax does not know"
    drawn = opened.page.locator("mjx-container").count()
    assert drawn >= formulas
    assert opened.page.locator("mjx-assistive-mml").count() == drawn, "MathML for screen readers"


def test_formulas_are_no_tab_stops(opened):
    """Only those that are too wide for the page: the keys scroll them."""
    stops = opened.page.locator("mjx-container[tabindex='0'], mjx-container [tabindex='0']")
    assert stops.evaluate_all("all => all.filter(e => e.scrollWidth <= e.clientWidth).length") == 0


def test_page_says_what_it_is(opened):
    title = opened.page.title()
    parts = [part.strip() for part in title.split("\u2014")]
    assert title.strip()
    assert len(set(parts)) == len(parts), "the same words twice"
    assert opened.page.locator("html").get_attribute("lang") == "en"
    if opened.name in NOTEBOOKS:
        text = opened.page.locator("meta[name=description]").get_attribute("content")
        assert 40 <= len(text) <= 200
        assert "$" not in text
        assert "\\" not in text


def test_chinese_is_marked(opened):
    unmarked = opened.page.locator("main").evaluate("""main => {
      const walk = document.createTreeWalker(main, NodeFilter.SHOW_TEXT), found = [];
      for (let node; (node = walk.nextNode()); )
        if (/\\p{Script=Han}/u.test(node.data) && !node.parentElement.closest("[lang=zh], script"))
          found.push(node.data);
      return found;
    }""")
    assert unmarked == []


def test_buttons_say_what_they_open(opened):
    buttons = opened.page.locator(".solution .toggle-button")
    names = buttons.evaluate_all("all => all.map(button => button.ariaLabel)")
    assert all(re.match(r"Solution to Exercise [\d.]+ ", name) for name in names), names
    assert len(set(names)) == len(names)
    assert opened.page.locator("[aria-label='Toggle hidden content']").count() == 0


def test_pictures_are_described_and_loaded(opened):
    pictures = opened.page.locator("main img").evaluate_all(
        "all => all.map(i => [i.getAttribute('src').slice(0, 60), i.alt, i.naturalWidth])"
    )
    assert [src for src, alt, width in pictures if not alt.strip() or not width] == []


def test_sliders_move_by_keyboard(opened):
    page = opened.page
    for explorer in page.locator(".ssmlab-explore").all():
        image = explorer.locator("img")
        for slider in explorer.locator("input[type=range]").all():
            output = page.locator(f"output[for={slider.get_attribute('id')}]")
            before = image.get_attribute("src"), image.get_attribute("alt"), output.inner_text()
            at_the_end = slider.input_value() == slider.get_attribute("max")
            slider.focus()
            page.keyboard.press("ArrowLeft" if at_the_end else "ArrowRight")
            after = image.get_attribute("src"), image.get_attribute("alt"), output.inner_text()
            same = [old for old, new in zip(before, after, strict=True) if old == new]
            assert same == [], "picture, alt text and value all change"
            assert explorer.locator("div[role=status]").inner_text().strip() == after[1].strip()
            assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0


def test_a_finger_that_scrolls_past_a_slider_does_not_move_it(browser):
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto((HTML / "book" / "12_selectivity.html").as_uri())
    slider = page.locator(".ssmlab-explore input").first
    slider.evaluate("slider => slider.scrollIntoView({ block: 'center' })")
    box, before = slider.bounding_box(), (slider.input_value(), page.evaluate("scrollY"))
    touch = partial(context.new_cdp_session(page).send, "Input.dispatchTouchEvent")
    finger = {"x": box["x"] + 0.6 * box["width"], "y": box["y"] + box["height"] / 2}
    touch({"type": "touchStart", "touchPoints": [finger]})
    for step in range(1, 23):
        moved = finger | {"y": finger["y"] - 10 * step}
        touch({"type": "touchMove", "touchPoints": [moved]})
        page.wait_for_timeout(16)
    touch({"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(500)
    assert page.evaluate("scrollY") > before[1]
    assert slider.input_value() == before[0]
    context.close()


def test_list_of_chapters_shows_where_one_is(browser):
    page = browser.new_page(viewport={"width": 1440, "height": 600})
    page.goto((HTML / "book" / "index.html").as_uri())
    page.locator(".bd-sidebar-primary a", has_text="Mamba, the model").click()
    page.wait_for_url("**/16_mamba.html")
    page.wait_for_load_state()
    here = page.locator(".bd-sidebar-primary .current > a.current").bounding_box()
    assert 0 < here["y"] < 600 - here["height"]
    page.close()


def test_every_chapter_has_a_slider():
    assert CHAPTERS
    pages = [page for page in CHAPTERS if "ssmlab-explore" in (HTML / page).read_text("utf8")]
    assert pages == CHAPTERS


def violations(page, **options) -> list[str]:
    """What axe finds and the theme does not explain."""
    options |= {"preload": False, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
        if not re.match(THEME_FINDINGS.get(rule["id"], "$^"), node["html"])
    ]


def test_is_accessible(opened):
    assert violations(opened.page) == []


def test_has_contrast_in_the_dark(opened):
    set_mode(opened.page, "dark")
    found = violations(opened.page, runOnly=["color-contrast"])
    set_mode(opened.page, "light")
    assert found == []


def assert_fits(page, name: str) -> None:
    """Nothing is cut off. Pictures, light and dark, are kept to look at where somebody can."""
    width = page.viewport_size["width"]
    for mode in ("dark", "light") if "CI" not in os.environ else ():
        set_mode(page, mode)
        shot = f"{name.removesuffix('.html').replace('/', '-')}-{width}-{mode}.png"
        page.screenshot(path=SHOTS / shot, full_page=True)
    overflow = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
    cut = page.locator("main *").evaluate_all(CUT_OFF)
    assert cut[:3] == [], "beyond the edge, and nothing there scrolls"
    assert overflow <= 0, "the page scrolls sideways"


def test_fits_a_desktop(opened):
    assert_fits(opened.page, opened.name)


def test_prints_whole(opened):
    """Frames break with their contents, equations stay with their numbers, nothing is folded."""
    page = opened.page
    page.emulate_media(media="print")
    folded = page.locator("main details:not([open]) > :not(summary)").evaluate_all(
        "all => all.filter(element => !element.checkVisibility()).length"
    )
    breaks = "all => [...new Set(all.map(element => getComputedStyle(element).breakInside))]"
    code = page.locator("main :is(.cell_input, div.highlight, pre)").evaluate_all(breaks)
    equations = page.locator("main div.math").evaluate_all(breaks)
    page.emulate_media(media="screen")
    assert folded == 0
    assert code in ([], ["auto"])
    assert equations in ([], ["avoid"])


def own_files(opened: Opened) -> list[Path]:
    """The page and what it alone loads: all but `_static` and the search index."""
    files = {Path(unquote(urlsplit(url).path)) for url in opened.requests if url[:5] == "file:"}
    return [
        f
        for f in files
        if f.exists() and "_static" not in f.parts and f.suffix in (".html", ".png", ".svg")
    ]


def test_page_is_light(opened):
    weight = sum(len(gzip.compress(path.read_bytes(), 6)) for path in own_files(opened))
    print(f"{opened.name}: {weight / 1000:.0f} kB gzipped")
    assert weight <= HEAVIEST_PAGE


def test_downloads_as_a_clean_notebook(opened):
    if opened.name not in NOTEBOOKS:
        return
    target = opened.page.locator("a.btn-download-source-button").get_attribute("href")
    notebook = (HTML / opened.name).parent.joinpath(target).resolve()
    text = notebook.read_text("utf8")
    assert notebook.suffix == ".ipynb"
    assert "image/png" not in text
    cells = json.loads(text)["cells"]
    sources = json.loads((ROOT / opened.name).with_suffix(".ipynb").read_text("utf8"))["cells"]
    assert code_of(cells) == code_of(sources)
    prose = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert not re.search(r"\{[a-z:-]+\}`|^:::|^\([a-z0-9-]+\)=|\0", prose, re.MULTILINE)
    for title in opened.page.locator(
        ".caption-number, .exercise > .admonition-title, .theorem > .admonition-title"
    ).all_inner_texts():
        kind, number = title.split()[:2]
        assert f"{kind} {number.rstrip('.')}" in prose, title
    closed = [c for c in cells if c["metadata"].get("jp-MarkdownHeadingCollapsed")]
    assert len(closed) == opened.page.locator("div.solution").count()


def code_of(cells) -> list[str]:
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def phone(opened):
    """Narrow the window of a page for its last tests."""
    if opened.page.viewport_size != PHONE:
        opened.page.set_viewport_size(PHONE)
    return opened.page


def test_fits_a_phone(phone, opened):
    assert_fits(phone, opened.name)


def test_names_in_tables_are_whole_on_a_phone(phone):
    assert phone.locator("main :is(td, th) code .pre").evaluate_all(CUT_NAMES) == []


def test_text_of_figures_is_legible_on_a_phone(phone):
    scales = phone.locator("main .cell_output img").evaluate_all(SCALES)
    assert all(FIGURE_TEXT * scale >= LEAST_TEXT for scale in scales), scales


def test_first_page_offers_the_chapters_with_their_measurements():
    first = (HTML / "book" / "index.html").read_text("utf8")
    link = re.search(r'href="([^"]*ssmlab-chapters.zip)"', first)
    with ZipFile(HTML / "book" / link[1]) as packed:
        names = {name.partition("/")[2] for name in packed.namelist()}
    assert {Path(name).with_suffix(".ipynb").name for name in NOTEBOOKS} <= names
    for path in (ROOT / "book" / "experiments").rglob("*.json"):
        assert str(path.relative_to(ROOT / "book")) in names
    wheel = next(name for name in names if name.endswith(".whl"))
    assert f"'./{wheel}[book,torch]'" in first.replace("&#39;", "'")


def test_button_downloads_from_a_server(browser):
    """From a disk Chromium shows the file, whatever the link says."""
    handler = partial(SimpleHTTPRequestHandler, directory=HTML)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/book/conventions.html")
        with page.expect_download(timeout=10_000) as download:
            page.locator("a.btn-download-source-button").evaluate("link => link.click()")
        assert download.value.suggested_filename == "conventions.ipynb"
        page.close()
        server.shutdown()


def test_search_finds_a_word_and_leads_to_it(browser):
    page = browser.new_page()
    page.goto((HTML / "search.html").as_uri() + "?q=state")
    page.wait_for_selector("#search-results li a")
    links = page.locator("#search-results li a")
    assert links.count() > 0
    links.first.click()
    page.wait_for_load_state()
    assert "state" in page.locator("main").inner_text().lower()
    page.close()


def first_found(browser, query: str) -> str:
    page = browser.new_page()
    page.goto((HTML / "search.html").as_uri() + "?q=" + query)
    page.wait_for_selector("#search-results li a", timeout=5000)
    address = page.locator("#search-results li a").first.get_attribute("href")
    page.close()
    return address


@pytest.mark.parametrize("word", ["discretisation", "discretise", "initialization", "behavior"])
def test_search_knows_both_spellings(browser, word):
    assert first_found(browser, word)


def test_search_finds_an_exercise_by_its_number(browser):
    assert "03_discretization.html#ex-" in first_found(browser, "Exercise 3.4")


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_first_visit_follows_the_system(browser, mode):
    page = browser.new_page(color_scheme=mode)
    page.goto((HTML / "book" / "index.html").as_uri())
    assert page.locator("html").get_attribute("data-theme") == mode
    page.close()


def test_first_page_opens_the_book(browser):
    root = (HTML / "index.html").read_text("utf8")
    for part in ('<html lang="en">', "<title>", '<meta name="description"', "<a href="):
        assert part in root
    page = browser.new_page()
    page.goto((HTML / "index.html").as_uri())
    page.wait_for_url("**/book/index.html")
    page.close()


def test_no_button_leads_nowhere():
    config = (ROOT / "_config.yml").read_text("utf8")
    if not re.search(r'^  url: ""', config, re.MULTILINE):
        pytest.skip("the book has a repository")
    for name in PAGES:
        text = (HTML / name).read_text("utf8")
        assert not re.search(r"colab\.research|mybinder|executablebooks/jupyter-book", text), name


@pytest.mark.skipif("CI" not in os.environ, reason="costs are judged on the machine of the CI")
def test_chapters_are_cheap():
    costs = json.loads((ROOT / "_build" / "chapter_costs.json").read_text("utf8"))
    assert costs
    for name, cost in costs.items():
        assert cost["seconds"] <= LONGEST_CHAPTER, name
        assert cost["gigabytes"] <= LARGEST_CHAPTER, name
