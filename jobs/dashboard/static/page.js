// What the pages of Onescore share: elements, words for numbers, and the key, which stays in this tab alone.

const KEY = "onescore.key";

export const byId = (id) => document.getElementById(id);

/** Return a new element; text is always text, never markup. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  set(made, attributes);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Return a new SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(made, attributes);
  made.append(...children.flat());
  return made;
}

function set(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Set an element's text only if it differs, so that a screen reader does not read what did not change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

export function readKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function keepKey(key) {
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // a browser without storage asks again in the next tab
  }
}

/** Return the headers that every call has. */
export function headers(more = {}) {
  const key = readKey();
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

const whole = new Intl.NumberFormat("en");

export const count = (n) => whole.format(n);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Return a number in about three digits. */
export function short(n) {
  if (n === null || n === undefined || !Number.isFinite(n)) return "–";
  if (n === 0) return "0";
  const size = Math.abs(n);
  if (size >= 1e15 || size < 1e-4) return n.toExponential(2);
  if (size >= 1000) return whole.format(Math.round(n));
  return String(Number(n.toPrecision(3)));
}

/** Return a share in percent; what is not all is never shown as 100, and what is not none never as 0. */
export function share(part, of) {
  if (!of) return "–";
  if (part === 0) return "0 %";
  if (part === of) return "100 %";
  const percent = (100 * part) / of;
  if (percent < 0.01) return "< 0.01 %";
  if (percent > 99.99) return "> 99.99 %";
  const digits = percent < 1 || percent > 99 ? 2 : 1;
  return `${percent.toFixed(digits)} %`;
}

/** Return microseconds as time. */
export function micros(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${short(us)} µs`;
  if (us < 1e6) return `${short(us / 1e3)} ms`;
  return `${short(us / 1e6)} s`;
}

/** Return seconds as a duration. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const size = Math.abs(seconds);
  if (size < 1) return size === 0 ? "0 s" : `${short(seconds)} s`;
  if (size < 120) return `${Math.round(seconds)} s`;
  if (size < 7200) return `${Math.round(seconds / 60)} min`;
  if (size < 172800) return `${short(seconds / 3600)} h`;
  return `${short(seconds / 86400)} days`;
}

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const precise = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

export const clock = (us) => time.format(us / 1000);
export const seconds = (us) => precise.format(us / 1000);
export const moment = (us) => full.format(us / 1000);

/** Return a <time> with the exact instant, in UTC, on hover. */
export function instant(us, text = moment(us)) {
  const iso = new Date(us / 1000).toISOString();
  return el("time", { datetime: iso, title: iso }, text);
}

/** Return what an error answer says in words. */
export async function refusal(response) {
  try {
    const { error } = await response.json();
    return error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}
