"use strict";
// All panels: they share the cycles that are shown, the cursor, and which runs are compared.
class Board {
  constructor(facts) {
    this.facts = facts;
    this.smooth = true;
    this.shown = null;
    this.absent = new Set();
    this.charts = new Map();
    this.place = document.getElementById("charts");
    this.bar();
    this.lay();
    theme.listeners.push(() => this.draw());
    this.width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth === this.width) return; // a phone's bars come and go
      this.width = innerWidth;
      clearTimeout(this.resized);
      this.resized = setTimeout(() => this.draw(), 120);
    });
  }

  visible(run) { return !this.absent.has(this.facts.runs[run]); }

  range() { return this.shown ?? [0, this.facts.last]; }

  lay() {
    for (const panel of this.facts.panels) {
      const chart = this.charts.get(panel.key);
      if (chart) chart.update(panel);
      else this.charts.set(panel.key, new Chart(this, panel));
    }
    const figures = this.facts.panels.map((panel) => this.charts.get(panel.key).figure);
    if (figures.some((figure, place) => this.place.children[place] !== figure)) this.place.replaceChildren(...figures);
    if (!figures.length) this.place.replaceChildren(make("p", { class: "note" }, "Nothing is recorded yet; curves come with the first learner cycle."));
    this.draw();
  }

  draw() { for (const chart of this.charts.values()) chart.draw(); }

  update(facts) {
    const grown = this.shown && this.shown[1] >= this.facts.last;
    this.facts = facts;
    if (grown) this.shown = [this.shown[0], facts.last];
    this.bar();
    this.lay();
  }

  bar() {
    const tools = document.getElementById("tools");
    if (!tools.children.length) {
      this.cycle = make("span", { class: "at" });
      const button = (text, name, act) => make("button", { type: "button", "aria-label": name, title: name, onclick: act }, text);
      const zoom = make("span", { class: "zoom", role: "group", "aria-label": "Zoom" }, button("+", "Zoom in", () => this.scale(0.5)), button("−", "Zoom out", () => this.scale(2)), button("all", "Show all cycles", () => this.zoom(null)));
      const box = make("input", { type: "checkbox", checked: true, onchange: () => { this.smooth = box.checked; this.draw(); } });
      this.names = make("span", { class: "zoom", role: "group", "aria-label": "Runs compared" });
      tools.append(zoom, make("label", {}, box, "moving mean in front"), this.names, this.cycle);
    }
    const runs = this.facts.runs;
    if (runs.length < 2) return;
    this.names.replaceChildren(...runs.map((name, place) => {
      const key = make("span", { class: "key", style: `display:inline-block;width:14px;height:4px;border-radius:2px;background:var(--c${place % 7})` });
      const toggle = () => { if (!this.absent.delete(name)) this.absent.add(name); this.bar(); this.draw(); };
      return make("button", { type: "button", class: "chip", "aria-pressed": String(!this.absent.has(name)), onclick: toggle }, key, name);
    }));
    this.at(null);
  }

  at(cycle) { this.cycle.textContent = cycle === null ? (this.shown ? `cycles ${Math.round(this.shown[0])} to ${Math.round(this.shown[1])}` : "") : `cycle ${cycle}`; }

  zoom(range) {
    const last = this.facts.last;
    this.shown = range && [Math.max(0, range[0]), Math.min(last, Math.max(range[1], range[0] + 2))];
    if (this.shown && this.shown[0] <= 0 && this.shown[1] >= last) this.shown = null;
    for (const chart of this.charts.values()) chart.uplot?.setScale("x", { min: this.range()[0], max: this.range()[1] });
    this.at(null);
    say(this.shown ? `cycles ${Math.round(this.shown[0])} to ${Math.round(this.shown[1])}` : "all cycles");
  }

  scale(factor, around = null) {
    const [low, high] = this.range(), middle = around ?? (low + high) / 2, half = ((high - low) / 2) * factor;
    this.zoom([middle - half, middle + half]);
  }
}
