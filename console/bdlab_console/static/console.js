// What the pages need beside htmx. All can be read without it.
"use strict";

// Streams: one that is opened again goes on behind the last event that came; a page that nobody sees has none, as a
// browser opens only six to a host.
const lastEvents = {}, streams = new Set(), broken = new Set();
let brokenSince, asleep, falling;

htmx.createEventSource = (address) => {
  const url = new URL(address, location.href), page = url.pathname;
  if (lastEvents[page]) url.searchParams.set("after", lastEvents[page]);
  const stream = new EventSource(url);
  stream.page = page;
  stream.addEventListener("refused", () => location.assign("/sign-in?then=" + encodeURIComponent(location.pathname)));
  for (const old of streams) if (old.readyState === EventSource.CLOSED) streams.delete(old);
  streams.add(stream);
  return stream;
};
document.addEventListener("htmx:sseBeforeMessage", ({detail}) => { lastEvents[detail.target.page] = detail.lastEventId; });
document.addEventListener("htmx:sseError", ({detail}) => {
  broken.add(detail.source.page);
  brokenSince ||= new Date();
  setTimeout(tell, 1500); // of one that is open again by then nobody needs to know
});
document.addEventListener("htmx:sseOpen", ({detail}) => { broken.delete(detail.source.page); tell(); });
document.addEventListener("visibilitychange", () => {
  clearTimeout(falling);
  if (document.hidden) {
    falling = setTimeout(() => { asleep = true; streams.forEach((stream) => stream.close()); }, 30000);
  } else if (asleep) {
    asleep = false;
    streams.forEach((stream) => stream.onerror(new Event("error"))); // htmx opens a new one
  }
});

function tell() {
  const place = document.getElementById("broken");
  if (!broken.size) brokenSince = undefined;
  place.hidden = !broken.size;
  place.textContent = broken.size ? `The console sends nothing since ${brokenSince.toISOString().slice(11, 19)} UTC: what `
    + "is shown is of then. This page asks again by itself." : "";
}

// Rows that come: no more than data-cap of them, and none while the reader has paused.
let paused = false, held = [];

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (!paused || event.target.id !== "rows") return;
  event.preventDefault();
  held.push(event.detail.data);
  label();
});
document.addEventListener("htmx:sseMessage", ({target}) => { if (target.id === "rows") cut(target); });
document.addEventListener("click", ({target}) => {
  if (!target.closest("[data-pause]")) return;
  const rows = document.getElementById("rows");
  paused = !paused;
  for (const html of held.splice(0)) rows.prepend(made(html));
  cut(rows);
  label();
});

function made(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

function cut(rows) {
  while (rows.childElementCount > rows.closest("[data-cap]").dataset.cap) rows.lastElementChild.remove();
}

function label() {
  const button = document.querySelector("[data-pause]");
  const count = held.reduce((sum, html) => sum + [...made(html).children].reduce((n, row) => n + +row.dataset.rows, 0), 0);
  button.textContent = paused ? `Resume (${count} new)` : "Pause";
  button.setAttribute("aria-pressed", paused);
}

// Charts: data-chart='{"x": [seconds since 1970], "series": [{"label", "unit", "values"}]}'; an axis for each unit.
const charts = new Map(), resized = new ResizeObserver((entries) => {
  for (const {target} of entries) charts.get(target)?.setSize({width: target.clientWidth, height: 220});
});

function draw(place) {
  charts.get(place)?.destroy();
  const {x, series} = JSON.parse(place.dataset.chart), style = getComputedStyle(place);
  const colour = (name) => style.getPropertyValue(name).trim(), stroke = colour("--axis");
  const units = [...new Set(series.map(({unit}) => unit))], lines = {stroke: colour("--rule"), width: 1};
  const range = (chart, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.08 : 1];
  charts.set(place, new uPlot({
    width: place.clientWidth, height: 220, tzDate: (at) => uPlot.tzDate(new Date(at * 1e3), "UTC"),
    scales: Object.fromEntries(units.map((unit) => [unit, {range}])),
    axes: [{stroke, grid: lines, ticks: lines, values: (chart, at) => at.map((each) => {
      const from = at.at(-1) - at[0] > 172800 ? 5 : 11; // dates, or times
      return new Date(each * 1e3).toISOString().slice(from, from === 5 ? 10 : 19);
    })}, ...units.map((unit, n) => (
      {scale: unit, label: unit, side: n ? 1 : 3, stroke, grid: {...lines, show: !n}, ticks: lines, size: 56}))],
    series: [{label: "UTC", value: (chart, at) => at == null ? "–" : new Date(at * 1e3).toISOString().slice(0, 19).replace("T", " ")}, ...series.map(({label, unit}, n) => (
      {label: `${label}, ${unit}`, scale: unit, stroke: colour(`--c${n % 6 + 1}`), width: 2, dash: n ? [9 - 2 * n, 3] : [],
        value: (chart, value) => value == null ? "–" : +value.toPrecision(3)}))],
  }, [x, ...series.map(({values}) => values)], place));
  resized.observe(place);
}

htmx.onLoad((root) => {
  for (const place of charts.keys()) if (!place.isConnected) { charts.get(place).destroy(); charts.delete(place); }
  if (window.uPlot) for (const place of root.parentElement.querySelectorAll("[data-chart]")) if (!charts.has(place)) draw(place);
  for (const button of document.querySelectorAll("[data-pause]")) button.hidden = false;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...charts.keys()].forEach(draw));

// A piece that is renewed keeps what was scrolled and opened in it.
let places = {};
const placed = () => [...document.querySelectorAll("main .scroll, main details")].map(
  (at) => [at.getAttribute("aria-label") || at.firstElementChild.textContent, at]);
document.addEventListener("htmx:beforeSwap", () => {
  places = Object.fromEntries(placed().map(([name, {scrollLeft, scrollTop, open}]) => [name, {scrollLeft, scrollTop, open}]));
});
document.addEventListener("htmx:afterSwap", () => placed().forEach(([name, at]) => Object.assign(at, places[name])));
