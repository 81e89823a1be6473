// The dashboard's panels: each draws its part of a snapshot. Nothing is computed here but words.

import { Chart, shareBar, spark } from "./charts.js";
import {
  byId, clock, count, duration, el, instant, micros, plural, say, seconds, share, short, show, svg,
} from "./page.js";

const PARTS = { lookup: "store", features: "features", model: "model" };
const FEW_CLASSES = 4;
const MOST_CODES = 4;
const STATUS_COLORS = { PRESENT: "ok", OVERRIDDEN: "s0", NOT_FOUND: "warn", NULL: "none", EXPIRED: "s2", FUTURE: "s4", UNAVAILABLE: "bad" };
const SKEW_PILLS = { equal: "ok", differs: "bad", partly: "warn", nothing: "" };

const charts = {};

export function drawVerdict({ alerts, firing, model, now_ts: now }) {
  const mine = alerts.filter((alert) => alert.state === "firing");
  const elsewhere = firing.filter((one) => one.model !== model);
  const unknown = alerts.filter((alert) => alert.state === "unknown");
  byId("verdict").className = `verdict card ${mine.length ? "firing" : alerts.length ? "quiet-now" : ""}`;
  say(byId("verdict-title"), mine.length ? plural(mine.length, "alert") : alerts.length ? "No alert" : "No rules");
  let text = "Rules are set in dashboard.alerts.";
  if (mine.length) text = `${mine.length} of ${plural(alerts.length, "rule")} met.`;
  else if (alerts.length) text = `${plural(alerts.length, "rule")}, none is met${unknown.length ? `; ${unknown.length} cannot be judged now` : ""}.`;
  const also = elsewhere.length ? ` Of other models: ${elsewhere.map((one) => `${one.rule} (${one.model})`).join(", ")}.` : "";
  say(byId("verdict-text"), text + also);
  const words = { firing: "firing", unknown: "no data", ok: "ok" };
  const line = (alert) => {
    const since = alert.state === "firing" ? `, for ${duration((now - alert.since_ts) / 1e6)}` : "";
    return el("li", {}, el("span", { class: `state ${alert.state}` }, words[alert.state]),
      el("span", { class: "what" }, el("span", {}, `${alert.name}: `, el("code", {}, alert.rule)),
        el("span", { class: "measured" }, alert.value === null ? "nothing to measure" : `now ${short(alert.value)}${since}`)));
  };
  const rest = alerts.filter((alert) => alert.state !== "firing");
  byId("firing").replaceChildren(...mine.map(line));
  show(byId("firing"), mine.length > 0);
  byId("rest").replaceChildren(...rest.map(line));
  show(byId("rules"), rest.length > 0);
  say(byId("rules-title"), mine.length ? `${plural(rest.length, "other rule")}` : "Show the rules");
}

export function drawTiles({ totals, latency_us: latency, log, now_ts: now }) {
  const newest = log.newest_ts === null ? null : Math.max(0, (now - log.newest_ts) / 1e6);
  const tiles = [
    ["Rows answered", count(totals.rows)],
    ["Rows per second", short(totals.rows_per_second)],
    ["Refused", share(totals.refused, totals.rows), totals.refused > 0 ? `${plural(totals.refused, "row")} refused` : "rows refused"],
    ["Half of the calls within", micros(latency.total?.p50)],
    ["99 % of the calls within", micros(latency.total?.p99)],
    ["Since the last answer", newest === null ? "–" : duration(Math.round(newest))],
  ];
  byId("tiles").replaceChildren(...tiles.map(([name, value, note]) => el("div", {}, el("dt", {}, note ?? name), el("dd", {}, value))));
}

function chart(id) {
  charts[id] ??= new Chart(byId(id));
  return charts[id];
}

/** Return what all charts over time have in common. */
function overTime({ window }) {
  const places = Math.round(window.seconds / window.step_seconds);
  const start = (i) => window.from_ts + i * window.step_seconds * 1e6;
  const every = { 300: 60, 900: 180, 3600: 600, 21600: 3600, 86400: 10800 }[window.seconds] * 1e6;
  const below = [];
  const offset = new Date().getTimezoneOffset() * 60e6;
  for (let at = Math.ceil((window.from_ts - offset) / every) * every + offset; at < window.to_ts; at += every) {
    below.push([(at - window.from_ts) / (window.step_seconds * 1e6), clock(at)]);
  }
  const name = window.step_seconds < 60 ? seconds : clock;
  return { places, below, isPartial: true, place: (i) => `${name(start(i))} to ${name(start(i + 1))}`, placeName: "Time" };
}

export function drawTraffic(data) {
  const { rows, refused } = data.series;
  const per = data.window.step_seconds;
  const highest = Math.max(...rows) / per;
  chart("traffic").draw({
    ...overTime(data),
    label: "Rows per second over time",
    summary: data.totals.rows ? `${plural(data.totals.rows, "row")} in ${plural(data.totals.calls, "call")}, at most ${short(highest)} rows/s` : "No answers in this time",
    series: [
      { name: "scored", color: "s0", values: rows.map((n, i) => (n - refused[i]) / per) },
      { name: "refused", color: "bad", values: refused.map((n) => n / per) },
    ],
    tick: short, value: (value) => `${short(value)} rows/s`,
  });
  const total = data.totals.refused;
  const most = data.errors.slice(0, MOST_CODES);
  const others = data.errors.slice(MOST_CODES).reduce((sum, one) => sum + one.rows, 0);
  const lines = [...most, ...(others ? [{ code: "others", rows: others }] : [])];
  byId("errors").replaceChildren(total
    ? el("table", {}, el("caption", { class: "unseen" }, "Refused rows by reason"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Refused because"), el("th", { scope: "col", class: "n" }, "rows"), el("th", { scope: "col", class: "n" }, "of all"))),
      el("tbody", {}, lines.map(({ code, rows: n }) => el("tr", {}, el("th", { scope: "row" }, code), el("td", { class: "n" }, count(n)), el("td", { class: "n" }, share(n, data.totals.rows))))))
    : el("p", { class: "lead none" }, data.totals.rows ? "No row was refused." : ""));
}

export function drawLatency(data) {
  const { latency_us: latency, series } = data;
  const names = Object.keys(PARTS);
  chart("latency").draw({
    ...overTime(data),
    label: "Mean time of a call over time, by part",
    summary: latency.total ? `Mean ${micros(latency.total.mean)} a call, of rows scored together` : "Nothing was measured in this time",
    series: names.map((part, i) => ({ name: PARTS[part], color: ["s3", "s1", "s0"][i], values: series.latency_us[part] })),
    tick: micros, value: micros,
  });
  const figures = ["mean", "p50", "p90", "p99", "max"];
  const rows = Object.entries({ ...PARTS, total: "together" }).filter(([part]) => latency[part]).map(([part, name]) =>
    el("tr", {}, el("th", { scope: "row" }, name), figures.map((figure) => el("td", { class: figure === "p90" ? "n wide" : "n" }, micros(latency[part][figure])))));
  byId("latency-table").replaceChildren(rows.length
    ? el("table", {}, el("caption", { class: "unseen" }, "Time of a call by part"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Part"), ["mean", "50 %", "90 %", "99 %", "max"].map((name) => el("th", { scope: "col", class: name === "90 %" ? "n wide" : "n" }, name)))),
      el("tbody", {}, rows))
    : "");
}

export function drawScores(data) {
  const { bins, mean, min, max, not_finite: notFinite } = data.scores;
  const total = bins.reduce((sum, bin) => sum + bin.rows, 0);
  const every = Math.max(1, Math.round(bins.length / 5));
  const below = [...bins.map((bin) => bin.from), bins.at(-1)?.to].map((edge, i) => [i, edge === undefined ? "" : short(edge)]).filter(([i]) => i % every === 0);
  chart("scores").draw({
    label: "Distribution of scores", places: Math.max(bins.length, 1), below: bins.length ? below : [], placeName: "Score",
    place: (i) => (bins[i] ? `${short(bins[i].from)} to ${short(bins[i].to)}` : "none"),
    summary: total ? `${plural(total, "score")} from ${short(min)} to ${short(max)}, mean ${short(mean)}${notFinite ? `; ${plural(notFinite, "other")} not finite` : ""}` : "No scores in this time",
    series: [{ name: "rows", color: "s0", values: bins.map((bin) => bin.rows) }],
    tick: short, value: (n) => `${plural(n, "row")}, ${share(n, total)}`,
  });
}

const color = (i) => `s${i % 10}`;

export function drawClasses(data) {
  const { classes, series } = data;
  const names = Object.keys(series.classes);
  const isRegression = data.totals.scored > 0 && !classes.length;
  say(byId("t-classes"), isRegression ? "Mean score" : "Classes");
  const common = overTime(data);
  if (isRegression) {
    byId("mix").replaceChildren();
    chart("classes").draw({ ...common, label: "Mean score over time", isLine: true, summary: `Mean ${short(data.scores.mean)}; this model has no classes`,
      series: [{ name: "mean score", color: "s0", values: series.score_mean }], tick: short, value: short });
    return;
  }
  const total = classes.reduce((sum, one) => sum + one.rows, 0);
  const sums = Array.from({ length: common.places }, (_, i) => names.reduce((sum, name) => sum + series.classes[name][i], 0));
  const percent = (value) => share(Math.round(value * 1e6), 1e6);
  chart("classes").draw({
    ...common, label: "Share of each class over time", top: 1, hasLegend: names.length <= FEW_CLASSES,
    summary: total ? `${plural(total, "row")} with a class${names.length > FEW_CLASSES ? `, of ${names.length}` : `: ${classes.map((one) => `${one.label} ${share(one.rows, total)}`).join(", ")}`}` : "No classes in this time",
    series: names.map((name, i) => ({ name, color: color(i), values: series.classes[name].map((n, at) => (sums[at] ? n / sums[at] : null)) })),
    tick: (value) => `${Math.round(100 * value)} %`, value: percent,
  });
  const highest = Math.max(...classes.map((one) => one.rows), 1);
  byId("mix").replaceChildren(...(names.length > FEW_CLASSES ? [...classes].sort((a, b) => a.label.localeCompare(b.label, "en", { numeric: true })).slice(0, 20).map((one) => el("li", {},
    el("span", { class: "class" }, el("span", { class: `dot fill-${color(names.indexOf(one.label))}` }), one.label),
    svg("svg", { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: `fill-${color(names.indexOf(one.label))}`, width: (100 * one.rows) / highest, height: 10 })),
    el("span", { class: "n" }, `${count(one.rows)} `, el("span", { class: "soft" }, share(one.rows, total))))) : []));
}

export function drawViews({ views, series, now_ts: now }) {
  say(byId("views-lead"), views.length
    ? "How old stored features were as of the request that used them, and what became of each look-up."
    : "No row of this time was looked up: the model has no stored features, or the requests brought them.");
  show(byId("views"), views.length > 0);
  byId("views").replaceChildren(el("table", {}, el("caption", { class: "unseen" }, "Stored features by view"),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "View"), el("th", { scope: "col" }, "Look-ups"),
      ["Median age", "99 %", "Oldest"].map((name) => el("th", { scope: "col", class: "n" }, name)),
      el("th", { scope: "col" }, "Newest value"), el("th", { scope: "col", class: "wide" }, "Median age over time"))),
    el("tbody", {}, views.map((view) => {
      const entries = Object.entries(view.statuses);
      const total = entries.reduce((sum, [, n]) => sum + n, 0);
      const words = entries.map(([status, n]) => `${status} ${share(n, total)}`);
      const ages = series.age_p50_seconds[view.name] ?? [];
      return el("tr", {}, el("th", { scope: "row" }, view.name),
        el("td", { class: "mix" }, shareBar(entries.map(([status, value]) => ({ name: status, value, color: STATUS_COLORS[status] ?? "s7" })), words.join(", ")),
          el("span", { class: "statuses" }, entries.map(([status, n]) => el("span", {}, el("span", { class: `dot fill-${STATUS_COLORS[status] ?? "s7"}` }), `${status} ${count(n)}`)))),
        [["p50", "Median age"], ["p99", "99 %"], ["max", "Oldest"]].map(([figure, name]) => el("td", { class: "n", "data-name": name }, duration(view.age_seconds[figure]))),
        el("td", { "data-name": "Newest value" }, view.newest_event_ts === null ? "–" : [`${duration((now - view.newest_event_ts) / 1e6)} ago `, el("span", { class: "note-inline" }, instant(view.newest_event_ts))]),
        el("td", { class: "wide" }, ages.some((age) => age !== null) ? spark(ages, "s3") : "–"));
    }))));
}

function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.map(([name, ...value]) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value))));
}

export function drawSkew({ skew, now_ts: now, model }) {
  if (!skew) {
    byId("skew").replaceChildren(el("p", { class: "lead" }, "Not compared yet: nothing is proved of these answers. Compare the log with the batch by"),
      el("code", {}, `python -m jobs.reconcile_scores --model ${model}`));
    return;
  }
  const causes = skew.causes.map((one) => `${one.cause}${one.where ? ` (${one.where})` : ""}: ${plural(one.rows, "row")}`).join("; ");
  byId("skew").replaceChildren(
    el("p", { class: "skew-head" }, el("span", { class: `pill ${SKEW_PILLS[skew.state] ?? ""}` }, skew.state), el("strong", {}, skew.headline)),
    el("p", { class: "lead" }, skew.detail),
    facts([
      ["Compared", `${duration((now - skew.created_ts) / 1e6)} ago, `, instant(skew.created_ts), skew.version ? `, with version ${skew.version}` : ""],
      ["Rows", `${count(skew.rows_compared)} compared, ${count(skew.rows_differing)} differ, ${plural(skew.flips, "decision")} flipped`],
      ...(causes ? [["Causes", causes]] : []),
      ...(skew.exceeded.length ? [["Beyond limits", el("span", { class: "is-bad" }, skew.exceeded.map((name) => `skew.${name}`).join(", "))]] : []),
      ["Report", el("code", {}, `${skew.report}/report.html`)],
    ]));
}

/** open: names of what is unfolded; this adds to it. */
export function drawLog({ log, versions, now_ts: now, totals }, open) {
  const lost = log.lost_rows === null ? "cannot be told" : log.lost_rows === 0 ? "none" : el("strong", { class: "is-bad" }, `${plural(log.lost_rows, "row")} answered and in no file`);
  const processes = log.processes.filter((one) => one.rows > 0);
  byId("log").replaceChildren(facts([
    ["Newest answer", log.newest_ts === null ? "–" : instant(log.newest_ts), log.newest_ts === null ? "" : `, ${duration(Math.max(0, (now - log.newest_ts) / 1e6))} ago`],
    ["Lost", lost],
    ["Not yet written", log.queued_rows === null ? "cannot be told" : plural(log.queued_rows, "row")],
    ...(log.unreadable_files ? [["Unreadable", el("strong", { class: "is-bad" }, plural(log.unreadable_files, "file"))]] : []),
    ...(log.ahead_rows ? [["Not counted", `${plural(log.ahead_rows, "row")} of a clock that is ahead`]] : []),
    ["Versions", versions.length ? versions.map((one) => `${one.version || "not known"}: ${share(one.rows, totals.rows)}`).join(", ") : "–"],
    ["Processes", processes.length ? `${count(processes.length)} answered in this time` : "none answered in this time"],
  ]), ...(processes.length ? [el("details", { class: "as-table" }, el("summary", {}, "Show processes"),
    el("div", { class: "scroll" }, el("table", {}, el("caption", { class: "unseen" }, "Processes that answered"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Process"), el("th", { scope: "col", class: "n" }, "Rows"), el("th", { scope: "col" }, "Newest answer"))),
      el("tbody", {}, processes.map((one) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, one.process)), el("td", { class: "n" }, count(one.rows)), el("td", {}, seconds(one.newest_ts))))))))] : []));
  const details = byId("log").querySelector("details");
  if (details) {
    details.open = open.has("processes");
    details.addEventListener("toggle", () => (details.open ? open.add("processes") : open.delete("processes")));
  }
}
