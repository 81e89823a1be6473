// Server-sent events by fetch, because an EventSource cannot send a key. It connects again by itself, ever less often.

import { headers } from "./page.js";

const SILENT_MS = 30_000; // the server says something at least every ten seconds
const LONGEST_PAUSE_MS = 15_000;

/** Follow a URL until stopped; return what stops it. `on` has snapshot(data), connected(), lost(), denied(). */
export function follow(url, on) {
  const ending = new AbortController();
  let pause = 500;

  async function run() {
    while (!ending.signal.aborted) {
      const attempt = new AbortController();
      const abort = () => attempt.abort();
      ending.signal.addEventListener("abort", abort);
      try {
        const response = await fetch(url, { headers: headers({ accept: "text/event-stream" }), signal: attempt.signal });
        if (response.status === 401) {
          on.denied();
          return;
        }
        if (!response.ok) throw new Error(String(response.status));
        on.connected();
        pause = 500;
        await read(response.body, attempt, on.snapshot);
      } catch {
        // whatever it was: say so, and try again
      } finally {
        ending.signal.removeEventListener("abort", abort);
      }
      if (ending.signal.aborted) return;
      on.lost();
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }

  run();
  return () => ending.abort();
}

async function read(body, attempt, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const silence = setTimeout(() => attempt.abort(), SILENT_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    text += value;
    const messages = text.split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const data = message.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) take(JSON.parse(data.join("\n")));
    }
  }
}
