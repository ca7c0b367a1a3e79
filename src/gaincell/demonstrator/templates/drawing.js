// Numbers as words, colours of the theme, and canvases as sharp as the screen.

const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"], [1e-15, "f"]];

export const short = (number, digits = 3) =>
  Number(number.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");

export const si = (number, unit) => {
  if (number === 0) return `0 ${unit}`;
  const [scale, prefix] = PREFIXES.find(([s]) => Math.abs(number) >= 0.9995 * s) ?? PREFIXES.at(-1);
  return `${short(number / scale)} ${prefix}${unit}`;
};

export const percent = (share) => `${short(share * 100)} %`;

/** The colour of a custom property as [red, green, blue]. */
const channels = (name) => {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
};

/** Colours of the present theme: by name, and of stored voltages from -127 to 127 (place 0 is -127). */
export const palette = () => {
  const names = ["paper", "panel", "ink", "quiet", "rule", "grid", "s1", "s2", "s3", "s5", "link"];
  const named = Object.fromEntries(names.map((name) => [name, channels(`--${name}`)]));
  const css = Object.fromEntries(names.map((name) => [name, `rgb(${named[name].join(" ")})`]));
  const volts = new Uint8ClampedArray(255 * 3);
  for (let level = -127; level <= 127; level++) {
    const end = level < 0 ? named.s2 : named.s1;
    const share = Math.abs(level) / 127;
    for (let c = 0; c < 3; c++) {
      volts[(level + 127) * 3 + c] = named.panel[c] + share * (end[c] - named.panel[c]);
    }
  }
  return { ...css, volts, empty: named.grid };
};

/** A cleared context in CSS pixels, its size taken from the style sheet. */
export const prepared = (canvas) => {
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const family = getComputedStyle(document.body).fontFamily;
  context.font = `12px ${family}`;
  context.textBaseline = "alphabetic";
  return { context, width, height };
};

export const words = (context, text, x, y, colour, align = "left") => {
  context.fillStyle = colour;
  context.textAlign = align;
  context.fillText(text, x, y);
};

/** Stored voltages of columns [first, first + count) as a picture, rows from top to bottom. */
export const voltages = (levels, rows, first, count, held, colours) => {
  const made = new OffscreenCanvas(count, rows);
  const context = made.getContext("2d");
  const image = context.createImageData(count, rows);
  for (let c = 0; c < count; c++) {
    for (let r = 0; r < rows; r++) {
      const at = 4 * (r * count + c);
      const from = held(first + c) ? null : colours.empty;
      const level = (levels[(first + c) * rows + r] + 127) * 3;
      for (let n = 0; n < 3; n++) image.data[at + n] = from ? from[n] : colours.volts[level + n];
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return made;
};

/** Calls `draw` when the theme or the size of an element changes. */
export const whenChanged = (element, draw) => {
  new ResizeObserver(draw).observe(element);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
};
