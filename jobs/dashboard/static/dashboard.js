// The dashboard: follows the server's snapshots and draws them. Every figure comes from the server; nothing is computed here but words.

import { Chart, shareBar, spark } from "./charts.js";
import {
  byId, clock, count, duration, el, headers, instant, keepKey, micros, moment, plural, readKey, say, seconds, share, short, show, svg,
} from "./page.js";
import { follow } from "./stream.js";

const WINDOW_NAMES = { 300: "5 min", 900: "15 min", 3600: "1 hour", 21600: "6 hours", 86400: "1 day" };
const PARTS = { lookup: "store", features: "features", model: "model" };
const FEW_CLASSES = 4;
const FEW_ANSWERS = 12;
const MOST_CODES = 4;
const STATUS_COLORS = { PRESENT: "ok", OVERRIDDEN: "s0", NOT_FOUND: "warn", NULL: "none", EXPIRED: "s2", FUTURE: "s4", UNAVAILABLE: "bad" };
const SKEW_PILLS = { equal: "ok", differs: "bad", partly: "warn", nothing: "" };

const address = new URL(location.href);
const state = {
  model: address.searchParams.get("model"),
  window: WINDOW_NAMES[address.searchParams.get("window")] ? address.searchParams.get("window") : "900",
  isPaused: false, stop: null, last: null, arrivedAt: 0, connection: "connecting", open: new Set(), known: null, showsAll: false,
};
const charts = {};

function connect() {
  state.stop?.();
  const query = new URLSearchParams({ window: state.window });
  if (state.model) query.set("model", state.model);
  state.stop = follow(`events?${query}`, {
    snapshot(data) {
      state.last = data;
      state.arrivedAt = Date.now();
      draw(data);
    },
    connected() { state.connection = "live"; tellConnection(); },
    lost() { state.connection = "lost"; tellConnection(); },
    denied() { state.connection = "denied"; askForKey(); tellConnection(); },
  });
}

function tellConnection() {
  const pill = byId("live");
  const [kind, text] = state.isPaused ? ["", "Paused"] : {
    connecting: ["busy", "Connecting"], live: ["ok", "Live"], lost: ["bad", "Not connected"], denied: ["warn", "Key needed"],
  }[state.connection];
  pill.className = `pill ${kind}`;
  say(pill, text);
  const isLost = state.connection === "lost" && !state.isPaused;
  if (isLost) {
    const since = state.last ? ` The figures below are of ${seconds(state.last.now_ts)}.` : "";
    tellBanner(`The server does not answer; trying again.${since}`, true);
  } else if (state.last) {
    drawBanner(state.last);
  } else {
    show(byId("banner"), false);
  }
}

function tellBanner(text, isBad) {
  byId("banner").className = isBad ? "banner bad" : "banner";
  say(byId("banner-text"), text);
  show(byId("banner"), true);
}

function askForKey() {
  const hadKey = Boolean(readKey());
  say(byId("key-note"), hadKey
    ? "The server does not know this key. Check it and try again."
    : "The key is kept in this tab alone, and forgotten when you close it.");
  byId("key-note").classList.toggle("is-bad", hadKey);
  show(byId("key-form"), true);
  for (const id of ["board", "empty", "controls"]) show(byId(id), false);
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value.trim());
  byId("key").value = "";
  show(byId("key-form"), false);
  state.connection = "connecting";
  tellConnection();
  connect();
});

byId("pause").addEventListener("click", () => {
  state.isPaused = !state.isPaused;
  byId("pause").setAttribute("aria-pressed", String(state.isPaused));
  say(byId("pause"), state.isPaused ? "Go on" : "Pause");
  if (state.isPaused) state.stop?.();
  else connect();
  tellConnection();
});

byId("model").addEventListener("change", () => choose({ model: byId("model").value }));

function choose(chosen) {
  Object.assign(state, chosen);
  if (state.model) address.searchParams.set("model", state.model);
  address.searchParams.set("window", state.window);
  history.replaceState(null, "", address);
  state.known = null;
  if (state.isPaused) byId("pause").click();
  else connect();
}

function draw(data) {
  show(byId("key-form"), false);
  drawControls(data);
  drawBanner(data);
  const isEmpty = !data.model || (!data.log.newest_ts && data.totals.rows === 0);
  show(byId("empty"), isEmpty);
  show(byId("board"), !isEmpty);
  if (isEmpty) {
    drawEmpty(data);
    return;
  }
  say(byId("title"), data.model);
  document.title = `${data.firing.length ? `(${data.firing.length}) ` : ""}${data.model} · Onescore`;
  drawVerdict(data);
  drawTiles(data);
  drawTraffic(data);
  drawLatency(data);
  drawScores(data);
  drawClasses(data);
  drawViews(data);
  drawSkew(data);
  drawLog(data);
  drawRecent(data);
  const { from_ts: from, to_ts: to } = data.window;
  byId("foot").replaceChildren("Answers served from ", instant(from, seconds(from)), " until now (a window ends at ", instant(to, seconds(to)),
    `), times as this browser's clock shows them. Quantiles of times and ages are at most 1/16 too small.`);
}

function drawControls(data) {
  show(byId("controls"), data.models.length > 0);
  const select = byId("model");
  const names = [...select.options].map((option) => option.value).join("\n");
  const models = [...data.models].sort();
  if (names !== models.join("\n")) select.replaceChildren(...models.map((name) => el("option", { value: name }, name)));
  if (data.model) select.value = data.model;
  show(byId("model-field"), models.length > 1);
  if (!byId("windows").children.length) {
    byId("windows").append(...data.windows.map((length) => el("label", {},
      el("input", { type: "radio", name: "window", value: length, checked: String(length) === state.window,
        onchange: () => choose({ window: String(length) }) }),
      WINDOW_NAMES[length] ?? duration(length))));
  }
}

function drawBanner(data) {
  if (state.connection === "lost") return;
  const { is_rebuilt: isRebuilt, files_waiting: waiting, is_there: isThere } = data.follows;
  if (!isThere && data.model) tellBanner("The prediction log's directory is gone. The figures are those of what was read before.", true);
  else if (!isRebuilt) tellBanner(`Reading what was logged before: ${plural(waiting, "file")} to go, the newest first. Longer times are not complete yet.`, false);
  else show(byId("banner"), false);
}

function drawEmpty(data) {
  const code = byId("empty-code");
  show(code, false);
  if (!data.follows.is_there) {
    say(byId("empty-title"), "There is no prediction log yet");
    say(byId("empty-text"), "Servers write one when they are told to. Start one, and its answers appear here within seconds:");
    say(code, "python -m jobs.serve_realtime --model MODEL\n\nor, for mlflow models serve, set ONESCORE_PREDICTION_LOG to the directory of the log");
    show(code, true);
  } else if (!data.follows.is_rebuilt) {
    say(byId("empty-title"), "Reading the prediction log");
    say(byId("empty-text"), `${plural(data.follows.files_waiting, "file")} to go.`);
  } else {
    say(byId("empty-title"), "No answers in the last day");
    say(byId("empty-text"), "Nothing was served lately, or nothing was logged. As soon as a server writes to the log, its answers appear here.");
  }
}

function drawVerdict({ alerts, firing, model, now_ts: now }) {
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

function drawTiles({ totals, latency_us: latency, log, now_ts: now }) {
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

function drawTraffic(data) {
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

function drawLatency(data) {
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
    el("tr", {}, el("th", { scope: "row" }, name), figures.map((figure) => el("td", { class: "n" }, micros(latency[part][figure])))));
  byId("latency-table").replaceChildren(rows.length
    ? el("table", {}, el("caption", { class: "unseen" }, "Time of a call by part"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Part"), ["mean", "50 %", "90 %", "99 %", "max"].map((name) => el("th", { scope: "col", class: name === "90 %" ? "n wide" : "n" }, name)))),
      el("tbody", {}, rows))
    : "");
}

function drawScores(data) {
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

function drawClasses(data) {
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

function drawViews({ views, series, now_ts: now }) {
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

function drawSkew({ skew, now_ts: now, model }) {
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

function drawLog({ log, versions, now_ts: now, totals }) {
  const lost = log.lost_rows === null ? "cannot be told" : log.lost_rows === 0 ? "none" : el("strong", { class: "is-bad" }, `${plural(log.lost_rows, "row")} answered and in no file`);
  const processes = log.processes.filter((one) => one.rows > 0);
  byId("log").replaceChildren(facts([
    ["Newest answer", log.newest_ts === null ? "–" : instant(log.newest_ts), log.newest_ts === null ? "" : `, ${duration(Math.max(0, (now - log.newest_ts) / 1e6))} ago`],
    ["Lost", lost],
    ["Not yet written", log.queued_rows === null ? "cannot be told" : plural(log.queued_rows, "row")],
    ...(log.unreadable_files ? [["Unreadable", el("strong", { class: "is-bad" }, plural(log.unreadable_files, "file"))]] : []),
    ...(log.uncounted_rows ? [["Not counted", `${plural(log.uncounted_rows, "row")} beyond the last day, or of a clock that is ahead`]] : []),
    ["Versions", versions.length ? versions.map((one) => `${one.version || "not known"}: ${share(one.rows, totals.rows)}`).join(", ") : "–"],
    ["Processes", processes.length ? `${count(processes.length)} answered in this time` : "none answered in this time"],
  ]), ...(processes.length ? [el("details", { class: "as-table" }, el("summary", {}, "Show processes"),
    el("div", { class: "scroll" }, el("table", {}, el("caption", { class: "unseen" }, "Processes that answered"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Process"), el("th", { scope: "col", class: "n" }, "Rows"), el("th", { scope: "col" }, "Newest answer"))),
      el("tbody", {}, processes.map((one) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, one.process)), el("td", { class: "n" }, count(one.rows)), el("td", {}, seconds(one.newest_ts))))))))] : []));
  const details = byId("log").querySelector("details");
  if (details) {
    details.open = state.open.has("processes");
    details.addEventListener("toggle", () => (details.open ? state.open.add("processes") : state.open.delete("processes")));
  }
}

function drawRecent({ recent }) {
  say(byId("recent-lead"), recent.length ? `Newest first. No personal data: fields tagged so are never sent here.` : "None is kept (dashboard.recent_rows is 0), or none came yet.");
  show(byId("recent"), recent.length > 0);
  if (!byId("recent").children.length) {
    const names = [["Served", ""], ["Row", ""], ["Answer", ""], ["Score", "n"], ["Stored features", "wide"], ["Time", "n wide"], ["Version", "wide"]];
    byId("recent").append(el("table", {}, el("caption", { class: "unseen" }, "Newest answers"),
      el("thead", {}, el("tr", {}, names.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)), el("th", { scope: "col" }, el("span", { class: "unseen" }, "Details")))),
      el("tbody", {})));
  }
  const body = byId("recent").querySelector("tbody");
  const before = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const few = state.showsAll ? recent : recent.slice(0, FEW_ANSWERS);
  show(byId("all"), recent.length > FEW_ANSWERS);
  say(byId("all"), state.showsAll ? "Show fewer" : `Show all ${count(recent.length)}`);
  const wanted = few.flatMap((row) => {
    const key = `${row.process}:${row.sequence}`;
    const line = before.get(key) ?? answered(row, key, state.known !== null && !before.has(key));
    return state.open.has(key) ? [line, before.get(`${key}+`) ?? more(row, `${key}+`)] : [line];
  });
  const kept = new Set(wanted);
  for (const row of [...body.children]) if (!kept.has(row)) row.remove();
  wanted.forEach((row, i) => { if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null); });
  const keys = new Set(recent.map((row) => `${row.process}:${row.sequence}`));
  for (const key of state.open) if (key.includes(":") && !keys.has(key)) state.open.delete(key);
  state.known = keys;
}

byId("all").addEventListener("click", () => {
  state.showsAll = !state.showsAll;
  byId("all").setAttribute("aria-expanded", String(state.showsAll));
  drawRecent(state.last);
});

function answered(row, key, isNew) {
  const id = Object.values(row.id ?? {});
  const spent = row.latency_us.lookup + row.latency_us.features + row.latency_us.model;
  const bad = Object.entries(row.views).filter(([, view]) => !["PRESENT", "OVERRIDDEN"].includes(view.status));
  const views = Object.keys(row.views).length;
  let stored = views ? "all present" : "–";
  if (row.error) stored = "–";
  else if (bad.length) stored = bad.map(([name, view]) => `${name} ${view.status}`).join(", ");
  const toggle = el("button", { type: "button", class: "toggle", "aria-expanded": String(state.open.has(key)), onclick: () => {
    const isOpen = !state.open.has(key);
    if (isOpen) state.open.add(key); else state.open.delete(key);
    toggle.setAttribute("aria-expanded", String(isOpen));
    say(toggle, isOpen ? "Less" : "More");
    if (isOpen) toggle.closest("tr").after(more(row, `${key}+`));
    else byId("recent").querySelector(`tr[data-key="${CSS.escape(`${key}+`)}"]`)?.remove();
  } }, state.open.has(key) ? "Less" : "More");
  const line = el("tr", { class: isNew ? "new" : "", "data-key": key },
    el("td", { class: "when" }, instant(row.served_ts, seconds(row.served_ts))),
    el("th", { scope: "row", class: "id" }, id.length ? id.join(" · ") : el("span", { class: "soft" }, `row ${count(row.sequence)}`)),
    el("td", { class: "answer" }, row.error ? el("span", { class: "is-bad" }, row.error) : row.label ?? "–"),
    el("td", { class: "n score" }, row.error ? "–" : short(row.score)),
    el("td", { class: "wide" }, stored),
    el("td", { class: "n wide" }, spent ? micros(spent) : "–"),
    el("td", { class: "wide" }, row.version || "–"),
    el("td", { class: "n open" }, toggle));
  toggle.setAttribute("aria-label", `Details of ${id.length ? id.join(" ") : `row ${row.sequence}`}`);
  return line;
}

function more(row, key) {
  const pairs = [
    ...Object.entries(row.request ?? {}),
    ...(row.error_field ? [["refused field", row.error_field]] : []),
    ...Object.entries(row.views).map(([name, view]) => [name, view.age_seconds === null ? view.status : `${view.status}, ${duration(view.age_seconds)} old`]),
    ["as of", moment(row.as_of_ts)],
    ...(row.error ? [] : [["score, every digit", String(row.score)]]),
    ["scored together", plural(row.rows_together, "row")],
    ["store, features, model", [row.latency_us.lookup, row.latency_us.features, row.latency_us.model].map(micros).join(", ")],
  ];
  return el("tr", { class: "more", "data-key": key }, el("td", { colspan: "8" },
    el("dl", { class: "pairs" }, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))))));
}

async function findHome() {
  try {
    const { home } = await (await fetch("links", { headers: headers() })).json();
    if (!home) return;
    byId("home").querySelector("a").setAttribute("href", home);
    show(byId("home"), true);
  } catch {
    // without it the page has one tab
  }
}

tellConnection();
findHome();
connect();
