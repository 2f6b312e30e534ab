"use strict";
(() => {
  // The pages are whole without this: it adds keys, a chart, and newer parts of what is under way. It never makes markup
  // of a text: the newer parts are a page of ours, which the browser itself has read into a document.
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const isRun = document.getElementById("rows") !== null; // it has keys of its own

  // ------------------------------------------------------------------------------------------------ what is under way
  // A part that is renewed keeps what its reader has opened, and where they are.
  const renewPart = (part, newer) => {
    const opened = new Map(all("details[id]", part).map((one) => [one.id, one.open]));
    const there = part.contains(document.activeElement) ? document.activeElement : null;
    // Whoever writes or chooses something there is left in peace.
    if (there && there.matches("input, textarea, select")) return;
    const row = there && there.closest("[id]");
    const at = there ? all("a, summary, button", part).indexOf(there) : -1;
    part.replaceChildren(...[...newer.childNodes].map((one) => document.importNode(one, true)));
    for (const name of newer.getAttributeNames()) if (name === "class") part.className = newer.className;
    for (const one of all("details[id]", part)) if (opened.has(one.id)) one.open = opened.get(one.id);
    if (!there) return;
    const same = row && row !== part && document.getElementById(row.id);
    const next = same ? same.querySelector("summary, a, button") : all("a, summary, button", part)[at];
    if (next) next.focus({preventScroll: true});
  };
  const renew = (place) =>
    new Promise((done) => {
      if ("reload" in place.dataset) return location.reload();
      const request = new XMLHttpRequest();
      request.open("GET", location.href);
      request.responseType = "document";
      request.timeout = 30000;
      request.onloadend = () => {
        const found = request.response;
        if (request.status !== 200 || !found) return done(false);
        for (const id of place.dataset.renew.split(" ")) {
          const part = document.getElementById(id);
          const newer = found.getElementById(id);
          if (part && newer) renewPart(part, newer);
        }
        const rows = found.getElementById("rows");
        if (isRun && rows) dispatchEvent(new CustomEvent("renewed", {detail: JSON.parse(rows.textContent)}));
        const goesOn = found.querySelector("[data-live]") !== null;
        document.documentElement.dataset.renewed = Number(document.documentElement.dataset.renewed || 0) + 1;
        done(goesOn);
      };
      request.send();
    });
  const EVERY_MS = 2500;
  const LEAST_MS = 700;
  const AT_LEAST_MS = 15000;
  for (const place of all("[data-live]")) {
    let waiting = 0;
    let under = false;
    let again = false;
    let over = false;
    let source = null;
    // A page that takes long is asked for less often.
    const go = async () => {
      waiting = 0;
      under = true;
      again = false;
      const began = performance.now();
      over = !(await renew(place));
      under = false;
      if (over && source) source.close();
      else if (!over && (again || !source)) soon(Math.max(source ? LEAST_MS : EVERY_MS, 3 * (performance.now() - began)));
    };
    const soon = (ms) => {
      if (over || waiting) return;
      if (under) again = true;
      else waiting = setTimeout(() => (document.hidden ? ((waiting = 0), hidden()) : go()), ms);
    };
    const hidden = () => document.addEventListener("visibilitychange", () => soon(0), {once: true});
    if (place.dataset.events) {
      source = new EventSource(place.dataset.events);
      source.onopen = () => soon(0);
      source.onerror = () => {
        if (source.readyState !== EventSource.CLOSED) return soon(LEAST_MS);
        source = null; // no such stream: then we look from time to time
        soon(EVERY_MS);
      };
      source.onmessage = () => soon(LEAST_MS);
      const KINDS = ["turn", "cell", "output", "query", "read", "refusal", "child", "canary", "missed", "result", "end", "bye"];
      for (const kind of KINDS) source.addEventListener(kind, () => soon(LEAST_MS));
    }
    soon(EVERY_MS);
    setInterval(() => soon(0), AT_LEAST_MS); // also where a stream says nothing
  }

  // ------------------------------------------------------------------------------------------------------------ charts
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const draw = (place) => {
    if (typeof uPlot === "undefined") return;
    const rows = all("tbody tr", document.getElementById(place.dataset.chart));
    const of = (name) => rows.map((row) => Number(row.dataset[name]));
    place.hidden = false;
    place.replaceChildren();
    const axis = {stroke: colour("--dim"), grid: {stroke: colour("--line"), width: 1}, ticks: {stroke: colour("--line")}};
    const dollars = (value) => (value === null ? "–" : `$${value.toPrecision(3)}`);
    const options = {
      width: place.clientWidth,
      height: 180,
      tzDate: (time) => uPlot.tzDate(new Date(time * 1000), "Etc/UTC"),
      series: [
        {value: "{YYYY}-{MM}-{DD}"},
        {label: "cost", stroke: colour("--read"), width: 1.5, fill: `${colour("--read")}22`, value: (_, value) => dollars(value), points: {size: 5}},
        {label: "calls", stroke: colour("--shown"), width: 1.5, scale: "calls", points: {size: 5}},
      ],
      scales: {y: {range: (_, __, most) => [0, most || 1]}, calls: {range: (_, __, most) => [0, most || 1]}},
      axes: [{...axis, values: (_, ticks) => ticks.map((time) => new Date(time * 1000).toISOString().slice(5, 10))}, {...axis, size: 70, values: (_, ticks) => ticks.map(dollars)}, {...axis, scale: "calls", side: 1, grid: {show: false}}],
    };
    const chart = new uPlot(options, [of("time"), of("usd"), of("calls")], place);
    new ResizeObserver(() => chart.setSize({width: place.clientWidth, height: 180})).observe(place);
  };
  for (const place of all("[data-chart]")) draw(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all("[data-chart]").forEach(draw));

  // -------------------------------------------------------------------------------------------------------------- keys
  const help = document.getElementById("help");
  const targets = () => all("[data-row]").map((one) => one.querySelector("a, summary"));
  const move = (step) => {
    const there = targets();
    const at = there.indexOf(document.activeElement);
    const next = there[at < 0 ? (step > 0 ? 0 : there.length - 1) : Math.min(Math.max(at + step, 0), there.length - 1)];
    if (next) next.focus();
  };
  const places = {r: "/runs", t: "/tenants", c: "/contexts", p: "/playground", h: "/health", a: "/audit"};
  const own = {
    j: () => move(1),
    k: () => move(-1),
    "/": () => (document.querySelector("[data-find]") || document.body).focus(),
    "?": () => help.showModal(),
  };
  let isGoing = 0;
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.closest && event.target.closest("input, textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.timeStamp < isGoing && Object.hasOwn(places, event.key)) location.assign(places[event.key]);
    isGoing = event.key === "g" ? event.timeStamp + 1500 : 0;
    if (!isRun && Object.hasOwn(own, event.key)) {
      event.preventDefault();
      own[event.key]();
    }
  });
  if (!isRun) document.documentElement.dataset.ready = "";
})();
