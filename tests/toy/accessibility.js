// What keeps somebody from using a page as it is now: a list of sentences; see pages.py.
(isTouched) => {
  const problems = [];
  const seen = (e) => {
    const box = e.getBoundingClientRect();
    return e.checkVisibility({ visibilityProperty: true }) && box.width > 1 && box.height > 1;
  };
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const named = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") ?? "").split(" ")
    .map((id) => document.getElementById(id)?.textContent ?? "").join(" ") || [...(e.labels ?? [])].map((l) => l.textContent).join(" ")
    || e.textContent || e.getAttribute("title") || "").trim();
  const told = (e) => `<${e.tagName.toLowerCase()} ${e.id ? "#" + e.id : ""} ${e.className.baseVal ?? e.className}> ${e.textContent.trim().slice(0, 40)}`;

  if (!document.documentElement.lang) problems.push("no language");
  if (!document.title) problems.push("no title");
  if (document.querySelectorAll("h1").length !== 1) problems.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) problems.push("not one main");
  let level = 1;
  for (const heading of all("h1, h2, h3, h4")) {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) problems.push(`a heading skips a level: ${told(heading)}`);
    level = now;
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) problems.push(`two elements have the id ${id}`);
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby], [aria-controls], label[for]")) {
    for (const name of ["aria-labelledby", "aria-describedby", "aria-controls", "for"]) {
      for (const id of (e.getAttribute(name) ?? "").split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) problems.push(`${name} leads nowhere: ${told(e)}`);
      }
    }
  }
  for (const e of document.querySelectorAll("img")) if (!e.hasAttribute("alt")) problems.push(`an image without alt: ${told(e)}`);
  for (const e of all("svg")) {
    if (e.getAttribute("aria-hidden") !== "true" && !(e.getAttribute("role") === "img" && named(e))) problems.push(`a drawing without a name: ${told(e)}`);
  }
  for (const e of all("button, a[href], input, select, [role=region], fieldset, form > label, progress, summary")) {
    if (e.tagName !== "FIELDSET" && !named(e)) problems.push(`no name: ${told(e)}`);
  }
  for (const e of all("table")) {
    if (!e.caption) problems.push(`a table without a caption: ${told(e)}`);
    for (const th of e.querySelectorAll("th")) if (!th.scope) problems.push(`a header cell without scope: ${told(th)}`);
  }
  for (const e of all("*")) {
    const style = getComputedStyle(e);
    if (e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(style.overflowX) && !e.closest("[tabindex='0']") && e.tagName !== "HTML") {
      problems.push(`scrolls, and the keyboard cannot: ${told(e)}`);
    }
  }
  for (const e of all(".card")) if (e.scrollWidth > e.clientWidth + 1) problems.push(`runs out of its card: ${told(e)}`);
  if (document.documentElement.scrollWidth > innerWidth + 1) problems.push(`the page is wider than the window: ${document.documentElement.scrollWidth}`);

  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, top) => over(top, below), rgba(getComputedStyle(document.documentElement).colorScheme.includes("dark") && matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#fff"));
  };
  const light = (color) => {
    const [r, g, b] = color.slice(0, 3).map((c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const done = new Set();
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || done.has(e) || !seen(e) || e.closest(".unseen, :disabled, script, .skip")) continue;
    done.add(e);
    const style = getComputedStyle(e);
    const ground = behind(e instanceof SVGElement ? e.ownerSVGElement.parentElement : e);
    const ink = over(rgba(e instanceof SVGElement ? style.fill : style.color), ground);
    const [high, low] = [light(ink), light(ground)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < needed) problems.push(`contrast ${contrast.toFixed(2)} of ${needed}: ${told(e)}`);
  }
  if (isTouched) {
    for (const e of all("button, select, input:not(.unseen), .button, .tabs a")) {
      const box = e.getBoundingClientRect();
      if (box.height < 24 || box.width < 24) problems.push(`too small to touch, ${Math.round(box.width)} x ${Math.round(box.height)}: ${told(e)}`);
    }
  }
  return problems;
}
