"use strict";
// Colours come from the style sheet, so that curves follow light, dark and paper as all else does.
const theme = {
  listeners: [],
  of(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); },
  series(place) { return this.of(`--c${place % 7}`); },
  faded(colour, alpha) { return colour + Math.round(alpha * 255).toString(16).padStart(2, "0"); },
  changed() { for (const listener of this.listeners) listener(); },
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme.changed());
addEventListener("beforeprint", () => { document.documentElement.dataset.print = ""; theme.changed(); });
addEventListener("afterprint", () => { delete document.documentElement.dataset.print; theme.changed(); });

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function number(value, form = "number") {
  if (value === null || value === undefined) return "–";
  if (form === "bytes") {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let place = 0;
    while (Math.abs(value) >= 999.5 && place < 4) { value /= 1000; place += 1; }
    return `${digits(value)} ${units[place]}`;
  }
  return form === "seconds" ? `${digits(value)} s` : digits(value);
}

function digits(value) {
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e7)) return value.toExponential(1).replace("e+", "e");
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

function say(text) { document.getElementById("said").textContent = text; }
