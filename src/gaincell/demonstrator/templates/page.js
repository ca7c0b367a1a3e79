// The page: its session on the server, the form, the sliders, and what comes back.
import { Arrays, unpacked } from "./arrays.js";
import { percent, si } from "./drawing.js";
import { Texts } from "./texts.js";
import "./script.js"; // of the reports: colours as the system says, or as chosen and remembered

const byId = (id) => document.getElementById(id);
const KEPT = "gaincell-page";
const FIELDS = ["tokens", "temperature", "seed"]; // that a reload finds as they were
const FRAME = 90; // milliseconds between two pictures of the arrays, at least
const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });

class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const call = async (method, path, body, options = {}) => {
  const answer = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
    ...options,
  });
  if (!answer.ok) {
    const found = await answer.json().catch(() => ({}));
    throw new Refused(found.error ?? `the server answered ${answer.status}`, answer.status);
  }
  return answer;
};

const tell = (message, bad = false) => {
  const status = byId("status");
  status.textContent = message;
  status.classList.toggle("bad", bad);
};

// Sliders: places 0 to 1000, and the numbers they stand for.
const logarithmic = (low, high, zero = false) => ({
  number: (place) => (zero && place === 0 ? 0 : low * (high / low) ** (place / 1000)),
  place: (number) => (number <= low ? 0 : Math.round((1000 * Math.log(number / low)) / Math.log(high / low))),
});
const square = (high) => ({
  number: (place) => high * (place / 1000) ** 2,
  place: (number) => Math.round(1000 * Math.sqrt(number / high)),
});
const rounded = (number) => Number(number.toPrecision(3));

class Sliders {
  constructor(about, changed) {
    const { ranges } = about;
    const [low, high] = ranges.retention_time;
    this.designed = about.chip;
    this.chip = { ...about.chip };
    this.kinds = {
      retention_time: { ...logarithmic(Math.max(low, 1e-6), high), say: (t) => (t >= about.no_decay ? "no leakage" : si(t, "s")) },
      idle: { ...logarithmic(1e-8, ranges.idle[1], true), say: (t) => si(t, "s") },
      mismatch: { ...square(ranges.mismatch[1]), say: percent },
      noise: { ...square(ranges.noise[1]), say: percent },
    };
    for (const name of Object.keys(this.kinds)) {
      byId(name).addEventListener("input", () => {
        const found = rounded(this.kinds[name].number(Number(byId(name).value)));
        const [least, most] = ranges[name];
        this.chip[name] = Math.min(most, Math.max(least, found));
        this.#say(name);
        changed();
      });
    }
    byId("reset").addEventListener("click", () => { this.set(this.designed); changed(); });
    this.set(this.chip);
  }

  set(chip) {
    this.chip = { ...chip };
    for (const [name, kind] of Object.entries(this.kinds)) {
      byId(name).value = kind.place(chip[name]);
      this.#say(name);
    }
  }

  #say(name) {
    const text = this.kinds[name].say(this.chip[name]);
    const output = byId(`${name}-value`);
    output.textContent = text;
    output.classList.toggle("changed", this.chip[name] !== this.designed[name]);
    byId(name).setAttribute("aria-valuetext", text);
  }
}

class Page {
  constructor(about) {
    this.about = about;
    this.id = null;
    this.run = 0;
    this.seen = 0;
    this.pieces = []; // text of the prompt's last tokens
    this.promptTokens = 0;
    this.texts = new Texts(about);
    this.arrays = new Arrays(about, (n) => this.token(n));
    this.sliders = new Sliders(about, () => this.sendChip());
    this.sending = null;
    this.picking = new AbortController();
    this.#controls();
  }

  /** What token n of the whole text says. */
  token(n) {
    if (n >= this.promptTokens) return this.texts.events[n - this.promptTokens]?.hardware;
    return this.pieces[n - (this.promptTokens - this.pieces.length)];
  }

  #controls() {
    byId("form").addEventListener("submit", (event) => { event.preventDefault(); this.write(); });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); this.write(); }
    });
    byId("stop").addEventListener("click", () => this.#ask("DELETE", "text"));
    byId("rest").addEventListener("click", () => this.#ask("POST", "rest"));
    for (const name of FIELDS) {
      try { byId(name).value = sessionStorage.getItem(`${KEPT}-${name}`) ?? byId(name).value; } catch { /* not kept */ }
      byId(name).addEventListener("input", () => {
        try { sessionStorage.setItem(`${KEPT}-${name}`, byId(name).value); } catch { /* as above */ }
      });
    }
    const layer = byId("layer");
    const head = byId("head");
    const fill = (select, count, kept) => {
      select.replaceChildren(...Array.from({ length: count }, (_, n) => new Option(n, n)));
      select.value = Math.min(kept, count - 1);
    };
    fill(layer, this.about.layers, 0);
    fill(head, this.about.heads[0], 0);
    layer.addEventListener("change", () => {
      fill(head, this.about.heads[Number(layer.value)], Number(head.value));
      this.#pick();
    });
    head.addEventListener("change", () => this.#pick());
  }

  #pick() {
    this.arrays.reach = { scores: 0, pulses: 0 };
    this.shown = null;
    this.picking.abort();
  }

  async #ask(method, what, body) {
    try {
      await call(method, `/api/pages/${this.id}/${what}`, body);
    } catch (error) {
      tell(`${error.message}`, true);
    }
  }

  /** Find this page's session again after a reload, or open a new one. */
  async join() {
    let kept = null;
    try { kept = sessionStorage.getItem(KEPT); } catch { /* no storage: a reload begins anew */ }
    let found = null;
    if (kept) found = await call("GET", `/api/pages/${kept}`).then((a) => a.json()).catch(() => null);
    if (found) {
      this.id = kept;
      this.sliders.set(found.chip);
      return;
    }
    this.id = (await (await call("POST", "/api/pages")).json()).id;
    try { sessionStorage.setItem(KEPT, this.id); } catch { /* as above */ }
    this.run = this.seen = 0;
    if (kept) this.sendChip();
  }

  async write() {
    const number = (id) => Number(byId(id).value);
    const wanted = {
      prompt: byId("prompt").value,
      tokens: number("tokens"),
      temperature: number("temperature"),
      seed: number("seed"),
    };
    if (!wanted.prompt.trim()) {
      tell("The prompt is empty: type what the text shall begin with.", true);
      byId("prompt").focus();
      return;
    }
    const wrong = ["tokens", "temperature", "seed"].map(byId).find((field) => field.value === "" || !field.validity.valid);
    if (wrong) {
      tell(`${wrong.labels[0].textContent.trim()}: a${wrong.id === "temperature" ? "" : " whole"} number from ${wrong.min} to ${wrong.max}.`, true);
      wrong.focus();
      return;
    }
    const most = this.about.limits.characters;
    if (wanted.prompt.length > most) {
      tell(`The prompt has ${wanted.prompt.length.toLocaleString("en")} characters; up to ${most.toLocaleString("en")} are read. Shorten it.`, true);
      return;
    }
    byId("write").disabled = true;
    try {
      await this.sending;
      await call("POST", `/api/pages/${this.id}/text`, wanted);
    } catch (error) {
      tell(`${error.message}.`, true);
    } finally {
      byId("write").disabled = false;
    }
  }

  /** Send the sliders; while one message is under way, only the latest position waits. */
  sendChip() {
    this.newest = { ...this.sliders.chip };
    this.sending ??= this.#sendAll().finally(() => { this.sending = null; });
  }

  async #sendAll() {
    while (this.newest) {
      const chip = this.newest;
      this.newest = null;
      await this.#ask("PUT", "chip", chip);
    }
  }

  async listen() {
    for (;;) {
      try {
        const path = `/api/pages/${this.id}/news?run=${this.run}&after=${this.seen}&state=${this.state ?? ""}`;
        this.#take(await (await call("GET", path)).json());
      } catch (error) {
        await this.#lost(error);
      }
    }
  }

  async #lost(error) {
    if (error instanceof Refused && error.status === 404) {
      tell("This page was away for too long; its text was freed. Write again.", true);
      await this.join().catch((again) => tell(`${again.message}.`, true));
    } else {
      tell("The server does not answer; trying again.", true);
    }
    await pause(1000);
  }

  #take(news) {
    if (news.run !== this.run || news.first !== this.seen) {
      this.texts.clear();
      this.arrays.clear();
      [this.run, this.seen] = [news.run, news.first];
      this.#pick();
    }
    this.seen += news.events.length;
    const tokens = [];
    let failure = null;
    for (const event of news.events) {
      if (event.kind === "prompt") this.#begin(event);
      if (event.kind === "reading") this.read = event.done;
      if (event.kind === "token") tokens.push(event);
      if (event.kind === "failed") failure = event.message;
    }
    if (tokens.length) this.texts.add(tokens);
    this.#report(news.state, failure);
  }

  #begin(event) {
    this.prompt = event;
    this.read = 0;
    this.pieces = event.pieces;
    this.promptTokens = event.of;
    if (event.text !== byId("prompt").value && !byId("prompt").matches(":focus")) byId("prompt").value = event.text;
    this.texts.begin(event);
  }

  #report(state, failure) {
    const busy = state === "reading" || state === "writing";
    const bar = byId("progress");
    this.state = state;
    byId("stop").disabled = !busy;
    byId("write").textContent = busy ? "Write anew" : "Write";
    bar.hidden = !busy;
    if (failure) return tell(`Stopped: ${failure}.`, true);
    if (state === "empty" || !this.prompt) return undefined;
    const written = this.texts.events.length;
    const { of, tokens, overwritten, cut } = this.prompt;
    bar.value = state === "reading" ? (this.read ?? 0) / of : written / tokens;
    const more = [
      cut,
      overwritten && `the prompt has ${of.toLocaleString("en")} tokens, the ring ${this.about.window.toLocaleString("en")} columns: its first ${overwritten.toLocaleString("en")} tokens are overwritten`,
    ].filter(Boolean).map((text) => ` ${text[0].toUpperCase()}${text.slice(1)}.`).join("");
    const what = {
      reading: `Reading the prompt: ${(this.read ?? 0).toLocaleString("en")} of ${of.toLocaleString("en")} tokens.`,
      writing: `Writing ${tokens.toLocaleString("en")} tokens.`,
      done: `Done: ${written.toLocaleString("en")} tokens.`,
      stopped: `Stopped after ${written.toLocaleString("en")} tokens.`,
    }[state];
    if (what) tell(what + more);
    return undefined;
  }

  /** Ask for pictures of the arrays, one after the other, while the page can be seen. */
  async watch() {
    for (;;) {
      if (document.hidden) await new Promise((done) => { document.addEventListener("visibilitychange", done, { once: true }); });
      this.picking = new AbortController();
      const { signal } = this.picking;
      const [run, layer, head] = [this.run, byId("layer").value, byId("head").value];
      const after = this.shown ?? -1;
      try {
        const path = `/api/pages/${this.id}/arrays?run=${run}&after=${after}&layer=${layer}&head=${head}`;
        const answer = await call("GET", path, undefined, { signal });
        if (answer.status === 200) {
          const picture = unpacked(await answer.arrayBuffer());
          if (run === this.run && !signal.aborted) {
            this.shown = picture.step;
            this.arrays.show(picture);
          }
        }
        await pause(FRAME);
      } catch (error) {
        if (error instanceof Refused && error.status === 400) byId("column-readout").textContent = error.message;
        if (!signal.aborted) await pause(1000); // `listen` says what else is wrong
      }
    }
  }
}

const describe = (about) => {
  const { design, layers, heads, kv_heads: kv, window } = about;
  document.title = `${about.model} on ${design.name}: gaincell`;
  byId("title").textContent = `${about.model} on ${design.name}`;
  const seen = about.own_windows ? "the model’s own windows" : `the last ${window.toLocaleString("en")} tokens`;
  byId("lead").textContent = `Two models write, token by token. Hardware: attention in simulated gain-cell arrays, from ${about.origin}. ` +
    `Software: the pretrained model as it is, with softmax attention over ${seen}; training that only the hardware had is part of ` +
    `what sets them apart. ${layers} layers of ${heads[0]} query and ${kv} key/value heads, ` +
    `${design.cell} cells, rings of ${window.toLocaleString("en")} columns.`;
  byId("hardware-of").textContent = `${design.cell} gain cells`;
  byId("energy-note").textContent = about.activity === null
    ? "Energy is not modelled for this chip. Chip time is that of attention alone."
    : `Energy: attention of the last token in all heads, bottom-up for the chip as designed (the sliders do not change it), ` +
      `with the activity of this model on this chip on the text ${about.activity}. Chip time is that of attention alone.`;
  const reach = about.reach;
  byId("scale-low").textContent = `−${si(reach, "V")}`;
  byId("scale-high").textContent = `+${si(reach, "V")}`;
  byId("tokens").max = about.limits.tokens;
  byId("temperature").max = about.limits.temperature;
};

const main = async () => {
  let about = null;
  while (about === null) {
    about = await call("GET", "/api/about").then((answer) => answer.json()).catch(() => null);
    if (about === null) { tell("The server does not answer; trying again.", true); await pause(1000); }
  }
  describe(about);
  const page = new Page(about);
  for (;;) {
    try { await page.join(); break; } catch (error) { tell(`${error.message}.`, true); await pause(3000); }
  }
  page.listen();
  page.watch();
};

main();
