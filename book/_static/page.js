// What the pages leave to a script: the download, words for screen readers, two ways to search.

document.addEventListener("DOMContentLoaded", () => {
  for (const link of document.querySelectorAll("a.btn-download-source-button")) link.download = "";
  // "Solution to Exercise 3.4", not "Toggle hidden content".
  for (const button of document.querySelectorAll("button.toggle-button")) {
    button.ariaLabel = button.closest(".admonition-title").textContent.trim();
  }
  // When a slider has moved, the new picture is said in words.
  for (const image of document.querySelectorAll("img.ssmlab-frame")) {
    const said = document.createElement("div");
    said.className = "visually-hidden";
    said.role = "status";
    image.parentElement.after(said);
    new MutationObserver(() => (said.textContent = image.alt)).observe(image, {
      attributeFilter: ["alt"],
    });
  }
  // The theme leaves the list of chapters where it was, also when the page's own name is below.
  const chapters = document.querySelector(".bd-sidebar-primary");
  const here = chapters?.querySelector(".current > a.current");
  const below = here?.getBoundingClientRect().bottom - chapters?.getBoundingClientRect().bottom;
  if (below > 0) chapters.scrollTop += below + chapters.clientHeight / 2;
});

// A formula is a stop of the Tab key only where it is too wide and the keys scroll it.
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  for (const formula of document.querySelectorAll("mjx-container[display]"))
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
});

if (typeof Search !== "undefined") {
  // A word is found in British and in American spelling, whichever the book has.
  const parse = Search._parseQuery;
  const known = (query) => [...parse(query)[1]].every((stem) => stem in Search._index.terms);
  const other = { is: "iz", iz: "is", our: "or", or: "our" };
  const respell = (word) => {
    const ending = /i[sz](?=(e|ed|es|er|ers|ing|ations?)$)|ou?r(?=(s|ed|ing|al)?$)/;
    const respelt = word.toLowerCase().replace(ending, (found) => other[found]);
    return !known(word) && known(respelt) ? respelt : word;
  };
  Search._parseQuery = (query) => parse(query.split(" ").map(respell).join(" "));
  // An exercise is found by its number, which the index has in the title of its solution.
  const perform = Search._performSearch;
  Search._performSearch = (query, ...terms) => {
    const titles = Search._index.alltitles;
    for (const title in titles) {
      const exercise = title.match(/^Solution to (Exercise [\d.]+)(.*)/);
      if (exercise) titles[exercise[1]] = titles[exercise[2]] ?? titles[title];
    }
    const last = (found) => found[1].toLowerCase().endsWith(`> ${query.toLowerCase().trim()}`);
    return perform(query, ...terms).sort((a, b) => last(a) - last(b)); // the last is shown first
  };
}
