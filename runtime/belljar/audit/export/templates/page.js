"use strict";
(() => {
  // The page is whole without this: it adds search, keys, the strips' readout, and what is listed on demand. It never
  // makes markup of a text. Where a service puts newer parts into the page, it sends `renewed`.
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const help = document.getElementById("help");

  const make = (tag, kind, text) => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text) made.textContent = text;
    return made;
  };

  // What is listed on demand, a page at a time.
  const AT_ONCE = 500;
  const list = (place, waiting) => {
    let next = 0;
    const button = make("button");
    const told = place.querySelector("p");
    const tell = () => {
      const left = waiting.length - next;
      button.hidden = left === 0;
      button.textContent = `List ${Math.min(AT_ONCE, left)} of ${left} more queries`;
      told.textContent = left ? "Their texts are not on this page." : "";
    };
    button.addEventListener("click", () => {
      for (const [name, model, status, tone, tokens, at, took, cost, why] of waiting.slice(next, next + AT_ONCE)) {
        const row = make("div", "row");
        row.append(make("span", "name", name), make("span", "what", why ? `${model}: ${why}` : model));
        row.append(make("span", "tok", tokens), make("span", "num", at), make("span", "num", took));
        row.append(make("span", "num", cost), make("span", `st ${tone}`, status));
        place.insertBefore(row, told);
      }
      next += AT_ONCE;
      next = Math.min(next, waiting.length);
      tell();
    });
    tell();
    place.append(button);
  };

  // The strips: who, and when, below the strip.
  const readOut = (strip) => {
    const told = strip.querySelector(".readout");
    const parts = all(".hit", strip);
    told.textContent = parts.length ? "Point at the strip to see who read what, and when." : "";
    strip.querySelector("svg").addEventListener("pointermove", (event) => {
      const title = event.target.classList.contains("hit") && event.target.querySelector("title");
      if (title) told.textContent = title.textContent;
    });
    strip.querySelector("svg").addEventListener("click", (event) => {
      const title = event.target.classList.contains("hit") && event.target.querySelector("title");
      if (title) told.textContent = title.textContent;
    });
  };

  // A link into something that is closed opens it.
  const reveal = (element) => {
    for (let at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  const follow = () => {
    const there = location.hash && document.getElementById(location.hash.slice(1));
    if (there) {
      reveal(there);
      there.scrollIntoView();
    }
  };
  addEventListener("hashchange", follow);
  follow();

  // Search: what is shown in each cell, marked without changing it.
  const FOUND_MAX = 2000;
  let places = [];
  let place = -1;
  let texts = null;
  const attach = (rows) => {
    for (const one of all(".find, .keys, .readout")) one.hidden = false;
    for (const place of all("[data-more]")) list(place, rows[place.dataset.more]);
    for (const strip of all(".strip")) readOut(strip);
    texts = null;
  };
  addEventListener("renewed", (event) => attach(event.detail));
  const marks = "highlights" in CSS ? new Highlight() : null;
  if (marks) CSS.highlights.set("found", marks);
  const index = () => {
    const walker = document.createTreeWalker(document.getElementById("main"), NodeFilter.SHOW_TEXT);
    texts = [];
    while (walker.nextNode()) texts.push([walker.currentNode, walker.currentNode.data.toLowerCase()]);
  };
  const look = () => {
    const wanted = find.value.toLowerCase();
    places = [];
    place = -1;
    if (marks) marks.clear();
    if (wanted.length < 2) {
      found.textContent = "";
      return;
    }
    if (!texts) index();
    for (const [node, text] of texts) {
      for (let at = text.indexOf(wanted); at >= 0 && places.length < FOUND_MAX; at = text.indexOf(wanted, at + wanted.length)) {
        if (at + wanted.length > node.data.length) break;
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, at + wanted.length);
        places.push(range);
        if (marks) marks.add(range);
      }
    }
    const more = places.length === FOUND_MAX ? "at least " : "";
    found.textContent = places.length === 1 ? "1 place" : `${more}${places.length} places`;
  };
  const go = (step) => {
    if (!places.length) return;
    place = (place + step + places.length) % places.length;
    const element = places[place].startContainer.parentElement;
    reveal(element);
    element.scrollIntoView({block: "center"});
    found.textContent = `${place + 1} of ${places.length}`;
  };
  let waiting = 0;
  find.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(look, 120);
  });
  find.form.addEventListener("submit", (event) => event.preventDefault());
  find.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(waiting);
      if (place < 0) look();
      go(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape") {
      find.value = "";
      look();
      find.blur();
    }
  });

  // Keys.
  const shown = () => all("details.item > summary").filter((one) => one.checkVisibility({contentVisibilityAuto: false}));
  const move = (step) => {
    const there = shown();
    const at = there.indexOf(document.activeElement.closest && document.activeElement.closest("summary"));
    const next = there[at < 0 ? (step > 0 ? 0 : there.length - 1) : Math.min(Math.max(at + step, 0), there.length - 1)];
    if (next) {
      next.focus({preventScroll: true});
      next.scrollIntoView({block: "nearest"});
    }
  };
  const keys = {
    j: () => move(1),
    k: () => move(-1),
    o: () => document.activeElement.tagName === "SUMMARY" && document.activeElement.click(),
    e: () => {
      const cells = all("details.cell");
      const open = !cells.every((one) => one.open);
      for (const one of cells) one.open = open;
    },
    "/": () => find.focus(),
    "?": () => help.showModal(),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.closest && event.target.closest("input, textarea, select")) return;
    if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  attach(JSON.parse(document.getElementById("rows").textContent));
  document.documentElement.dataset.ready = "";
})();
