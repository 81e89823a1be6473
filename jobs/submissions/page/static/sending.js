// Sends files as one submission. A key of its own goes with each, so sending it again after a lost answer gives the first ticket, not two.

import { headers } from "./page.js";

const BUSY = new Set([429, 503]);
const MOST_TRIES = 20;

/** Return what kind of submission some files are: {kind, body} or {problem}, in words. */
export function kindOf(files, takesImages) {
  const names = (kind) => files.filter((file) => kindOfFile(file) === kind);
  const images = names("image");
  const tables = files.length - images.length - names("other").length;
  const others = names("other");
  if (!files.length) return { problem: "There was no file in what you dropped." };
  if (others.length) return { problem: `${others[0].name} is no image, CSV or JSON file${others.length > 1 ? `, and neither are ${others.length - 1} more` : ""}.` };
  if (images.length && tables) return { problem: "Send images and tables apart: these are some of each." };
  if (images.length && !takesImages) return { problem: "The model that is served takes no images; send a CSV or JSON file." };
  if (images.length) {
    const form = new FormData();
    for (const file of files) form.append("files", file, file.name);
    const twice = images.find((file, i) => images.findIndex((one) => one.name === file.name) < i);
    if (twice) return { problem: `Two of the images are named ${twice.name}; each needs a name of its own, by which its answer is found.` };
    return { jobs: [{ label: files.length === 1 ? files[0].name : `${files.length} images`, body: form, type: null, images }] };
  }
  return { jobs: files.map((file) => ({ label: file.name, body: file, type: kindOfFile(file) === "csv" ? "text/csv" : "application/json", images: [] })) };
}

function kindOfFile({ name, type }) {
  if (type.startsWith("image/") || /\.(png|jpe?g|gif|webp|bmp)$/i.test(name)) return "image";
  if (/\.csv$/i.test(name) || type === "text/csv") return "csv";
  if (/\.json$/i.test(name) || type === "application/json") return "json";
  return "other";
}

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Send one job until it is taken. `say(text)` tells how it goes.
 * Returns {ticket}, {denied: true}, {stopped: true} or {problem: in words, mayHelp: whether to send the same again may help}.
 */
export async function send(job, say, stop) {
  job.key ??= newKey();
  job.sent ??= await told(job);
  for (let tries = 1; ; tries += 1) {
    const answer = await post(job, say, stop);
    if (stop.aborted) return { stopped: true };
    if (answer.status === 200 || answer.status === 202) return { ticket: answer.body };
    if (answer.status === 401) return { denied: true };
    const { code, message } = answer.body?.error ?? {};
    if (BUSY.has(answer.status) && tries < MOST_TRIES) {
      await countDown(Math.max(1, answer.retryAfter), (left) => say(`The server is busy; trying again in ${left} s`), stop);
      if (stop.aborted) return { stopped: true };
      continue;
    }
    return { problem: words(answer.status, code, message), mayHelp: answer.status === 0 || answer.status >= 429 };
  }
}

/** Return a job's body and headers with who is to be told, each kind of body in its own way; a JSON file is not parsed for it. */
async function told({ body, type, notify }) {
  const given = type ? { "content-type": type } : {};
  if (!notify) return { body, given };
  const text = JSON.stringify(notify).replace(/[^ -~]/g, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);
  if (type === "text/csv") return { body, given: { ...given, "onescore-notify": text } };
  if (!type) {
    body.append("notify", text);
    return { body, given };
  }
  const start = await body.slice(0, 1024).text().catch(() => ""); // then it cannot be sent either
  const brace = start.search(/\S/);
  return { body: start[brace] === "{" ? new Blob([`{"notify":${text},`, body.slice(brace + 1)]) : body, given };
}

function words(status, code, message) {
  if (code === "NOTIFY_NOT_TAKEN") return `It was not sent, because you could not be told: ${message}.`;
  if (status === 0) return "The server could not be reached; it is not known whether the file arrived. Trying again does not send it twice.";
  if (status === 413) return `That is too large: ${message ?? "the server takes less at once"}.`;
  if (status === 415) return `The server does not take this kind of file: ${message ?? ""}`;
  if (status === 409) return `The server has another submission under this key: ${message ?? ""}`;
  if (status === 422 || status === 400) return `The file is not as it must be: ${message ?? "the server did not say why"}.`;
  if (status === 429 || status === 503) return "The server is still busy. Try again later.";
  return message ?? `The server answered ${status}.`;
}

async function countDown(seconds, say, stop) {
  for (let left = Math.ceil(seconds); left > 0 && !stop.aborted; left -= 1) {
    say(left);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** POST with progress, which fetch does not tell. */
function post(job, say, stop) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/submissions");
    const sent = headers({ "idempotency-key": job.key, ...job.sent.given });
    for (const [name, value] of Object.entries(sent)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) say(event.loaded < event.total ? `Sending, ${Math.round((100 * event.loaded) / event.total)} %` : "Sent; waiting for the ticket");
    });
    const done = () => {
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // an answer of something between, such as a proxy
      }
      resolve({ status: request.status, body, retryAfter: Number(request.getResponseHeader("retry-after")) || 2 });
    };
    for (const event of ["load", "error", "abort", "timeout"]) request.addEventListener(event, done);
    stop.addEventListener("abort", () => request.abort());
    say("Sending");
    request.send(job.sent.body);
  });
}
