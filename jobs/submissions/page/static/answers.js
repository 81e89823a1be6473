// A finished submission's answers: read from the server's CSV a part at a time, shown as a table, or beside the pictures that were sent.

import { count, el, headers, plural, refusal, share, short, svg } from "./page.js";

const TABLE_ROWS = 100;
const GALLERY_ROWS = 60;
const ABOUT_MODEL = new Set(["model_version", "as_of_ts", "error_code", "error_field", "error_message"]);

/** Yield the records of a CSV text that comes in pieces; quotes may hold commas and line breaks. */
async function* records(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let record = [];
  let cell = "";
  let isQuoted = false;
  let wasQuote = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (const char of value) {
        if (isQuoted && !wasQuote) {
          if (char === '"') wasQuote = true;
          else cell += char;
          continue;
        }
        if (wasQuote) {
          wasQuote = false;
          if (char === '"') { cell += char; continue; }
          isQuoted = false;
        }
        if (char === '"' && cell === "") isQuoted = true;
        else if (char === ",") { record.push(cell); cell = ""; }
        else if (char === "\n") { record.push(cell); yield record; record = []; cell = ""; }
        else if (char !== "\r") cell += char;
      }
    }
    if (record.length || cell) yield [...record, cell];
  } finally {
    await reader.cancel();
  }
}

/**
 * Show answers in a box; return what ends it.
 *
 * rows: how many there are; rowId: names of the columns that identify a row; pictures: Map of name to File, of what this tab sent.
 */
export function showAnswers(box, { id, rows, rowId, pictures, onDenied }) {
  const lead = el("p", { class: "lead" }, "Reading the answers");
  const list = el("div", {});
  const button = el("button", { type: "button", hidden: true }, "Show more");
  const urls = [];
  let source = null;
  let shown = 0;
  let isOpen = true;
  box.replaceChildren(lead, list, el("p", { class: "more" }, button));

  async function start() {
    const response = await fetch(`/submissions/${id}/results.csv`, { headers: headers() });
    if (!isOpen) return;
    if (response.status === 401) { onDenied(); return; }
    if (!response.ok) { lead.textContent = `The answers cannot be shown: ${await refusal(response)}.`; return; }
    source = records(response);
    const { value: header } = await source.next();
    if (!header) throw new Error("no header came");
    const columns = header.map((name, at) => ({ name, at }));
    const view = pictures.size ? gallery(columns) : table(columns);
    list.append(view.element);
    button.addEventListener("click", () => more(view, header).catch(brokeOff));
    await more(view, header);
  }

  async function more(view, header) {
    button.disabled = true;
    const first = shown;
    for (let n = 0; n < view.atOnce && isOpen; n += 1) {
      const { value, done } = await source.next();
      if (done) { rows = shown; break; }
      view.add(Object.fromEntries(header.map((name, i) => [name, value[i] ?? ""])));
      shown += 1;
    }
    const note = pictures.size ? "" : view.note;
    lead.textContent = `${shown < rows ? `The first ${count(shown)} of ${plural(rows, "row")}` : `${plural(rows, "row")}`}, in the order in which they were sent.${note}`;
    button.hidden = shown >= rows;
    button.disabled = false;
    if (first) view.focus(first);
  }

  /** Say that no more comes: what is shown stays. */
  function brokeOff() {
    if (!isOpen) return;
    lead.textContent = `${shown ? `${shown < rows ? `The first ${count(shown)} of ` : ""}${plural(rows, "row")}: there` : "There"} the answers broke off. Close them and open them again.`;
    button.hidden = true;
  }

  function table(columns) {
    const outputs = columns.filter(({ name }) => !rowId.includes(name) && !ABOUT_MODEL.has(name));
    const ids = columns.filter(({ name }) => rowId.includes(name));
    const body = el("tbody", {});
    const element = el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Answers" }, el("table", {},
      el("caption", { class: "unseen" }, "Answers"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "n" }, "#"), ids.map(({ name }) => el("th", { scope: "col" }, name)),
        outputs.map(({ name }) => el("th", { scope: "col", class: name === "label" ? "" : "n" }, name)), el("th", { scope: "col" }, "Refused because"))), body));
    return {
      element, atOnce: TABLE_ROWS, note: " Downloads have every digit.",
      add(row) {
        const why = row.error_code ? `${row.error_code}: ${row.error_message}` : "";
        body.append(el("tr", {}, el("td", { class: "n soft" }, count(body.children.length + 1)), ids.map(({ name }) => el("th", { scope: "row" }, row[name] || "–")),
          outputs.map(({ name }) => el("td", { class: name === "label" ? "" : "n" }, said(row[name]))), el("td", { class: why ? "is-bad" : "" }, why || "–")));
      },
      focus(at) { body.children[at]?.scrollIntoView({ block: "nearest" }); },
    };
  }

  function gallery() {
    const element = el("ul", { class: "gallery" });
    return {
      element, atOnce: GALLERY_ROWS, note: "",
      add(row) {
        const name = row[rowId[0]] ?? "";
        element.append(card(name, row));
      },
      focus(at) { element.children[at]?.scrollIntoView({ block: "nearest" }); },
    };
  }

  function card(name, row) {
    const file = pictures.get(name);
    let picture = "not of this tab";
    if (file) {
      const url = URL.createObjectURL(file);
      urls.push(url);
      const image = el("img", { src: url, alt: "", loading: "lazy", onerror: () => image.replaceWith("cannot be shown") });
      picture = image;
    }
    const best = Number(row.score);
    const isShare = row.label !== undefined && best >= 0 && best <= 1;
    const next = others(row);
    const answer = row.error_code
      ? [el("p", { class: "said" }, el("span", { class: "is-bad" }, row.error_code)), el("span", { class: "file", title: row.error_message }, row.error_message)]
      : [el("p", { class: "said" }, el("strong", {}, row.label || short(best)), isShare ? el("span", { class: "soft" }, share(best, 1)) : null),
        isShare ? svg("svg", { class: "sure", viewBox: "0 0 100 5", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { width: 100 * best, height: 5 })) : null,
        next ? el("span", { class: "file" }, next) : null];
    return el("li", {}, el("div", { class: "picture" }, picture), ...answer, el("span", { class: "file", title: name }, name));
  }

  start().catch(brokeOff);
  return () => {
    isOpen = false;
    source?.return();
    for (const url of urls) URL.revokeObjectURL(url);
    box.replaceChildren();
  };
}

/** Return in words the class that comes next. */
function others(row) {
  const scores = Object.entries(row).filter(([name]) => name.startsWith("score_")).map(([name, text]) => [name.slice(6), Number(text)]);
  const [, next] = scores.sort((a, b) => b[1] - a[1]);
  return next ? `then ${next[0]}, ${share(next[1], 1)}` : "";
}

function said(text) {
  if (text === "" || text === undefined) return "–";
  const number = Number(text);
  return Number.isFinite(number) && text.trim() !== "" ? short(number) : text;
}
