"use strict";
// One panel: a figure with its curves, what they are and what is healthy, a legend that reads values, and a table.
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3]];

function smoothed(values) {
  const window = Math.max(1, Math.floor(values.length / 40));
  let sum = 0, count = 0;
  return values.map((value, place) => {
    if (value !== null && value !== undefined) { sum += value; count += 1; }
    const gone = values[place - window];
    if (place >= window && gone !== null && gone !== undefined) { sum -= gone; count -= 1; }
    return count ? sum / count : null;
  });
}

class Chart {
  constructor(board, panel) {
    this.board = board;
    this.hidden = new Map();
    this.figure = make("figure", { class: "chart", id: `chart-${panel.key}` });
    this.plot = make("div", { class: "plot", tabindex: "0", role: "application", "aria-roledescription": "curves", onkeydown: (event) => this.key(event) });
    this.legend = make("div", { class: "legend" });
    this.numbers = make("details", { ontoggle: () => this.table() }, make("summary", {}, "Numbers"));
    this.update(panel);
    const healthy = make("p", { class: "healthy" }, make("b", {}, "Healthy: "), panel.healthy);
    const caption = make("figcaption", {}, make("h3", {}, panel.title), make("p", { class: "what" }, panel.what));
    this.figure.append(caption, this.plot, this.legend, healthy, this.numbers);
  }

  update(panel) {
    this.panel = panel;
    this.lines = [];
    panel.runs.forEach((run, place) => run.lines.forEach((line, own) => {
      this.lines.push({ ...line, run: place, own, cycles: run.cycles, id: `${place}/${line.label}` });
    }));
    const several = panel.runs.filter((run) => run.lines.length).length > 1;
    for (const line of this.lines) {
      line.name = several ? `${this.board.facts.runs[line.run]}: ${line.label}` : line.label;
      line.paint = several ? line.run : (line.hue ?? line.own) % 7;
      line.several = several;
      line.dash = line.dashed ? [6, 4] : [];
      if (panel.key === "texts" && !several) line.paint = line.own % (this.lines.length / 2 || 1);
      if (!this.hidden.has(line.id)) this.hidden.set(line.id, several && !line.main);
    }
    this.table();
  }

  shown() { return this.lines.filter((line) => !this.hidden.get(line.id) && this.board.visible(line.run)); }

  // Of several runs the colour tells the run, so dashes tell the lines that are shown of one.
  dashed() {
    const ranks = new Map();
    for (const line of this.lines.filter((own) => own.several)) {
      const rank = ranks.get(line.run) ?? 0;
      line.dash = DASHES[rank % 4];
      if (!this.hidden.get(line.id)) ranks.set(line.run, rank + 1);
    }
  }

  draw() {
    this.dashed();
    const width = this.plot.clientWidth;
    if (!width) return;
    this.uplot?.destroy();
    const lines = this.shown(), data = this.data(lines);
    this.uplot = new uPlot(this.options(lines, width), data, this.plot);
    const over = this.uplot.over;
    over.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") this.uplot.setCursor({ left: event.clientX - over.getBoundingClientRect().left, top: 1 });
    });
    over.addEventListener("dblclick", () => this.board.zoom(null));
    this.keys();
    this.read(null);
  }

  data(lines) {
    const values = (line) => (this.panel.log ? line.values.map((value) => (value > 0 ? value : null)) : line.values);
    const tables = lines.map((line) => [line.cycles, values(line)]);
    if (!tables.length) return [[0, 1]];
    const joined = tables.length > 1 ? uPlot.join(tables) : tables[0];
    if (!(this.panel.smooth && this.board.smooth)) return joined;
    return [joined[0], ...joined.slice(1), ...joined.slice(1).map(smoothed)];
  }

  options(lines, width) {
    const smooth = this.panel.smooth && this.board.smooth;
    const series = lines.map((line) => this.series(line, smooth ? 0.28 : 1, smooth ? 1 : 1.7));
    if (smooth) series.push(...lines.map((line) => this.series(line, 1, 1.9)));
    const grid = { stroke: theme.of("--line"), width: 1 }, stroke = theme.of("--soft");
    const font = "12px system-ui, sans-serif";
    return {
      width, height: this.panel.bars ? 150 : 220, padding: [10, 14, 0, 0],
      series: [{}, ...series],
      legend: { show: false },
      cursor: { y: false, sync: { key: "cycles", setSeries: false }, drag: { x: true, y: false, setScale: false }, points: { size: 7 } },
      scales: { x: { time: false, range: () => this.board.range() }, y: this.scale() },
      axes: [
        { stroke, grid: { show: false }, ticks: { ...grid, size: 4 }, font, size: 26, gap: 4, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6] },
        { stroke, grid: this.panel.log ? { ...grid, filter: decades } : grid, ticks: { show: false }, font, ...(this.panel.bars ? { incrs: [1], space: 8 } : {}), size: (u, values) => 14 + 7 * Math.max(3, ...(values || []).map((text) => (text || "").length)), gap: 4, values: (u, splits) => this.ticks(splits) },
      ],
      hooks: { drawClear: [(u) => this.behind(u)], drawAxes: [(u) => this.names(u)], draw: [(u) => this.before(u)], setCursor: [(u) => this.moved(u)], setSelect: [(u) => this.selected(u)] },
    };
  }

  ticks(splits) {
    if (this.panel.bars) return splits.map((value) => (Number.isInteger(value) ? String(value) : ""));
    if (!this.panel.log) return splits.map((value) => number(value, this.panel.form));
    return decades(null, splits).map((value) => (value === null ? "" : number(value)));
  }

  series(line, alpha, width) {
    const colour = theme.faded(theme.series(line.paint), alpha);
    const few = line.cycles.length < 25;
    return {
      label: line.name, stroke: this.panel.bars ? "transparent" : colour, width, dash: line.dash, spanGaps: true,
      points: { show: !this.panel.bars && few && alpha === 1, size: 5, fill: colour, width: 1 },
    };
  }

  scale() {
    const span = this.panel.span, bars = this.panel.bars;
    if (this.panel.log) return { distr: 3 };
    return {
      range: (u, low, high) => {
        if (bars) return [0.4, Math.max(1, ...this.lines.map((line) => line.own + 1)) + 0.6];
        if (low === null) return [0, 1];
        const lowest = span ? Math.min(span[0], low) : low, highest = span ? Math.max(span[1], high) : high;
        const room = (highest - lowest || Math.abs(highest) || 1) * 0.07;
        return [span && lowest === span[0] ? lowest : lowest - room, span && highest === span[1] && highest > lowest ? highest : highest + room];
      },
    };
  }

  behind(u) {
    const { left, top, width, height } = u.bbox, context = u.ctx;
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    for (const phase of this.board.facts.phases) {
      const from = u.valToPos(phase.from, "x", true), to = u.valToPos(phase.to, "x", true);
      context.fillStyle = theme.of(`--${phase.name}`);
      context.fillRect(from, top, to - from, height);
    }
    for (const band of this.panel.bands) {
      const high = u.valToPos(band.high, "y", true), low = u.valToPos(band.low, "y", true);
      context.fillStyle = theme.faded(theme.of(band.bad ? "--bad" : "--faint"), 0.14);
      if (band.high > band.low) context.fillRect(left, high, width, low - high);
      else this.stroke(context, [left, high, left + width, high], theme.of("--faint"), [4, 4]);
    }
    context.restore();
  }

  // Above the grid, whose lines would strike the names through.
  names(u) {
    const { left, top } = u.bbox, context = u.ctx, pixel = devicePixelRatio;
    context.save();
    Object.assign(context, { font: `${11 * pixel}px system-ui, sans-serif`, textAlign: "left", textBaseline: "alphabetic" });
    for (const phase of this.board.facts.phases) {
      const from = u.valToPos(phase.from, "x", true), to = u.valToPos(phase.to, "x", true);
      const start = Math.max(from, left) + 4 * pixel, wide = context.measureText(phase.name).width;
      if (Math.min(to, left + u.bbox.width) - start < wide + 4 * pixel) continue;
      context.fillStyle = theme.of(`--${phase.name}`);
      context.fillRect(start - 2 * pixel, top + 4 * pixel, wide + 4 * pixel, 11 * pixel);
      context.fillStyle = theme.of("--soft");
      context.fillText(phase.name, start, top + 12 * pixel);
    }
    context.restore();
  }

  before(u) {
    const { left, top, width, height } = u.bbox;
    if (this.panel.bars) for (const line of this.shown()) this.bars(u, line);
    for (const cycle of this.board.facts.faults) {
      const x = u.valToPos(cycle, "x", true);
      if (x >= left && x <= left + width) this.stroke(u.ctx, [x, top + height - 7 * devicePixelRatio, x, top + height], theme.of("--bad"), [], 2);
    }
  }

  // A bar around each cycle that has a value, halfway to its neighbours.
  bars(u, line) {
    const { left, top, width, height } = u.bbox, half = Math.min(9, u.height / 14) * devicePixelRatio;
    u.ctx.save();
    u.ctx.beginPath();
    u.ctx.rect(left, top, width, height);
    u.ctx.clip();
    u.ctx.fillStyle = theme.series(line.paint);
    const edge = (place) => {
      const { cycles } = line, own = cycles[place] ?? cycles[place - 1] + 1, before = cycles[place - 1] ?? own - 1;
      return u.valToPos((own + before) / 2, "x", true);
    };
    line.values.forEach((value, place) => {
      if (value === null || known([line.values[place - 1]]).length) return; // in the midst of one
      let end = place;
      while (known([line.values[end]]).length) end += 1;
      const from = edge(place);
      u.ctx.fillRect(from, u.valToPos(value, "y", true) - half, Math.max(1, edge(end) - from), 2 * half);
    });
    u.ctx.restore();
  }

  stroke(context, [x0, y0, x1, y1], colour, dash, width = 1) {
    context.save();
    context.strokeStyle = colour;
    context.lineWidth = width * devicePixelRatio;
    context.setLineDash(dash.map((length) => length * devicePixelRatio));
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
    context.stroke();
    context.restore();
  }

  keys() {
    const several = this.panel.runs.length > 1;
    const lines = this.lines.filter((line) => this.board.visible(line.run));
    const buttons = lines.map((line) => {
      const value = make("output", {});
      line.value = value;
      const key = make("span", { class: `key${line.dash.length ? " dashed" : ""}`, style: `--k:${theme.series(line.paint)}` });
      const toggle = () => { this.hidden.set(line.id, !this.hidden.get(line.id)); this.draw(); };
      return make("button", { type: "button", class: "chip", "aria-pressed": String(!this.hidden.get(line.id)), onclick: toggle }, key, line.name, " ", value);
    });
    const bands = this.panel.bands.map((band) => make("span", { class: "band" }, make("i", { class: band.high > band.low ? "" : "line" }), band.label));
    const focused = [...this.legend.children].indexOf(document.activeElement);
    this.legend.replaceChildren(...buttons, ...bands);
    if (focused >= 0) this.legend.children[focused]?.focus();
    const last = this.shown().map((line) => `${line.name} ${number(known(line.values).at(-1), this.panel.form)}`);
    this.plot.setAttribute("aria-label", `${this.panel.title}${several ? ", several runs" : ""}. Last: ${last.join(", ") || "nothing shown"}. Arrow keys read, plus and minus zoom, 0 shows all.`);
  }

  // Values at a cycle beside their names, or without one the last.
  read(cycle) {
    for (const line of this.lines) {
      if (!line.value) continue;
      const place = cycle === null ? -1 : nearest(line.cycles, cycle);
      const value = cycle === null ? known(line.values).at(-1) : line.values[place];
      line.value.textContent = this.panel.bars ? (value === null || value === undefined ? "closed" : "open") : number(cycle !== null && line.cycles[place] !== cycle ? null : value, this.panel.form);
    }
  }

  moved(u) {
    const place = u.cursor.idx;
    const cycle = place === null || place === undefined || u.cursor.left < 0 ? null : u.data[0][place];
    this.read(cycle);
    this.board.at(cycle);
  }

  selected(u) {
    if (u.select.width < 6) return;
    this.board.zoom([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  }

  key(event) {
    const cycles = this.uplot?.data[0];
    if (!cycles || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1, now = this.uplot.cursor.idx ?? -1;
    const to = { ArrowRight: now + step, ArrowLeft: now < 0 ? cycles.length - 1 : now - step, Home: 0, End: cycles.length - 1 }[event.key];
    if (to !== undefined) {
      const place = Math.min(cycles.length - 1, Math.max(0, to));
      this.uplot.setCursor({ left: this.uplot.valToPos(cycles[place], "x"), top: 1 });
      const values = this.shown().map((line) => `${line.name} ${line.value.textContent}`);
      say(`cycle ${cycles[place]}: ${values.join(", ")}`);
    } else if (event.key === "+" || event.key === "-") {
      this.board.scale(event.key === "+" ? 0.5 : 2, now < 0 ? null : cycles[now]);
    } else if (event.key === "0" || event.key === "Escape") {
      this.board.zoom(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  table() {
    if (!this.numbers.open) return;
    const form = this.panel.form, head = ["line", "first", "lowest", "highest", "last"];
    const rows = this.lines.map((line) => {
      const values = known(line.values), cells = [values[0], Math.min(...values), Math.max(...values), values.at(-1)];
      return make("tr", {}, make("th", { scope: "row" }, line.name), ...cells.map((value) => make("td", { class: "n" }, values.length ? number(value, form) : "–")));
    });
    const heads = head.map((text, place) => make("th", { scope: "col", class: place ? "n" : "" }, text));
    this.numbers.replaceChildren(this.numbers.firstElementChild, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)));
  }
}

// Of a logarithmic scale the powers of ten alone.
function decades(u, splits) { return splits.map((value) => (value && Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6 ? value : null)); }

function known(values) { return values.filter((value) => value !== null && value !== undefined); }

function nearest(cycles, cycle) {
  let best = 0;
  cycles.forEach((own, place) => { if (Math.abs(own - cycle) < Math.abs(cycles[best] - cycle)) best = place; });
  return best;
}
