// The dashboard: follows the server's snapshots and draws them. Every figure comes from the server; nothing is computed here but words.

import {
  byId, count, duration, el, headers, instant, keepKey, micros, moment, plural, readKey, say, seconds, short, show,
} from "./page.js";
import {
  drawClasses, drawLatency, drawLog, drawScores, drawSkew, drawTiles, drawTraffic, drawVerdict, drawViews,
} from "./panels.js";
import { follow } from "./stream.js";

const WINDOW_NAMES = { 300: "5 min", 900: "15 min", 3600: "1 hour", 21600: "6 hours", 86400: "1 day" };
const FEW_ANSWERS = 12;

const address = new URL(location.href);
const state = {
  model: address.searchParams.get("model"),
  window: WINDOW_NAMES[address.searchParams.get("window")] ? address.searchParams.get("window") : "900",
  isPaused: false, stop: null, last: null, connection: "connecting", open: new Set(), known: null, showsAll: false,
};

function connect() {
  state.stop?.();
  const query = new URLSearchParams({ window: state.window });
  if (state.model) query.set("model", state.model);
  state.stop = follow(`events?${query}`, {
    snapshot(data) {
      state.last = data;
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
  drawLog(data, state.open);
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

function drawRecent({ recent }) {
  if (recent === null) {
    say(byId("recent-lead"), "Single answers are other callers' too: they are shown to who has the dashboard's own key (dashboard.key).");
    show(byId("recent"), false);
    return;
  }
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
