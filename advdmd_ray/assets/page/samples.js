"use strict";
// Images: sliders through time, and one prompt of all samplers large, pixel by pixel.
const times = () => [...document.querySelectorAll("#samples .time")];

function slider() {
  for (const time of times()) {
    const input = time.querySelector("input"), figures = [...time.querySelectorAll("figure")];
    input.addEventListener("input", () => {
      const chosen = Number(input.value), cycle = figures[chosen].dataset.cycle;
      figures.forEach((figure, place) => { figure.hidden = place !== chosen; });
      time.querySelector("output").textContent = `cycle ${Number(cycle).toLocaleString("en-US")}`;
      input.setAttribute("aria-valuetext", `cycle ${cycle}`);
    });
  }
}

// Where the sliders stood, by name, to be set again when newer images have come.
function stand() {
  const moved = times().filter((time) => time.querySelector("input").value !== time.querySelector("input").max);
  return new Map(moved.map((time) => [time.ariaLabel, time.querySelectorAll("figure")[Number(time.querySelector("input").value)].dataset.cycle]));
}

function setStand(cycles) {
  for (const time of times()) {
    const input = time.querySelector("input");
    const place = [...time.querySelectorAll("figure")].findIndex((figure) => figure.dataset.cycle === cycles.get(time.ariaLabel));
    if (place < 0) continue;
    input.value = String(place);
    input.dispatchEvent(new Event("input"));
  }
}

class Viewer {
  constructor() {
    this.dialog = document.getElementById("viewer");
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) { this.open(this.gallery, this.place + step); event.preventDefault(); }
    });
    document.addEventListener("click", (event) => {
      const tile = event.target.closest(".gallery:not(.single) .tiles a");
      if (!tile || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.exact = false;
      this.open(tile.closest(".gallery"), Number(tile.dataset.place));
    });
  }

  open(gallery, place) {
    const strips = [...gallery.querySelectorAll(".strip")].map((strip) => [strip.querySelector("h4").textContent, [...strip.querySelectorAll("a")]]);
    const count = strips[0][1].length;
    this.gallery = gallery;
    this.place = (place + count) % count;
    const images = strips.map(([label, tiles]) => [label, tiles[this.place % tiles.length].querySelector("img")]);
    const native = images[0][1].width && Number(images[0][1].getAttribute("width"));
    const narrow = innerWidth < 620, beside = narrow && !gallery.classList.contains("pixelated") ? 1 : images.length;
    const room = Math.max(80, (Math.min(innerWidth * 0.96, 1120) - 44) / beside - 16);
    const most = Math.min(room, innerHeight * 0.62), factor = Math.max(1, Math.floor(most / native));
    const width = this.exact ? native : native * factor <= most ? native * factor : Math.round(most);
    const side = make("div", { class: `side gallery${gallery.classList.contains("pixelated") ? " pixelated" : ""}${this.exact ? " exact" : ""}`, style: "max-width:none" }, ...images.map(([label, image]) => make("figure", {}, make("img", { src: image.src, alt: image.alt, width: String(width) }), make("figcaption", {}, label))));
    const zoom = this.exact ? "1:1" : width % native ? "fitted" : `${width / native} screen pixels for each`;
    const text = images[0][1].alt.split(": ").slice(1).join(": ");
    const button = (name, act, told = name) => make("button", { type: "button", "aria-label": told, onclick: act }, name);
    const head = make("header", {}, make("strong", {}, text), make("span", { class: "note" }, `${native} pixels wide, ${zoom}`), button("‹", () => this.open(gallery, this.place - 1), "Image before"), button("›", () => this.open(gallery, this.place + 1), "Next image"), button(this.exact ? "fit" : "1:1", () => { this.exact = !this.exact; this.open(gallery, this.place); }), button("Close", () => this.dialog.close()));
    const focused = [...this.dialog.querySelectorAll("button")].indexOf(document.activeElement);
    this.dialog.replaceChildren(head, side);
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.querySelectorAll("button")[Math.max(0, focused)].focus();
  }
}
