"use strict";
// The page comes alive: curves, slider, viewer; and where it is served, it asks for news.
const EVERY_MS = 4000, LOST_MS = 15000;

class News {
  constructor(board) {
    this.board = board;
    this.stamp = "";
    this.ask();
  }

  async ask() {
    let wait = EVERY_MS;
    try {
      const headers = this.stamp ? { "If-None-Match": this.stamp } : {};
      const answer = await fetch(`facts.json?run=${document.body.dataset.chosen}`, { headers, cache: "no-store" });
      if (answer.ok) {
        this.stamp = answer.headers.get("ETag") ?? "";
        this.take(await answer.json());
      }
      this.lost(answer.status >= 400);
    } catch {
      this.lost(true);
      wait = LOST_MS;
    }
    setTimeout(() => this.ask(), wait);
  }

  take(facts) {
    for (const [name, html] of Object.entries(facts.sections)) this.put(document.getElementById(name), html);
    this.board.update(facts.charts);
  }

  put(section, html) {
    if (section.told === html) return;
    const first = section.told === undefined;
    section.told = html;
    if (first && section.id === "samples") return; // what the page came with is as new
    if (section.contains(document.activeElement) && section.id === "samples") { section.told = ""; return; }
    const open = new Set([...section.querySelectorAll("details[open]")].map((details) => details.id)), at = stand();
    section.innerHTML = html;
    for (const details of section.querySelectorAll("details")) if (open.has(details.id)) details.open = true;
    if (section.id === "samples") { slider(); setStand(at); }
  }

  lost(is) {
    const state = document.querySelector(".state");
    if (is && !document.querySelector(".cut")) state?.after(make("span", { class: "state stopped cut", role: "status" }, "no connection"));
    if (!is) document.querySelector(".cut")?.remove();
  }
}

const board = new Board(JSON.parse(document.getElementById("facts").textContent));
new Viewer();
slider();
if (document.body.dataset.live === "yes") new News(board);
document.documentElement.dataset.ready = "";
