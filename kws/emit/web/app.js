
(() => {

/* ---- What is known of the run, and the page's parts ---- */

const data = JSON.parse(document.getElementById("data").textContent);
const part = (id) => document.getElementById(id);
const RATE = data.sample_rate;
const FRAMES_A_SECOND = RATE / data.hop;
const MAX_FILE_BYTES = 200e6;
const MAX_SECONDS = 3600;
const MAX_ROWS = 200;           // events on the page
const MAX_DECISIONS = 100000;   // kept for the table
const SILENCE_AFTER_S = 1;      // of a recording
const BEHIND_S = 2;             // a microphone's sound older than this is dropped
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const darkness = matchMedia("(prefers-color-scheme: dark)");

function named(label) {
  return label.startsWith("_") ? label.replaceAll("_", "") : label;
}

/* ---- The engine: the firmware as WebAssembly (firmware/host/web_host.h) ---- */

class Engine {
  constructor(exports) {
    this.c = exports;
    this.room = exports.web_room();
    this.samples = new Int16Array(exports.memory.buffer, exports.web_samples(), this.room);
    this.delta = Array.from({ length: exports.web_delta_count() }, (_, i) => ({
      kind: String.fromCharCode(exports.web_delta_kind(i)),
      layer: exports.web_delta_layer(i),
      macs: exports.web_delta_macs(i),
      elements: exports.web_delta_elements(i),
    }));
  }

  static async load() {
    const text = atob(part("module").textContent.trim());
    const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
    return new Engine((await WebAssembly.instantiate(bytes, {})).instance.exports);
  }

  /* A new stream. Throws where the self-test's clip gives other logits than the PC's. */
  start() {
    const status = this.c.web_start();
    if (status !== 0) throw new Error("The self-test failed (" + status + ").");
  }

  /* Hear int16 samples; `on` gets what becomes complete. */
  hear(samples, on) {
    for (let at = 0; at < samples.length; at += this.room) {
      const block = samples.subarray(at, at + this.room);
      this.samples.set(block);
      const begin = performance.now();
      const done = this.c.web_hear(block.length);
      if (done & 1) on.frame(this.view(this.c.web_frame(), data.mel_bins));
      if (done & 2) {
        const logits = this.view(this.c.web_logits(), data.labels.length).slice();
        const scores = data.labels.map((_, i) => this.c.web_score(i));
        on.decision(logits, scores, performance.now() - begin);
      }
      if (done & 4) {
        on.event(data.labels[this.c.web_event_label()],
          this.c.web_event_score() / data.one, Number(this.c.web_event_time_ms()) / 1000);
      }
    }
  }

  view(address, length) {
    return new Int8Array(this.c.memory.buffer, address, length);
  }

  setThreshold(label, level) {
    return this.c.web_set_threshold(label, Math.round(level * data.one)) === 1;
  }

  /* The products that skip, and what each transmitted in the last decision. */
  skipped() {
    return this.delta.map((product, i) => ({ ...product, sent: this.c.web_delta_sent(i) }));
  }
}

/* What products left out: the share of their elements, each counted `weight` times. */
function leftOut(products, weight) {
  let all = 0, sent = 0;
  for (const product of products) {
    all += weight(product) * product.elements;
    sent += weight(product) * product.sent;
  }
  return all ? 1 - sent / all : 0;
}

const byMacs = (product) => product.macs;
const byElements = () => 1;

/* ---- Sound: any rate to 16 kHz, and WAV files to samples ---- */

/* A low-pass filter and a new rate in one: a sinc under a Kaiser window, worked out for
 * each of the positions that an output sample can have between two input samples. */
class Resampler {
  static CROSSINGS = 48;   // of the sinc, to each side
  static CUTOFF_HZ = 7800; // its middle, where the input's rate is above 16 kHz
  static BETA = 7;

  constructor(rate) {
    const divisor = (a, b) => (b ? divisor(b, a % b) : a);
    const common = divisor(RATE, rate);
    this.phases = RATE / common;
    this.step = rate / common;
    this.phase = 0;
    const cutoff = Math.min(Resampler.CUTOFF_HZ, 0.4875 * rate) / rate; // in cycles
    this.half = Math.ceil(Resampler.CROSSINGS / (2 * cutoff));
    this.taps = Array.from({ length: this.phases }, (_, phase) => {
      const taps = new Float64Array(2 * this.half);
      let sum = 0;
      for (let i = 0; i < taps.length; i++) {
        const x = i - this.half + 1 - phase / this.phases;
        const turn = 2 * Math.PI * cutoff * x;
        const inside = Math.max(0, 1 - (x / this.half) ** 2);
        taps[i] = (turn === 0 ? 1 : Math.sin(turn) / turn)
          * bessel(Resampler.BETA * Math.sqrt(inside));
        sum += taps[i];
      }
      return taps.map((tap) => tap / sum);
    });
    this.rest = new Float64Array(this.half - 1); // the first sample lies in the middle
  }

  /* Float samples, -1 to 1, of the stream -> int16 at 16 kHz. */
  push(block) {
    const input = new Float64Array(this.rest.length + block.length);
    input.set(this.rest);
    input.set(block, this.rest.length);
    const out = [];
    let at = 0;
    while (at + 2 * this.half <= input.length) {
      const taps = this.taps[this.phase];
      let sum = 0;
      for (let i = 0; i < taps.length; i++) sum += taps[i] * input[at + i];
      out.push(toInt16(sum));
      this.phase += this.step;
      at += Math.floor(this.phase / this.phases);
      this.phase %= this.phases;
    }
    this.rest = input.slice(at);
    return Int16Array.from(out);
  }

  /* What is still inside, at a stream's end. */
  end() {
    return this.push(new Float64Array(this.half));
  }
}

/* The modified Bessel function of order 0. */
function bessel(x) {
  let sum = 1, term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

function toInt16(value) {
  return Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
}

/* A WAV file -> { rate, samples }: float32, channels averaged; null where it is none. */
function readWav(buffer) {
  const view = new DataView(buffer);
  const word = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  if (buffer.byteLength < 44 || word(0) !== "RIFF" || word(8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= buffer.byteLength;) {
    const name = word(at), start = at + 8;
    const size = Math.min(view.getUint32(at + 4, true), buffer.byteLength - start);
    if (name === "fmt " && size >= 16) {
      let tag = view.getUint16(start, true);
      if (tag === 0xfffe && size >= 26) tag = view.getUint16(start + 24, true);
      format = { tag, channels: view.getUint16(start + 2, true),
        rate: view.getUint32(start + 4, true), bits: view.getUint16(start + 14, true) };
    }
    if (name === "data" && format) return readSamples(view, start, size, format);
    at = start + size + (size & 1);
  }
  return null;
}

const READERS = {
  "1 8": (view, at) => (view.getUint8(at) - 128) / 128,
  "1 16": (view, at) => view.getInt16(at, true) / 32768,
  "1 24": (view, at) =>
    (view.getInt16(at + 1, true) * 256 + view.getUint8(at)) / 8388608,
  "1 32": (view, at) => view.getInt32(at, true) / 2147483648,
  "3 32": (view, at) => view.getFloat32(at, true),
  "3 64": (view, at) => view.getFloat64(at, true),
};

function readSamples(view, start, size, { tag, channels, rate, bits }) {
  const read = READERS[tag + " " + bits];
  if (!read || channels < 1 || rate < 8000 || rate > 192000) return null;
  const wide = bits / 8;
  const count = Math.floor(size / (wide * channels));
  if (count > MAX_SECONDS * rate) throw new Error("A recording may last an hour.");
  const samples = new Float32Array(count);
  for (let i = 0, at = start; i < count; i++) {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++, at += wide) sum += read(view, at);
    samples[i] = Number.isFinite(sum) ? sum / channels : 0;
  }
  return { rate, samples };
}

/* The same of any file: WAV is read here, what else it may be by the browser. */
async function readFile(file) {
  if (file.size > MAX_FILE_BYTES) throw new Error("A file may have 200 MB.");
  const buffer = await file.arrayBuffer();
  const sound = readWav(buffer);
  if (sound !== null) return { ...sound, how: "" };
  const context = new OfflineAudioContext(1, 1, 48000);
  const decoded = await context.decodeAudioData(buffer).catch(() => null);
  if (decoded === null) throw new Error("This browser can't read " + file.name + ".");
  if (decoded.duration > MAX_SECONDS) throw new Error("A recording may last an hour.");
  const channels = Array.from({ length: decoded.numberOfChannels },
    (_, i) => decoded.getChannelData(i));
  const samples = channels[0].map(
    (_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
  return { rate: 48000, samples, how: ", decoded by the browser" };
}

/* ---- Sources: each has stop() ---- */

async function microphone(app) {
  let resampler = null;
  const { context, track, close } = await openMicrophone(1024, (block, time) => {
    if (context.state === "closed") return;
    const samples = resampler.push(block);
    if (context.currentTime - time > BEHIND_S) app.lost(samples.length);
    else app.hear(samples);
  });
  resampler = new Resampler(context.sampleRate);
  track.onended = () => app.stop("The microphone is gone.");
  app.say("Listening to " + (track.label || "the microphone") + ", "
    + context.sampleRate.toLocaleString("en") + " Hz resampled to 16,000.");
  return { stop: close };
}

async function recording(app, file, speed) {
  const { rate, samples, how } = await readFile(file);
  if (samples.length === 0) throw new Error("There is no sound in " + file.name + ".");
  const resampler = rate === RATE ? null : new Resampler(rate);
  const about = file.name + ", " + (samples.length / rate).toFixed(1) + " s" + how
    + (resampler ? ", " + rate.toLocaleString("en") + " Hz resampled to 16,000" : "");
  // A second of silence follows, so that the last word passes the model's window.
  const all = samples.length + SILENCE_AFTER_S * rate, some = Math.round(rate / 10);
  let at = 0, timer = 0, stopped = false;
  const sound = speed === 1 ? play(samples, rate) : null;
  const begin = performance.now();
  const turn = () => {
    const now = performance.now();
    const due = speed === 0 ? all
      : Math.min(all, Math.round(speed * rate * (now - begin) / 1000));
    while (at < due && performance.now() < now + 25) {
      const until = Math.min(due, at + some);
      const block = new Float32Array(until - at);
      block.set(samples.subarray(at, until));
      app.hear(resampler ? resampler.push(block) : Int16Array.from(block, toInt16));
      at = until;
    }
    if (at === all && resampler) app.hear(resampler.end());
    app.progress(at / all);
    if (at < all) timer = setTimeout(turn, speed === 0 ? 0 : 15);
    else if (!stopped) app.stop("Heard all of " + about + ".");
  };
  timer = setTimeout(turn, 0);
  app.say("Listening to " + about + ".");
  return { stop() {
    stopped = true;
    clearTimeout(timer);
    sound?.close();
  } };
}

function play(samples, rate) {
  const context = new AudioContext();
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  source.start();
  return context;
}

/* A board's lines, as kws/deploy/monitor.py reads them. */
const MAX_LINE = 1024;
const SCHEMA = "1";
const SILENT_MS = 6000; // a heartbeat comes every second

function parseLine(line) {
  const value = "(?:\"((?:[^\"\\\\]|\\\\.)*)\"|([^\"\\\\ ]+))";
  const whole = new RegExp("^kws ([a-z]+)((?: [a-z_]+(?:=" + value + ")?)*)$").exec(line);
  if (whole === null || line.length > MAX_LINE) return null;
  const pairs = {};
  for (const [, key, quoted, plain] of
    whole[2].matchAll(new RegExp(" ([a-z_]+)(?:=" + value + ")?", "g"))) {
    pairs[key] = quoted?.replace(/\\(.)/g, "$1") || plain || "";
  }
  return [whole[1], pairs];
}

/* A line without its frame (kws/deploy/frame.py); null where it is damaged. A board that
 * frames no line is an older one: what it says is taken as it is. */
function unframed(line) {
  const whole = /^(.*) #\d{1,4} ([0-9A-F]{4})$/.exec(line);
  if (whole === null) return line;
  let crc = 0xffff;
  for (const byte of new TextEncoder().encode(line.slice(0, -5))) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
    crc &= 0xffff;
  }
  return crc === parseInt(whole[2], 16) ? whole[1] : null;
}

async function board(app) {
  if (!navigator.serial) {
    throw new Error("This browser has no Web Serial (Chrome and Edge have). "
      + "In a terminal: kws monitor RUN --board BOARD");
  }
  const port = await navigator.serial.requestPort();
  await port.open({ baudRate: 115200 });
  const reader = port.readable.getReader();
  let over = false, silent = 0;
  const stop = async () => {
    over = true;
    clearTimeout(silent);
    await reader.cancel().catch(() => {});
    reader.releaseLock();
    await port.close().catch(() => {});
  };
  const heard = () => {
    clearTimeout(silent);
    silent = setTimeout(() => app.stop("The board says nothing. Is it running, at "
      + "115,200 baud?", true), SILENT_MS);
  };
  const read = async () => {
    const decoder = new TextDecoder();
    let line = "";
    heard();
    while (!over) {
      const { value, done } = await reader.read();
      if (done) break;
      for (const piece of decoder.decode(value, { stream: true }).split(/(?<=[\r\n])/)) {
        line = (line + piece).slice(0, MAX_LINE + 2); // too long matches nothing
        if (!/[\r\n]$/.test(piece)) continue;
        const said = line.length > MAX_LINE + 1 ? null : unframed(line.trim());
        const parsed = said === null ? null : parseLine(said);
        line = "";
        if (parsed === null) continue;
        heard();
        const problem = app.fromBoard(...parsed);
        if (problem) return app.stop(problem, true);
      }
    }
    if (!over) app.stop("The board is gone.", true);
  };
  read().catch((error) => { if (!over) app.stop(error.message, true); });
  app.say("Listening to a board. It tells words, level and work; scores it keeps.");
  return { stop };
}

/* ---- The picture ---- */

const COLOURS = {
  light: [[246, 245, 241], [214, 228, 234], [130, 182, 212], [40, 104, 170], [36, 24, 84]],
  dark: [[19, 20, 18], [22, 44, 68], [16, 106, 128], [112, 190, 132], [252, 236, 150]],
};

class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.paint = canvas.getContext("2d");
    this.columns = Math.round(4 * FRAMES_A_SECOND);
    this.store = document.createElement("canvas");
    this.store.width = this.columns;
    this.store.height = data.mel_bins;
    this.column = this.store.getContext("2d");
    this.sound = new Int8Array(this.columns * data.mel_bins);
    this.themed();
    this.clear();
  }

  themed() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.colours = { ink: colour("--ink"), soft: colour("--soft"), line: colour("--line"),
      card: colour("--card"), track: colour("--track"), good: colour("--good") };
    const stops = COLOURS[darkness.matches ? "dark" : "light"];
    this.ground = "rgb(" + stops[0] + ")";
    this.shades = Array.from({ length: 256 }, (_, i) => {
      // ln(energy): -7 is a quiet room, 5 a loud vowel.
      const loud = ((i - 128 - data.zero_point) * data.scale + 7) / 12;
      const at = Math.max(0, Math.min(0.9999, loud)) * (stops.length - 1);
      const [a, b] = [stops[Math.floor(at)], stops[Math.floor(at) + 1]];
      return a.map((value, c) => value + (b[c] - value) * (at % 1));
    });
  }

  clear() {
    this.count = 0; // frames since the start
    this.decisions = [];
    this.heard = [];
    this.dirty = true;
  }

  frame(values) {
    this.sound.set(values, (this.count % this.columns) * data.mel_bins);
    this.drawColumn(this.count % this.columns);
    this.count++;
    this.dirty = true;
  }

  drawColumn(x) {
    const image = this.column.createImageData(1, data.mel_bins);
    for (let bin = 0; bin < data.mel_bins; bin++) {
      const shade = this.shades[this.sound[x * data.mel_bins + bin] + 128];
      image.data.set(shade, 4 * (data.mel_bins - 1 - bin));
      image.data[4 * (data.mel_bins - 1 - bin) + 3] = 255;
    }
    this.column.putImageData(image, x, 0);
  }

  decision(scores) {
    this.decisions.push({ frame: this.count, scores });
    this.forget(this.decisions);
  }

  event(word) {
    this.heard.push({ frame: this.count, word });
    this.forget(this.heard);
  }

  forget(list) {
    while (list.length > 1 && list[1].frame < this.count - this.columns) list.shift();
  }

  redraw() {
    for (let x = 0; x < Math.min(this.count, this.columns); x++) this.drawColumn(x);
    this.dirty = true;
  }

  draw() {
    const scale = devicePixelRatio || 1;
    const wide = Math.round(this.canvas.clientWidth * scale);
    const high = Math.round(this.canvas.clientHeight * scale);
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide;
      this.canvas.height = high;
    }
    const paint = this.paint, { ink, soft, card, track, good } = this.colours;
    const split = Math.round(high * 0.68); // the sound above, the scores below
    const gap = Math.round(20 * scale);
    const x = (frame) => wide * (1 - (this.count - frame) / this.columns);
    paint.fillStyle = card;
    paint.fillRect(0, 0, wide, high);
    paint.fillStyle = this.ground;
    paint.fillRect(0, 0, wide, split);
    this.drawSound(wide, split);

    // What the model looks back on.
    const left = x(this.count - data.frames), y = split + gap / 2;
    paint.strokeStyle = paint.fillStyle = soft;
    paint.lineWidth = 1.5 * scale;
    paint.beginPath();
    paint.moveTo(left, split + 3 * scale);
    paint.lineTo(left, y);
    paint.lineTo(wide - scale, y);
    paint.lineTo(wide - scale, split + 3 * scale);
    paint.stroke();
    paint.font = 11 * scale + "px system-ui, sans-serif";
    paint.textBaseline = "middle";
    for (let second = 1; second < this.columns / FRAMES_A_SECOND; second++) {
      const at = x(this.count - second * FRAMES_A_SECOND);
      if (at < left - 20 * scale) paint.fillText("-" + second + " s", at - 9 * scale, y);
    }

    const top = split + gap, bottom = high - 2 * scale;
    paint.fillStyle = track;
    paint.globalAlpha = 0.5;
    paint.fillRect(0, top, wide, high - top);
    paint.globalAlpha = 1;
    paint.fillStyle = soft;
    paint.fillText("1", 4 * scale, top + 9 * scale);
    paint.fillText("0", 4 * scale, bottom - 7 * scale);
    data.labels.forEach((_, label) => {
      if (label < data.first_word) return;
      paint.strokeStyle = colourOf(label);
      paint.lineWidth = 2 * scale;
      paint.lineJoin = "round";
      paint.beginPath();
      this.decisions.forEach(({ frame, scores }, i) => {
        const height = bottom - (scores[label] / data.one) * (bottom - top - 3 * scale);
        if (i === 0) paint.moveTo(x(frame), height);
        else paint.lineTo(x(frame), height);
      });
      paint.stroke();
    });

    paint.font = "600 " + 13 * scale + "px system-ui, sans-serif";
    for (const { frame, word } of this.heard) {
      const at = x(frame), width = paint.measureText(word).width + 12 * scale;
      if (at < 0) continue;
      paint.strokeStyle = good;
      paint.lineWidth = 2 * scale;
      paint.beginPath();
      paint.moveTo(at, 0);
      paint.lineTo(at, high);
      paint.stroke();
      const start = Math.max(0, Math.min(wide - width, at - width / 2));
      paint.fillStyle = card;
      paint.beginPath();
      paint.roundRect(start, split - 28 * scale, width, 22 * scale, 6 * scale);
      paint.fill();
      paint.stroke();
      paint.fillStyle = ink;
      paint.fillText(word, start + 6 * scale, split - 17 * scale);
    }
    this.dirty = false;
  }

  /* The store is a ring: its older part first. */
  drawSound(wide, high) {
    const there = Math.min(this.count, this.columns), unit = wide / this.columns;
    const from = (this.count - there) % this.columns;
    const first = Math.min(there, this.columns - from);
    const start = wide - there * unit;
    this.paint.imageSmoothingEnabled = true;
    if (first > 0) {
      this.paint.drawImage(this.store, from, 0, first, data.mel_bins,
        start, 0, first * unit, high);
    }
    if (there > first) {
      this.paint.drawImage(this.store, 0, 0, there - first, data.mel_bins,
        start + first * unit, 0, (there - first) * unit, high);
    }
  }
}

/* Hues as far apart as can be, whatever the number of words. */
function colourOf(label) {
  const hue = (200 + (label - data.first_word) * 137.5) % 360;
  return "hsl(" + hue + (darkness.matches ? " 75% 68%)" : " 70% 42%)");
}

/* ---- Words: bars and thresholds ---- */

class Words {
  constructor(list, moved) {
    this.levels = data.thresholds.slice();
    this.moved = moved;
    this.rows = data.labels.map((label, i) => {
      const word = i - data.first_word;
      const row = document.createElement("li");
      const name = document.createElement(word < 0 ? "span" : "label");
      const track = document.createElement("div");
      const bar = track.appendChild(document.createElement("div"))
        .appendChild(document.createElement("i"));
      const score = document.createElement("span");
      const level = document.createElement("span");
      const dot = document.createElement("i"); // the colour of its curve
      dot.className = "dot";
      name.append(dot, document.createElement("span"));
      name.lastChild.textContent = named(label);
      name.className = word < 0 ? "name" : "";
      level.className = "threshold";
      level.setAttribute("aria-hidden", "true"); // the slider says it
      track.className = "track";
      score.className = "score";
      score.textContent = "0.00";
      const slider = word < 0 ? null : this.slider(i, track);
      if (slider) name.htmlFor = slider.id;
      row.append(name, track, score, level);
      list.append(row);
      return { row, track, bar, score, slider, level, dot };
    });
    this.themed();
    this.show();
  }

  themed() {
    this.rows.forEach(({ dot, slider }, i) => {
      dot.style.background = slider ? colourOf(i) : "none";
    });
  }

  slider(label, track) {
    const slider = document.createElement("input");
    slider.type = "range";
    slider.id = "threshold-" + label;
    Object.assign(slider, { min: 0, max: 1, step: 0.001 });
    slider.addEventListener("input", () => this.set(label, Number(slider.value)));
    slider.addEventListener("keydown", (event) => { // a step of 0.001 takes for ever
      const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!way) return;
      event.preventDefault();
      const step = event.shiftKey ? 0.001 : 0.01;
      this.set(label, this.levels[label - data.first_word] + way * step);
    });
    track.append(slider);
    return slider;
  }

  set(label, level) {
    const lowest = Math.ceil(1000 * data.rearm) / 1000;
    this.levels[label - data.first_word] =
      Math.max(lowest, Math.min(1, Math.round(1000 * level) / 1000));
    this.show();
    this.moved();
  }

  undo() {
    this.levels = data.thresholds.slice();
    this.show();
    this.moved();
  }

  changes() {
    return this.levels.flatMap((level, i) => level === data.thresholds[i] ? []
      : [[data.labels[i + data.first_word], data.thresholds[i], level]]);
  }

  show() {
    this.rows.forEach(({ slider, level: shown }, i) => {
      if (!slider) return;
      const level = this.levels[i - data.first_word];
      slider.value = level;
      slider.setAttribute("aria-valuetext", "heard from " + level.toFixed(3));
      shown.textContent = "of " + level.toFixed(2);
    });
  }

  scores(scores) {
    this.rows.forEach(({ track, bar, score }, i) => {
      const value = scores[i] / data.one;
      bar.style.transform = "scaleX(" + value.toFixed(3) + ")";
      score.textContent = value.toFixed(2);
      track.classList.toggle("over", value >= (this.levels[i - data.first_word] ?? 2));
    });
  }

  heard(word) {
    const { row } = this.rows[data.labels.indexOf(word)] ?? {};
    if (!row) return;
    row.classList.add("heard");
    setTimeout(() => row.classList.remove("heard"), 1500);
  }
}

/* ---- The page ---- */

class App {
  constructor(engine) {
    this.engine = engine;
    this.source = null;
    this.starting = 0;
    this.picture = new Picture(part("picture"));
    this.words = new Words(part("words"), () => this.thresholdsMoved());
    this.on = {
      frame: (values) => this.picture.frame(values),
      decision: (...all) => this.decided(...all),
      event: (...all) => this.heard(...all),
    };
    this.facts = new Map();
    this.begin();
    this.texts();
    this.wire();
    this.thresholdsMoved();
    requestAnimationFrame(() => this.draw());
  }

  /* A new stream: what is shown of the last one goes. */
  begin() {
    this.engine.start();
    this.picture.clear();
    this.samples = 0;
    this.decisions = [];
    this.decisionMs = 0;
    this.scores = data.labels.map(() => 0);
    this.events = 0;
    this.level = -60;
    this.board = null;
    part("events").replaceChildren();
    part("count").textContent = "none yet";
    part("say").hidden = false;
    part("flash").className = "";
    this.changed = true;
  }

  texts() {
    const spoken = data.labels.slice(data.first_word);
    part("hash").textContent = data.hash;
    part("selftest").textContent = "This browser has passed the board's self-test: a "
      + "built-in clip gave the logits that it has to give, bit for bit.";
    part("bands").textContent = data.mel_bins + " bands of pitch, a column every "
      + (1000 / FRAMES_A_SECOND).toFixed(0) + " ms";
    part("smoothing").textContent = data.smoothing
      + (data.smoothing === 1 ? " decision" : " decisions");
    part("rearm").textContent = data.rearm.toFixed(2);
    part("say").textContent = "It knows: " + spoken.join(", ") + ".";
    part("resampling").textContent = "A microphone's sound, and a recording at another "
      + "rate, is brought to 16,000 Hz in this page: a sinc filter under a Kaiser window "
      + "(beta 7, 48 zero crossings to each side), which lets 7.4 kHz pass and stops 8.2 "
      + "kHz by 70 dB. A 16 kHz WAV is taken as it is, and gives the bits that kws listen "
      + "gives. A recording is followed by a second of silence, as there.";
    part("kinds").textContent = [...new Set(this.engine.delta.map((p) => p.kind))]
      .map((kind) => kind + ": " + (data.kinds[kind] ?? "")).join("; ") + ".";
    const known = Object.entries(data.facts);
    const hop = data.hop_frames / FRAMES_A_SECOND;
    this.fact("decisions a second", (1 / hop).toFixed(2));
    for (const [name, text] of known) this.fact(name, text);
    this.deltaTable();
  }

  fact(name, text) {
    let value = this.facts.get(name);
    if (!value) {
      const term = document.createElement("dt");
      value = document.createElement("dd");
      term.textContent = name;
      part("work").append(term, value);
      this.facts.set(name, value);
    }
    value.textContent = text;
  }

  wire() {
    const on = (id, kind, act) => part(id).addEventListener(kind, act);
    on("microphone", "click", () => this.listen(() => microphone(this)));
    on("board", "click", () => this.listen(() => board(this)));
    on("stop", "click", () => this.stop("Stopped."));
    const take = (file) => this.listen(
      () => recording(this, file, Number(part("speed").value)));
    on("file", "change", () => {
      if (part("file").files.length) take(part("file").files[0]);
      part("file").value = ""; // so that the same one can be taken again
    });
    addEventListener("dragover", (event) => {
      event.preventDefault();
      document.body.classList.add("over");
    });
    addEventListener("dragleave", () => document.body.classList.remove("over"));
    addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("over");
      if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    });
    on("undo", "click", () => {
      this.words.undo();
      part("words-title").scrollIntoView({ block: "nearest" });
    });
    on("save", "click", () => (data.save ? this.save() : this.copy()));
    on("table", "click", () => this.table());
    addEventListener("resize", () => { this.picture.dirty = true; });
    darkness.addEventListener("change", () => {
      this.picture.themed();
      this.picture.redraw();
      this.words.themed();
    });
  }

  say(text, bad = false) {
    part("state").textContent = text;
    part("state").classList.toggle("bad", bad);
  }

  async listen(open) {
    const mine = ++this.starting; // who presses twice gets the later one
    await this.close();
    try {
      this.begin();
      this.say("Opening...");
      const source = await open();
      if (mine !== this.starting) return void source.stop();
      this.source = source;
      part("stop").disabled = false;
    } catch (error) {
      if (mine !== this.starting) return;
      const refused = error.name === "NotAllowedError";
      const nothing = error.name === "NotFoundError";
      this.say(refused ? "The browser was not allowed to: see its address bar."
        : nothing ? "Nothing was chosen, or there is none." : error.message, true);
    }
  }

  async close() {
    const source = this.source;
    this.source = null;
    part("stop").disabled = true;
    part("progress").hidden = true;
    await source?.stop();
  }

  stop(text, bad = false) {
    this.starting++;
    this.close();
    this.say(text, bad);
  }

  progress(share) {
    part("progress").hidden = false;
    part("progress").value = share;
  }

  /* Samples of a source. */
  hear(samples) {
    this.samples += samples.length;
    this.engine.hear(samples, this.on);
    this.changed = true;
  }

  lost(samples) {
    this.engine.c.web_lost(samples);
  }

  decided(logits, scores, milliseconds) {
    this.decisionMs += (milliseconds - this.decisionMs) * (this.decisionMs ? 0.1 : 1);
    this.scores = scores;
    const skipped = leftOut(this.engine.skipped(), byMacs);
    this.decisions.push({ frame: this.picture.count, logits, scores, skipped, heard: "" });
    if (this.decisions.length > MAX_DECISIONS) this.decisions.shift();
    this.picture.decision(scores);
  }

  heard(word, score, seconds) {
    if (this.decisions.length) this.decisions.at(-1).heard = word;
    this.events++;
    const row = document.createElement("li");
    const [time, name, value] = ["span", "b", "span"].map((tag) =>
      row.appendChild(document.createElement(tag)));
    time.textContent = seconds.toFixed(2) + " s";
    name.textContent = word;
    value.textContent = "score " + score.toFixed(2);
    value.className = "soft";
    const list = part("events");
    list.prepend(row);
    while (list.children.length > MAX_ROWS) list.lastChild.remove();
    part("count").textContent = this.events + (this.events === 1 ? " word" : " words");
    part("say").hidden = true;
    const flash = part("flash");
    flash.textContent = word;
    flash.className = "";
    void flash.offsetWidth; // so that the animation starts anew
    flash.className = "on";
    clearTimeout(this.flashing);
    this.flashing = setTimeout(() => { flash.className = ""; }, 2200);
    this.picture.event(word);
    this.words.heard(word);
  }

  /* A line of a board. Returns what is wrong with the board, if something is. */
  fromBoard(kind, pairs) {
    const number = (key) => (/^\d{1,20}$/.test(pairs[key] ?? "") ? Number(pairs[key]) : NaN);
    if ((kind === "boot" || kind === "beat") && pairs.schema !== undefined) {
      if (pairs.schema !== SCHEMA) {
        return "The board speaks another version of the protocol: " + pairs.schema;
      }
      if (pairs.hash !== data.hash) {
        return "The board runs another model. Expected hash " + data.hash + ". Received: "
          + pairs.hash;
      }
    }
    if (kind === "event") {
      const score = Number(pairs.score), time = number("time_ms");
      if (pairs.word && score >= 0 && score <= 1 && time >= 0) {
        this.heard(pairs.word, score, time / 1000);
      }
    }
    if (kind === "selftest" && "failed" in pairs) return "The board's self-test failed.";
    if (kind === "fault") return "The board's firmware has crashed.";
    if (kind === "error") return "The board says: error " + (pairs.reason ?? "");
    if (kind === "beat" && number("time_ms") >= 0) {
      const before = this.board, time = number("time_ms") / 1000;
      this.level = 20 * Math.log10(Math.max(1, number("peak") || 0) / 32768);
      this.board = { time, inferences: number("inferences"), lost: number("overruns"),
        macs: number("macs"), dense: number("macs_dense") };
      this.samples = time * RATE;
      if (before && time > before.time) {
        const each = (this.board.inferences - before.inferences) / (time - before.time);
        this.fact("decisions a second, board", each.toFixed(2));
      }
      this.fact("samples lost, board", this.board.lost.toLocaleString("en"));
      this.changed = true;
    }
    return "";
  }

  /* ---- What is drawn ---- */

  draw() {
    requestAnimationFrame(() => this.draw());
    const now = performance.now();
    // Without motion the picture is still for a second, then another one.
    const often = stillness.matches ? 1000 : 0;
    if (this.picture.dirty && now - (this.drawn ?? -1e9) >= often) {
      this.drawn = now;
      this.picture.draw();
    }
    if (!this.changed || now - (this.told ?? -1e9) < 60) return;
    this.told = now;
    this.changed = false;
    part("idle").hidden = this.picture.count > 0 || this.board !== null;
    part("clock").textContent = (this.samples / RATE).toFixed(1) + " s";
    this.words.scores(this.scores);
    this.drawLevel();
    if (this.decisionMs) {
      const busy = this.decisionMs * FRAMES_A_SECOND / data.hop_frames / 1000;
      this.fact("a decision in this browser", this.decisionMs.toFixed(2) + " ms");
      this.fact("of one core of this computer", (100 * busy).toFixed(1) + " %");
    }
    const lost = Number(this.engine.c.web_samples_lost());
    if (lost) this.fact("samples lost: too slow here", lost.toLocaleString("en"));
    this.drawDelta();
  }

  drawLevel() {
    if (!this.board) {
      const peak = this.engine.c.web_peak();
      const level = 20 * Math.log10(Math.max(1, peak) / 32768);
      this.level = Math.max(level, this.level - 2); // falls slowly, to be seen
    }
    const level = Math.max(-60, Math.min(0, this.level)), meter = part("level");
    meter.setAttribute("aria-valuenow", level.toFixed(0));
    meter.setAttribute("aria-valuetext", level.toFixed(0) + " decibels");
    meter.classList.toggle("clipped", level > -0.1);
    meter.firstElementChild.style.transform = "scaleX(" + (1 + level / 60) + ")";
    part("level-text").textContent = level.toFixed(0) + " dB";
  }

  deltaTable() {
    const kinds = Object.keys(data.kinds)
      .filter((kind) => this.engine.delta.some((p) => p.kind === kind));
    const layers = [...new Set(this.engine.delta.map((p) => p.layer))].sort((a, b) => a - b);
    const table = part("delta");
    const cell = (row, tag, text, scope) => {
      const made = row.appendChild(document.createElement(tag));
      made.textContent = text;
      if (scope) made.scope = scope;
      return made;
    };
    table.createCaption().textContent = "Elements left out, in percent";
    const head = table.createTHead().insertRow();
    cell(head, "th", "layer", "col");
    for (const kind of kinds) cell(head, "th", kind, "col").title = data.kinds[kind];
    const body = table.createTBody();
    this.cells = new Map();
    for (const layer of layers) {
      const row = body.insertRow();
      cell(row, "th", layer, "row");
      for (const kind of kinds) this.cells.set(layer + kind, cell(row, "td", ""));
    }
    part("skips").hidden = kinds.length === 0;
  }

  drawDelta() {
    if (this.board) {
      if (this.board.dense > 0) {
        part("skipped").textContent =
          (100 * (1 - this.board.macs / this.board.dense)).toFixed(0) + " %";
      }
      return;
    }
    if (!this.cells.size || !this.decisions.length) return;
    const products = this.engine.skipped();
    for (const [key, cell] of this.cells) {
      const here = products.filter(({ layer, kind }) => layer + kind === key);
      const skipped = here.length ? leftOut(here, byElements) : null;
      cell.textContent = skipped === null ? "\u00b7" : (100 * skipped).toFixed(0);
      cell.style.backgroundColor = "rgba(var(--heat), "
        + (0.55 * (skipped ?? 0)).toFixed(2) + ")";
    }
    part("skipped").textContent = (100 * leftOut(products, byMacs)).toFixed(0) + " %";
  }

  /* ---- Thresholds, and what is saved ---- */

  thresholdsMoved() {
    this.words.levels.forEach((level, i) =>
      this.engine.setThreshold(i + data.first_word, level));
    const changes = this.words.changes();
    part("save-row").hidden = changes.length === 0;
    part("changed").textContent = "Moved: " + changes.map(([word, from, to]) =>
      word + " " + from.toFixed(2) + " to " + to.toFixed(3).replace(/0$/, "")).join(", ");
    part("save").textContent = data.save ? "Save into the run" : "Copy for recipe.toml";
    part("recipe").hidden = Boolean(data.save);
    part("recipe").textContent = this.recipe();
    if (changes.length) this.tell(data.save ? "" : data.kept_because);
    this.changed = true;
  }

  recipe() {
    return "[detector]\nword_thresholds = ["
      + this.words.levels.map((level) => level.toFixed(3).replace(/0{1,2}$/, "")).join(", ")
      + "]";
  }

  tell(text, bad = false) {
    part("saved").textContent = text;
    part("saved").classList.toggle("bad", bad);
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.recipe());
      this.tell("Copied: two lines for the run's recipe.toml.");
    } catch {
      this.tell("The browser did not copy; the lines are above.", true);
    }
  }

  async save() {
    part("save").disabled = true;
    try {
      const sent = this.words.levels.slice();
      const answer = await fetch(data.save, { method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ hash: data.hash, word_thresholds: sent }) });
      const table = await answer.json();
      if (!answer.ok) throw new Error(table.error + " " + table.hint);
      data.hash = table.hash;
      data.thresholds = sent;
      part("hash").textContent = data.hash;
      this.thresholdsMoved();
      this.tell("Saved. The run's hash is " + data.hash + " now: a board has the new "
        + "thresholds when it is flashed again.");
    } catch (error) {
      this.tell(error instanceof TypeError ? "Nobody answers: is kws live still running?"
        : error.message, true);
    }
    part("save").disabled = false;
  }

  /* Every decision with its logits, for whoever wants to look closer. */
  table() {
    const quoted = (text) => '"' + text.replaceAll('"', '""') + '"';
    const head = ["frame", "heard", "skipped", ...data.labels.map((label) => "logit " + label),
      ...data.labels.map((label) => "score " + label)].map(quoted);
    const lines = this.decisions.map(({ frame, heard, skipped, logits, scores }) => [
      frame, quoted(heard), skipped.toFixed(4), ...logits,
      ...scores.map((score) => (score / data.one).toFixed(4))].join(","));
    const blob = new Blob([[head.join(","), ...lines, ""].join("\n")], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "decisions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

Engine.load().then((engine) => {
  const app = new App(engine);
  app.say("Ready.");
}).catch((error) => {
  part("state").textContent = "The model can't run in this browser: " + error.message;
  part("state").className = "bad";
});

})();
