// The arrays of one head: the whole ring, and one of its sub-tiles enlarged.
import { palette, prepared, percent, short, si, voltages, whenChanged, words } from "./drawing.js";

const byId = (id) => document.getElementById(id);
const KINDS = { int8: Int8Array, float32: Float32Array };

/** A picture of the server: header and numbers, see demonstrator/arrays.py. */
export const unpacked = (buffer) => {
  const size = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const found = { ...header };
  for (const [name, part] of Object.entries(header.parts)) {
    const count = part.shape.reduce((a, b) => a * b, 1);
    found[name] = new KINDS[part.type](buffer, 4 + size + part.at, count);
  }
  found.columns = header.parts.keys.shape[0];
  found.rows = header.parts.keys.shape[1];
  found.tileCount = header.parts.tiles.shape[0];
  return found;
};

export class Arrays {
  /** token(n): what token n of the whole text says, or undefined. */
  constructor(about, token) {
    this.about = about;
    this.token = token;
    this.picture = null;
    this.chosen = null; // a column, or null: that of the write pointer
    this.reach = { scores: 0, pulses: 0 };
    [this.ring, this.tile, this.readout, this.follow] =
      ["ring", "tile", "column-readout", "follow"].map(byId);
    this.ring.addEventListener("click", (event) => this.#choose(this.#columnAt(event.offsetX)));
    this.ring.addEventListener("pointermove", (event) => this.#tell(this.#columnAt(event.offsetX)));
    for (const canvas of [this.ring, this.tile]) canvas.addEventListener("pointerleave", () => { this.pointed = null; this.#tell(this.column); });
    this.tile.addEventListener("pointermove", (event) => this.#tell(...this.#cellAt(event.offsetX, event.offsetY)));
    this.ring.addEventListener("keydown", (event) => this.#step(event));
    this.follow.addEventListener("change", () => {
      this.chosen = this.follow.checked ? null : this.column;
      this.draw();
    });
    for (const canvas of [this.ring, this.tile]) whenChanged(canvas, () => this.draw());
  }

  get column() {
    return this.chosen ?? this.picture?.column ?? 0;
  }

  pointing() {
    return this.ring.matches(":hover") || this.tile.matches(":hover");
  }

  clear() {
    this.picture = null;
    this.reach = { scores: 0, pulses: 0 };
    this.readout.textContent = "";
    this.draw();
  }

  show(picture) {
    this.picture = picture;
    this.draw();
  }

  #choose(column) {
    if (!this.picture || column < 0 || column >= this.picture.columns) return;
    this.chosen = column;
    this.follow.checked = false;
    this.draw();
  }

  #step(event) {
    const { tile } = this.about;
    const by = { ArrowRight: 1, ArrowLeft: -1, PageDown: tile, PageUp: -tile }[event.key];
    if (!this.picture) return;
    const count = this.picture.columns;
    const end = { Home: 0, End: count - 1 }[event.key];
    if (by === undefined && end === undefined) return;
    event.preventDefault();
    this.#choose(end ?? (this.column + by + count) % count);
  }

  #columnAt(x) {
    if (!this.picture || !this.place) return -1;
    return Math.floor(((x - this.place.left) / this.place.width) * this.picture.columns);
  }

  #cellAt(x, y) {
    const at = this.squares?.find((one) => x >= one.left && x < one.left + one.width && y >= one.top && y < one.top + one.width);
    if (!at) return [-1];
    const [column, row] = [(x - at.left) / at.width, (y - at.top) / at.width];
    return [at.first + Math.floor(column * this.about.tile), Math.floor(row * this.picture.rows)];
  }

  #held(column) {
    return column < this.picture.held;
  }

  /** Number of the token that a column holds. */
  #tokenIn(column) {
    const { tokens, columns } = this.picture;
    const last = tokens - 1;
    return last - ((((last - column) % columns) + columns) % columns);
  }

  /** Say what a column, and a row of it, holds and does; remembered while the pointer stays. */
  #tell(column, row = null) {
    const p = this.picture;
    if (!p || !(column >= 0 && column < p.columns)) return;
    this.pointed = [column, row];
    if (!this.#held(column)) {
      this.readout.textContent = `Column ${column}: never written; its valid bit keeps it out.`;
      return;
    }
    const number = this.#tokenIn(column);
    const text = this.token(number);
    const age = p.ages[column];
    const left = p.retention_time === null ? 1 : Math.exp(-p.decayed[column] / p.retention_time);
    const volts = (name) => si((p[name][column * p.rows + row] / 127) * p.reach, "V");
    const cell = row === null ? "" : ` Row ${row}: key ${volts("keys")}, value ${volts("values")} about V_offset, query pulse ${si(p.query[row] * this.about.t_pulse_max, "s")}.`;
    const role = column === p.column ? " (just written)" : "";
    this.readout.textContent = `Column ${column}${role}: token ${number + 1}${text ? ` “${text.replaceAll("\n", "⏎")}”` : ""}, ` +
      `${age ? `written ${si(age, "s")} before, ${percent(left)} of its voltages left` : "age 0"}. ` +
      `Score ${short(p.scores[column])} charge units, pulse ${si(p.pulses[column] * this.about.t_pulse_max, "s")}.${cell}`;
  }

  draw() {
    this.colours = palette();
    const p = this.picture;
    if (p) {
      for (const name of ["scores", "pulses"]) {
        const largest = p[name].reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        this.reach[name] = Math.max(largest, this.reach[name] * 0.97, 1e-6);
      }
    }
    this.#drawRing();
    this.#drawTile();
    if (!p) return;
    this.#tell(...(this.pointed && this.pointing() ? this.pointed : [this.column]));
    const positive = p.pulses.reduce((a, b) => a + (b > 0), 0);
    byId("ring-of").textContent = `${p.held.toLocaleString("en")} of ${p.columns.toLocaleString("en")} columns hold a token` +
      (p.tokens > p.columns ? `; ${(p.tokens - p.columns).toLocaleString("en")} tokens were overwritten` : "") + `; ${positive.toLocaleString("en")} give a pulse`;
    this.ring.setAttribute("aria-label", `Arrays of layer ${p.layer}, head ${p.head} at token ${p.tokens}: column ${p.column} of ${p.columns} was written, ${p.held} hold a token, ${positive} give a pulse to the value array`);
  }

  #nothing(canvas, context, width, height) {
    context.strokeStyle = this.colours.rule;
    context.strokeRect(0.5, 0.5, width - 1, height - 1);
    words(context, "empty: write a text", width / 2, height / 2, this.colours.quiet, "center");
    canvas.setAttribute("aria-label", "The arrays are empty: no token yet");
  }

  #drawRing() {
    const { context, width, height } = prepared(this.ring);
    const p = this.picture;
    if (!p) return this.#nothing(this.ring, context, width, height);
    const c = this.colours;
    const side = width < 600 ? 44 : 76;
    const place = { left: side, width: width - 2 * side };
    this.place = place;
    const arrayHeight = (height - 190) / 2;
    const y = { keys: 32, scores: 32 + arrayHeight + 20, pulses: 0, values: 0 };
    y.pulses = y.scores + 56 + 18;
    y.values = y.pulses + 28 + 14;
    const scale = place.width / p.columns;
    const held = (column) => this.#held(column);
    context.imageSmoothingEnabled = scale < 1;
    context.imageSmoothingQuality = "high";
    for (const name of ["keys", "values"]) {
      const image = voltages(p[name], p.rows, 0, p.columns, held, c);
      context.drawImage(image, place.left, y[name], place.width, arrayHeight);
    }
    this.#bars(context, p.query, 0, place.left - 5, y.keys, side - 12, arrayHeight, 1, c.s3, true);
    const most = p.output.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-6);
    this.#bars(context, p.output, 0, place.left + place.width + 5, y.values, side - 12, arrayHeight, most, c.s1, false);
    this.#columns(context, p.scores, 0, p.columns, place, y.scores, 56, this.reach.scores, true);
    this.#columns(context, p.pulses, 0, p.columns, place, y.pulses, 28, this.reach.pulses, false);
    for (const name of ["keys", "scores", "pulses", "values"]) {
      words(context, name, place.left, y[name] - (name === "values" ? 3 : 5), c.quiet);
    }
    words(context, "query", place.left - 5, y.keys - 5, c.quiet, "right");
    words(context, "output", place.left + place.width + 5, y.values - 5, c.quiet);
    this.#saturation(context, place, y.scores, 56);
    words(context, short(this.reach.scores, 2), place.left - 5, y.scores + 8, c.quiet, "right");
    words(context, si(this.reach.pulses * this.about.t_pulse_max, "s").replace(/(\.\d)\d* /, "$1 "), place.left - 5, y.pulses + 9, c.quiet, "right");
    // sub-tiles, the enlarged one, and the write pointer
    const bottom = y.values + arrayHeight;
    const tile = Math.floor(this.column / this.about.tile);
    context.strokeStyle = c.quiet;
    context.lineWidth = 1;
    context.strokeRect(place.left + tile * this.about.tile * scale, y.keys - 0.5, this.about.tile * scale, bottom - y.keys + 1);
    const x = place.left + (p.column + 0.5) * scale;
    context.fillStyle = c.s5;
    context.fillRect(x - 0.75, y.keys - 3, 1.5, bottom - y.keys + 3);
    context.beginPath();
    context.moveTo(x, y.keys - 1);
    context.lineTo(x - 5, y.keys - 9);
    context.lineTo(x + 5, y.keys - 9);
    context.fill();
    const align = x < place.left + 60 ? "left" : x > place.left + place.width - 60 ? "right" : "center";
    words(context, `write pointer: column ${p.column}`, x, y.keys - 18, c.s5, align);
    if (this.chosen !== null) {
      context.strokeStyle = c.link;
      context.setLineDash([4, 3]);
      const at = place.left + (this.chosen + 0.5) * scale;
      context.strokeRect(at, y.keys, 0.01, bottom - y.keys);
      context.setLineDash([]);
    }
    for (let column = 0; column <= p.columns; column += p.columns / (width < 600 ? 2 : 4)) {
      if (column === 0) continue;
      words(context, `${column}`, place.left + column * scale, bottom + 14, c.quiet, "right");
    }
  }

  /** Numbers of columns as bars; several columns in one pixel show the largest and the lowest. */
  #columns(context, numbers, first, count, place, top, height, most, signed) {
    const c = this.colours;
    const scale = place.width / count;
    const zero = signed ? top + height / 2 : top + height;
    const unit = (signed ? height / 2 : height) / most;
    context.fillStyle = c.rule;
    context.fillRect(place.left, Math.round(zero), place.width, 1);
    for (let column = 0; column < count; column++) {
      const number = numbers[first + column];
      if (!this.#held(first + column) || !number) continue;
      context.fillStyle = number > 0 ? c.s1 : c.s2;
      const tall = Math.min(Math.abs(number), most) * unit;
      const x = place.left + column * scale;
      context.fillRect(x, number > 0 ? zero - tall : zero, Math.max(scale - (scale > 3 ? 1 : 0), 0.8), Math.max(tall, 0.5));
    }
  }

  /** A line at the score from which pulses are full, where it is in sight. */
  #saturation(context, place, top, height) {
    const share = this.picture.score_saturation / this.reach.scores;
    if (this.picture.score_saturation === null || share > 1) return;
    context.fillStyle = this.colours.quiet;
    const at = Math.round(top + (height / 2) * (1 - share));
    for (let x = place.left; x < place.left + place.width; x += 8) context.fillRect(x, at, 4, 1);
    words(context, "full", place.left + place.width + 5, at + 4, this.colours.quiet);
  }

  /** Numbers of rows as bars beside an array, growing away from it; negative ones in the other colour. */
  #bars(context, numbers, first, x, top, width, height, most, colour, leftwards) {
    const rows = this.picture.rows;
    const step = height / rows;
    for (let row = 0; row < rows; row++) {
      const number = numbers[first + row];
      const long = Math.min(1, Math.abs(number) / most) * width;
      context.fillStyle = number < 0 ? this.colours.s2 : colour;
      context.fillRect(leftwards ? x - long : x, top + row * step, long, Math.max(step - (step > 3 ? 1 : 0), 0.8));
    }
  }

  #drawTile() {
    const { context, width, height } = prepared(this.tile);
    const p = this.picture;
    const { tile } = this.about;
    const number = Math.floor(this.column / tile);
    byId("tile-of").textContent = p ? `${number} of 0 to ${p.columns / tile - 1}: columns ${number * tile} to ${(number + 1) * tile - 1}` : "";
    if (!p) return this.#nothing(this.tile, context, width, height);
    const c = this.colours;
    const stacked = width < 700;
    const side = stacked ? 40 : 64;
    const gap = 36;
    const size = stacked
      ? Math.min(width - 2 * side, (height - 2 * 58 - gap - 60) / 2)
      : Math.min((width - 2 * side - gap) / 2, height - 58 - 44);
    const keys = { left: side, top: 22, width: size };
    const values = stacked ? { left: side, top: 22 + size + 58 + gap + 44, width: size } : { left: side + size + gap, top: 22 + 44, width: size };
    const first = number * tile;
    const held = (column) => this.#held(column);
    context.imageSmoothingEnabled = p.rows > size;
    for (const [name, at] of [["keys", keys], ["values", values]]) {
      context.drawImage(voltages(p[name], p.rows, first, tile, held, c), at.left, at.top, size, size);
      context.strokeStyle = c.rule;
      context.strokeRect(at.left - 0.5, at.top - 0.5, size + 1, size + 1);
    }
    this.#bars(context, p.query, 0, keys.left - 5, keys.top, side - 10, size, 1, c.s3, true);
    this.#columns(context, p.scores, first, tile, keys, keys.top + size + 20, 36, this.reach.scores, true);
    this.#columns(context, p.pulses, first, tile, values, values.top - 44, 36, this.reach.pulses, false);
    const full = p.tiles.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-6); // of all sub-tiles
    this.#bars(context, p.tiles, number * p.rows, values.left + size + 5, values.top, side - 10, size, full, c.s1, false);
    this.squares = [{ ...keys, first }, { ...values, first }];
    words(context, "keys", keys.left, keys.top - 6, c.quiet);
    words(context, "query", keys.left - 5, keys.top - 6, c.quiet, "right");
    words(context, "scores", keys.left, keys.top + size + 15, c.quiet);
    words(context, "pulses", values.left, values.top - 50, c.quiet);
    words(context, "values", values.left, values.top + size + 15, c.quiet);
    words(context, "counts", values.left + size + 5, values.top - 6, c.quiet);
    if (Math.floor(p.column / tile) === number) {
      const cell = size / tile;
      context.strokeStyle = c.s5;
      context.lineWidth = 1.5;
      for (const at of [keys, values]) context.strokeRect(at.left + (p.column - first) * cell - 0.5, at.top - 1, cell + 1, size + 2);
    }
    this.tile.setAttribute("aria-label", `Sub-tile ${number}: keys and values of columns ${first} to ${first + tile - 1}, with query pulses, scores, pulses and counts`);
  }
}
