// The two texts, their numbers, and how far the models are apart.
import { palette, percent, prepared, short, si, whenChanged, words } from "./drawing.js";

const SHADES = [0.05, 0.15, 0.4, 1, 2]; // bits from which a token is shaded more
const GIVEN = 400; // characters of the prompt that are shown

const byId = (id) => document.getElementById(id);
const element = (tag, text, className = "") => {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
};
const quoted = (text) => (text.trim() ? `“${text}”` : text ? `“${text.replaceAll("\n", "⏎")}”` : "(part of a character)");

export class Texts {
  constructor(about) {
    this.about = about;
    this.sides = { hardware: byId("hardware"), software: byId("software") };
    this.chart = byId("divergence");
    this.readout = byId("token-readout");
    this.clear();
    for (const [name, panel] of Object.entries(this.sides)) this.#listen(name, panel);
    this.chart.addEventListener("pointermove", (event) => this.#point(this.#tokenAt(event.offsetX)));
    this.chart.addEventListener("keydown", (event) => this.#step(event));
    whenChanged(this.chart, () => this.draw());
  }

  clear() {
    this.events = [];
    this.prompt = null;
    this.now = -1;
    this.apart = false;
    for (const panel of Object.values(this.sides)) panel.replaceChildren();
    this.readout.textContent = "Point at a token, or step through a text with the arrow keys.";
    this.#numbers();
    this.draw();
  }

  /** The prompt's event: what the text begins with. */
  begin(event) {
    this.prompt = event;
    const text = event.text;
    const shown = text.length > GIVEN ? `… ${text.slice(-GIVEN)}` : text;
    for (const panel of Object.values(this.sides)) panel.append(element("span", shown, "given"));
  }

  /** Tokens of a text, in their order. */
  add(events) {
    for (const event of events) {
      const n = this.events.push(event) - 1;
      const shade = SHADES.filter((bits) => event.bits >= bits).length;
      const parts = !event.same && !this.apart ? " apart" : "";
      this.apart ||= !event.same;
      this.#append("hardware", event.hardware, n, (shade ? `b${shade}` : "") + parts);
      this.#append("software", event.software, n, parts);
    }
    this.#numbers();
    this.draw();
  }

  #append(name, text, n, className) {
    const panel = this.sides[name];
    const low = panel.scrollHeight - panel.scrollTop - panel.clientHeight < 40;
    const made = element("i", text, className.trim());
    made.dataset.n = n;
    panel.append(made);
    if (low) panel.scrollTop = panel.scrollHeight;
  }

  #numbers() {
    const last = this.events.at(-1);
    const measured = ["m", "measured"];
    const simulated = ["s", "simulated"];
    const apart = this.events.findIndex((event) => !event.same);
    this.#list("hardware-numbers", [
      ["tokens a second", last && short(last.rates[0]), measured],
      ["chip time, attention only", last && si(last.chip_time, "s"), simulated],
      ["attention energy per token", last && (last.energy === null ? "not modelled" : si(last.energy, "J")), simulated],
      ["mean distance", last && `${short(last.mean_bits, 2)} bits`, simulated],
    ]);
    this.#list("software-numbers", [
      ["tokens a second", last && short(last.rates[1]), measured],
      ["same text for", last && `${apart < 0 ? this.events.length : apart} tokens`, simulated],
    ]);
  }

  #list(id, rows) {
    const made = rows.map(([name, number, [letter, kind]]) => {
      const dd = element("dd", number ?? "–");
      if (number !== undefined) {
        const mark = element("abbr", letter, kind);
        mark.title = kind;
        dd.append(" ", mark);
      }
      const div = document.createElement("div");
      div.append(element("dt", name), dd);
      return div;
    });
    byId(id).replaceChildren(...made);
  }

  #listen(name, panel) {
    panel.addEventListener("pointerover", (event) => {
      if (event.target.dataset.n !== undefined) this.#point(Number(event.target.dataset.n));
    });
    panel.addEventListener("keydown", (event) => this.#step(event));
  }

  #step(event) {
    const by = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10 }[event.key];
    const end = { Home: 0, End: this.events.length - 1 }[event.key];
    if ((by === undefined && end === undefined) || !this.events.length) return;
    event.preventDefault();
    this.#point(Math.min(this.events.length - 1, Math.max(0, end ?? this.now + by)), true);
  }

  /** Tell about a token. */
  #point(n, scroll = false) {
    if (!(n in this.events)) return;
    for (const mark of document.querySelectorAll(".text .now")) mark.classList.remove("now");
    this.now = n;
    for (const panel of Object.values(this.sides)) {
      const mark = panel.querySelector(`[data-n="${n}"]`);
      mark.classList.add("now");
      if (scroll) mark.scrollIntoView({ block: "nearest" });
    }
    const event = this.events[n];
    const other = event.same ? "the same in software" : `in software ${quoted(event.software)}`;
    this.readout.textContent = `Token ${n + 1}: ${quoted(event.hardware)}, ${other}. Probability on the hardware's text: ` +
      `hardware ${percent(event.p_hardware)}, software ${percent(event.p_software)}, which finds ` +
      `${quoted(event.likeliest)} likeliest. Distance ${short(event.bits)} bits.`;
    this.draw();
  }

  #tokenAt(x) {
    const { left, step } = this.scale;
    return Math.floor((x - left) / step);
  }

  draw() {
    const colours = palette();
    const { context, width, height } = prepared(this.chart);
    const [left, right, top, bottom] = [42, width - 4, 14, height - 20];
    const count = this.events.length;
    const step = (right - left) / Math.max(count, 60);
    const most = Math.max(0.5, ...this.events.map((event) => event.bits)) * 1.08;
    const y = (bits) => bottom - (bits / most) * (bottom - top);
    this.scale = { left, step };
    const unit = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((one) => most / one <= 4) ?? 50;
    for (let bits = 0; bits <= most; bits += unit) {
      context.fillStyle = colours.grid;
      context.fillRect(left, Math.round(y(bits)), right - left, 1);
      words(context, short(bits, 2), left - 6, y(bits) + 4, colours.quiet, "right");
    }
    words(context, "bits", left - 6, 10, colours.quiet, "right");
    this.events.forEach((event, n) => {
      context.fillStyle = n === this.now ? colours.ink : colours.s2;
      const tall = Math.max(1, bottom - y(event.bits));
      context.fillRect(left + n * step, bottom - tall, Math.max(1, step - (step > 4 ? 1 : 0)), tall);
      if (event.changed) {
        context.fillStyle = colours.link;
        for (let at = top; at < bottom; at += 6) context.fillRect(Math.round(left + n * step), at, 1, 3);
      }
    });
    words(context, "1", left, height - 5, colours.quiet);
    words(context, count ? `token ${count}` : "token", Math.min(right, Math.max(left + 70, left + count * step)), height - 5, colours.quiet, "right");
    const worst = this.events.reduce((a, event) => Math.max(a, event.bits), 0);
    this.chart.setAttribute("aria-label", count
      ? `Distance of ${count} tokens: mean ${short(this.events.at(-1).mean_bits)} bits, largest ${short(worst)} bits. Arrow keys step through the tokens.`
      : "Distance of the tokens: none yet");
  }
}
