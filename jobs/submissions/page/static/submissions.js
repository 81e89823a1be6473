// The page of submissions: a client of the API like any other.

import { showAnswers } from "./answers.js";
import { byId, count, duration, el, headers, instant, keepKey, moment, plural, readKey, refusal, say, seconds, show } from "./page.js";
import { kindOf, send } from "./sending.js";

const OPEN = new Set(["queued", "running"]);
const STATES = { queued: ["", "Waiting"], running: ["busy", "Being scored"], succeeded: ["ok", "Done"], failed: ["bad", "Failed"], cancelled: ["warn", "Cancelled"] };
const PAGE = 25;
const MOST_AT_ONCE = 1000;
const SOON_MS = 700;
const LATER_MS = 10_000;
const LABELS = "onescore.labels";

const state = { about: null, submissions: new Map(), order: [], next: null, shown: PAGE, pictures: new Map(), labels: readLabels(), timer: null, reads: 0 };
const tickets = new Map();

function readLabels() {
  try {
    return new Map(JSON.parse(sessionStorage.getItem(LABELS) ?? "[]"));
  } catch {
    return new Map();
  }
}

function keepLabel(id, label) {
  state.labels.set(id, label);
  try {
    sessionStorage.setItem(LABELS, JSON.stringify([...state.labels].slice(-500)));
  } catch {
    // then a ticket is named by its id after the page was loaded again
  }
}

function announce(text) {
  byId("said").textContent = text;
}

function tellProblem(text) {
  say(byId("problem"), text ?? "");
  show(byId("problem"), Boolean(text));
}

function tellNoAnswer() {
  tellProblem("The server does not answer; trying again. What was taken is safe there.");
}

/** Ask the API; return its answer, or null having said what is wrong. */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch {
    tellNoAnswer();
    return null;
  }
  if (response.status === 401) {
    askForKey();
    return null;
  }
  return response;
}

// The key

function askForKey() {
  const hadKey = Boolean(readKey());
  say(byId("key-title"), "This server needs a key");
  say(byId("key-note"), hadKey ? "The server does not know this key. Check it and try again." : "The key is kept in this tab alone, and forgotten when you close it.");
  byId("key-note").classList.toggle("is-bad", hadKey);
  openKey(true);
  show(byId("page"), false);
  clearTimeout(state.timer);
}

function openKey(isOpen) {
  show(byId("key-form"), isOpen);
  byId("key-button").setAttribute("aria-expanded", String(isOpen));
  show(byId("key-forget"), Boolean(readKey()));
  if (isOpen) byId("key").focus();
}

byId("key-button").addEventListener("click", () => openKey(byId("key-form").hidden));

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
});

byId("key-forget").addEventListener("click", () => useKey(""));

function useKey(key) {
  keepKey(key);
  byId("key").value = "";
  openKey(false);
  show(byId("page"), true);
  say(byId("key-button"), readKey() ? "Another key" : "Use a key");
  for (const ticket of tickets.values()) ticket.element.remove();
  tickets.clear();
  state.order = [];
  state.submissions.clear();
  begin();
}

// What the model takes

async function readAbout() {
  const response = await ask("/about");
  if (!response?.ok) return;
  state.about = await response.json();
  const { model, version, fields, takes_images: takesImages, row_id: rowId, max_rows: maxRows, dashboard, tells } = state.about;
  say(byId("model"), `scored by ${model}${version ? `, version ${version}` : ""}`);
  say(byId("drop-text"), `${takesImages ? "Images, or one" : "A"} CSV or JSON file. It is sent at once, and you get a ticket.`);
  byId("files").setAttribute("accept", `${takesImages ? "image/*," : ""}.csv,text/csv,.json,application/json`);
  show(byId("dashboard"), Boolean(dashboard));
  if (dashboard) byId("dashboard").querySelector("a").setAttribute("href", dashboard);
  const more = takesImages ? "Of an image file, its name is the row's id and its content the picture; else a" : "A";
  byId("fields-body").replaceChildren(
    el("p", {}, `${more} CSV file has a header with these names and a line a row; a JSON file is `, el("code", {}, '{"rows": [{...}, ...]}'), `. At most ${plural(maxRows, "row")} at once.`),
    el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Fields of a row" }, el("table", {}, el("caption", { class: "unseen" }, "Fields of a row"),
      el("thead", {}, el("tr", {}, ["Field", "Type", "Meaning"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, fields.map((field) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, field.name)),
        el("td", {}, field.type, field.may_be_null ? "" : el("span", { class: "soft" }, ", needed")),
        el("td", {}, field.doc, rowId.includes(field.name) ? el("span", { class: "soft" }, " (names the row)") : "")))))));
  show(byId("fields"), true);
  show(byId("tell"), tells.webhook || tells.email_domains.length > 0);
  show(byId("tell-webhook").parentElement, tells.webhook);
  show(byId("tell-email").parentElement, tells.email_domains.length > 0);
  say(byId("tell-domains"), `of ${tells.email_domains.join(", ")}`);
}

/** Return who is to be told when what is sent now has ended; null = nobody. */
function readTold() {
  const webhook = byId("tell-webhook").value.trim();
  const email = byId("tell-email").value.trim();
  return webhook || email ? { ...(webhook ? { webhook } : {}), ...(email ? { email } : {}) } : null;
}

for (const name of ["tell-webhook", "tell-email"]) {
  byId(name).addEventListener("input", () => say(byId("tell-title"), readTold() ? "Tell me when it is done (on)" : "Tell me when it is done"));
}

// Sending

async function take(files) {
  tellProblem(null);
  const found = kindOf(files, state.about?.takes_images ?? true);
  const notify = readTold();
  if (found.problem) {
    tellProblem(found.problem);
    return;
  }
  await Promise.all(found.jobs.map((job) => submit({ ...job, notify })));
}

async function submit(job) {
  const stop = new AbortController();
  const how = el("span", { class: "how", role: "status" }, "Sending");
  const stopButton = el("button", { type: "button", class: "quiet", onclick: () => stop.abort() }, "Stop");
  const line = el("li", {}, el("span", { class: "what" }, job.label), how, stopButton);
  byId("sending").append(line);
  const result = await send(job, (text) => say(how, text), stop.signal);
  if (result.ticket) {
    line.remove();
    keepLabel(result.ticket.id, job.label);
    if (job.images.length) state.pictures.set(result.ticket.id, new Map(job.images.map((file) => [file.name, file])));
    announce(`${job.label}: taken, ticket ${result.ticket.id}`);
    byId("state").value = "";
    await refresh(result.ticket.id);
    return;
  }
  if (result.stopped || result.denied) {
    line.remove();
    if (result.denied) askForKey();
    return;
  }
  line.classList.add("failed");
  say(how, result.problem);
  const again = el("button", { type: "button", onclick: () => { line.remove(); submit(job); } }, "Try again");
  stopButton.replaceWith(
    ...(result.mayHelp ? [again] : []),
    el("button", { type: "button", class: "quiet", onclick: () => { line.remove(); byId("files").focus(); } }, "Dismiss"));
}

byId("files").addEventListener("change", () => {
  const files = [...byId("files").files];
  byId("files").value = "";
  if (files.length) take(files);
});

const drop = byId("drop");
let depth = 0;
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // wherever it falls, the browser does not leave the page for it
    if (name === "dragenter") depth += 1;
    if (name === "dragleave") depth -= 1;
    if (name === "drop") {
      depth = 0;
      if (!byId("page").hidden) take([...event.dataTransfer.files]);
    }
    drop.classList.toggle("over", depth > 0);
  });
}

// The list

/** Return the answer to a list of the newest submissions and, where it is one, {submissions, next} of as many as are shown. */
async function readList() {
  const found = { submissions: [], next: null };
  for (let left = state.shown; left > 0; left -= MOST_AT_ONCE) {
    const query = new URLSearchParams({ limit: String(Math.min(left, MOST_AT_ONCE)) });
    if (byId("state").value) query.set("state", byId("state").value);
    if (found.next) query.set("after", new URLSearchParams(found.next.split("?")[1]).get("after"));
    const response = await ask(`/submissions?${query}`);
    if (!response?.ok) return { response };
    let page;
    try {
      page = await response.json();
    } catch { // it broke off
      tellNoAnswer();
      return { response: null };
    }
    found.submissions.push(...page.submissions);
    found.next = page.next;
    if (!found.next) break;
  }
  return { found };
}

/** Read the newest submissions, and draw; `arrived` is the id of one that just came. */
async function refresh(arrived = null) {
  clearTimeout(state.timer);
  const read = (state.reads += 1);
  const { response, found } = await readList();
  if (read !== state.reads) return; // a later one is on its way
  if (found) {
    const { submissions, next } = found;
    tellProblem(byId("problem").textContent.startsWith("The server does not answer") ? null : byId("problem").textContent);
    state.next = next;
    state.order = submissions.map((one) => one.id);
    for (const one of submissions) {
      tellEnd(state.submissions.get(one.id), one);
      state.submissions.set(one.id, one);
    }
    drawList(arrived);
  } else if (response && response.status !== 429) { // asked too often: later again
    tellProblem(`Your submissions cannot be listed: ${await refusal(response)}.`);
  } else if (!byId("key-form").hidden && byId("page").hidden) {
    return;
  }
  const isOpen = state.order.some((id) => OPEN.has(state.submissions.get(id).state));
  state.timer = setTimeout(refresh, isOpen && !document.hidden ? SOON_MS : LATER_MS);
}

function tellEnd(before, now) {
  if (!before || !OPEN.has(before.state) || OPEN.has(now.state)) return;
  announce(`${nameOf(now)}: ${STATES[now.state][1]}, ${refusedOf(now) || plural(now.rows, "row")}`);
}

const refusedOf = (one) => (one.state === "succeeded" && one.rows_refused ? `${count(one.rows_refused)} of ${plural(one.rows, "row")} refused` : "");

const nameOf = ({ id }) => state.labels.get(id) ?? `Ticket ${id.slice(0, 14)}…`;

function drawList(arrived) {
  const filter = byId("state").selectedOptions[0].textContent;
  show(byId("none"), !state.order.length);
  say(byId("none"), byId("state").value ? `None is ${filter}.` : "None yet. Drop a file above: its ticket stands here, and is still here when you come back.");
  show(byId("older"), Boolean(state.next));
  const list = byId("list");
  const kept = new Set(state.order);
  for (const [id, ticket] of tickets) {
    if (kept.has(id)) continue;
    ticket.close();
    ticket.element.remove();
    tickets.delete(id);
  }
  state.order.forEach((id, i) => {
    if (!tickets.has(id)) tickets.set(id, new Ticket(id, id === arrived));
    const ticket = tickets.get(id);
    ticket.draw(state.submissions.get(id));
    if (list.children[i] !== ticket.element) list.insertBefore(ticket.element, list.children[i] ?? null);
  });
  if (arrived) tickets.get(arrived)?.element.querySelector("h3").focus();
}

/** One submission as it is shown; its elements stay, so that nobody's focus is lost while it changes. */
class Ticket {
  constructor(id, hasArrived) {
    this.id = id;
    this.ends = null;
    this.pill = el("span", { class: "pill" });
    this.refused = el("span", { class: "refused", hidden: true });
    this.name = el("h3", { tabindex: "-1", id: `t-${id}` });
    this.meta = el("p", { class: "meta" });
    this.reason = el("p", { class: "reason", hidden: true });
    this.progress = el("progress", { "aria-label": "Rows scored", hidden: true });
    this.show = el("button", { type: "button", "aria-expanded": "false", onclick: () => this.toggle() }, "Show answers");
    this.csv = el("button", { type: "button", onclick: () => this.download("csv") }, "Download CSV");
    this.json = el("button", { type: "button", onclick: () => this.download("ndjson") }, "Download JSON lines");
    this.cancel = el("button", { type: "button", class: "danger", onclick: () => this.askCancel() }, "Cancel");
    this.answers = el("div", { class: "answers" });
    this.actions = el("div", { class: "actions" }, this.show, this.csv, this.json, this.cancel);
    this.element = el("li", { class: hasArrived ? "card ticket arrived" : "card ticket", "aria-labelledby": `t-${id}` },
      el("div", { class: "ticket-head" }, el("div", {}, this.name, this.meta), el("div", { class: "outcome" }, this.refused, this.pill)), this.reason, this.progress, this.actions, this.answers);
  }

  draw(one) {
    this.one = one;
    const [kind, words] = STATES[one.state];
    const refused = refusedOf(one);
    this.pill.className = `pill ${refused && one.rows_refused === one.rows ? "warn" : kind}`;
    say(this.pill, words);
    say(this.refused, refused);
    show(this.refused, Boolean(refused));
    say(this.name, nameOf(one));
    this.drawMeta(one);
    show(this.reason, Boolean(one.reason));
    if (one.reason) say(this.reason, `${one.reason.message || "It could not be scored"} (${one.reason.code})`);
    show(this.progress, OPEN.has(one.state));
    this.progress.max = Math.max(one.rows, 1);
    this.progress.value = one.rows_done;
    const isDone = one.state === "succeeded";
    for (const button of [this.show, this.csv, this.json]) show(button, isDone);
    show(this.cancel, OPEN.has(one.state));
    show(this.actions, isDone || OPEN.has(one.state));
    if (!isDone) this.close();
  }

  drawMeta(one) {
    const created = Date.parse(one.created_ts) * 1000;
    const took = one.finished_ts && one.started_ts ? (Date.parse(one.finished_ts) - Date.parse(one.created_ts)) / 1000 : null;
    const parts = [
      OPEN.has(one.state) && one.rows_done ? `${count(one.rows_done)} of ${plural(one.rows, "row")}` : plural(one.rows, "row"),
      took !== null && one.state === "succeeded" ? `answered within ${duration(Math.max(took, 0.01))}` : null,
      one.model_version ? `${one.model}, version ${one.model_version}` : one.model,
    ];
    const [rows, ...others] = parts.filter(Boolean);
    const at = isToday(created) ? seconds(created) : moment(created);
    const text = [rows, at, ...others].join(" · ");
    if (this.said === text) return;
    this.said = text;
    this.meta.replaceChildren(`${rows} · sent `, instant(created, at), ` · ${others.join(" · ")} · `, el("code", { title: this.id }, this.id.slice(-8)));
  }

  toggle() {
    if (this.ends) {
      this.close();
      return;
    }
    this.show.setAttribute("aria-expanded", "true");
    say(this.show, "Hide answers");
    this.ends = showAnswers(this.answers, {
      id: this.id, rows: this.one.rows, rowId: state.about?.row_id ?? [], pictures: state.pictures.get(this.id) ?? new Map(), onDenied: askForKey,
    });
  }

  close() {
    if (!this.ends) return;
    this.ends();
    this.ends = null;
    this.show.setAttribute("aria-expanded", "false");
    say(this.show, "Show answers");
  }

  /** Download by a call of our own, because a link cannot send a key. */
  async download(kind) {
    const button = kind === "csv" ? this.csv : this.json;
    const text = button.textContent;
    button.disabled = true;
    say(button, "Downloading");
    try {
      const response = await ask(`/submissions/${this.id}/results.${kind}`);
      if (response && !response.ok) tellProblem(`The answers cannot be downloaded: ${await refusal(response)}.`);
      if (!response?.ok) return;
      const url = URL.createObjectURL(await response.blob());
      const name = (state.labels.get(this.id) ?? this.id).replace(/\.(csv|json)$/i, "").replace(/[^\w.-]+/g, "_");
      el("a", { href: url, download: `${name}-answers.${kind}` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch {
      tellProblem("The download broke off. Try again.");
    } finally {
      say(button, text);
      button.disabled = false;
    }
  }

  askCancel() {
    if (!this.sure) {
      this.sure = setTimeout(() => this.unsure(), 5000);
      say(this.cancel, "Really cancel?");
      return;
    }
    this.unsure();
    this.cancelNow();
  }

  unsure() {
    clearTimeout(this.sure);
    this.sure = null;
    say(this.cancel, "Cancel");
  }

  async cancelNow() {
    const response = await ask(`/submissions/${this.id}`, { method: "DELETE" });
    if (response && !response.ok) tellProblem(response.status === 409 ? `${nameOf(this.one)} has ended already.` : `It cannot be cancelled: ${await refusal(response)}.`);
    if (response?.ok) this.name.focus(); // the button that has the focus goes
    refresh();
  }
}

const isToday = (us) => new Date(us / 1000).toDateString() === new Date().toDateString();

byId("state").addEventListener("change", () => refresh());
byId("older").addEventListener("click", () => {
  state.shown += PAGE;
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && byId("key-form").hidden) refresh();
});

async function begin() {
  await readAbout();
  if (!byId("page").hidden) await refresh();
}

say(byId("key-button"), readKey() ? "Another key" : "Use a key");
begin();
