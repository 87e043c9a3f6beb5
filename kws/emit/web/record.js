(() => {

/* ---- What there is to say, and the page's parts ---- */

const data = JSON.parse(document.getElementById("data").textContent);
const part = (id) => document.getElementById(id);
const PREROLL_S = 0.2;        // who speaks just before the mark is heard too
const STEP_MS = 450;          // of the count-down
const BETWEEN_MS = 900;       // from one recording to the next
const READING_MS = 2200;      // where that is another prompt, or why one wasn't kept
const STALLED_MS = 5000;      // a microphone that gives nothing any more
const MOST_REFUSED = 3;       // in a row, then a person should look
const DRAW_MS = 50;
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const darkness = matchMedia("(prefers-color-scheme: dark)");

const KINDS = { word: "Word", other: "Other phrase", room: "The room" };
const GROUPS = { word: "Words", other: "Other phrases", room: "The room" };
const ROOMS = {
  quiet: ["Silence", "s of the room as it is. Leave on what usually runs; say nothing."],
  lively: ["Sounds without words", "s: move about, type, run water. Say nothing."],
};
const MANNERS = ["as you usually say it", "a little faster", "more quietly",
  "from two steps away", "slowly", "louder, as across the room", "as a question",
  "with your head turned aside", "tired", "cheerfully"];

const title = (prompt) => (prompt.kind === "room" ? ROOMS[prompt.text][0] : prompt.text);
const wait = (ms) => new Promise((done) => { setTimeout(done, ms); });
const decibels = (peak) => 20 * Math.log10(Math.max(1e-3, peak));

function made(tag, text, owner) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  owner?.append(element);
  return element;
}

/* A waveform: the path comes from the computer that keeps the clips. */
function drawing(path) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 120 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(space, "path"));
  svg.firstChild.setAttribute("d", path);
  return svg;
}

/* ---- Who keeps the recordings ---- */

async function asked(path, query = {}, send = null) {
  const address = path + "?" + new URLSearchParams(query);
  let answer;
  try {
    answer = await fetch(address, send);
  } catch {
    throw new Error("Nobody answers: is kws data record still running?");
  }
  const table = answer.headers.get("Content-Type") === "application/json"
    ? await answer.json() : {};
  if (!answer.ok) throw new Error(table.error ? table.error + " " + table.hint
    : "The computer does not know this page any more. Load it again.");
  return table;
}

function told(path, query = {}) {
  return asked(path, query,
    { method: "POST", headers: { "Content-Type": "application/json" } });
}

/* ---- The microphone ---- */

class Microphone {
  /* on.block gets int16 samples and their loudest one (1 is full scale). */
  static async open(device, on) {
    const opened = await openMicrophone(512, (block) => {
      let peak = 0;
      const samples = Int16Array.from(block, (value) => {
        peak = Math.max(peak, Math.abs(value));
        return Math.max(-32768, Math.min(32767, Math.round(value * 32768)));
      });
      on.block(samples, peak);
    }, device);
    opened.track.onended = () => on.ended();
    return new Microphone(opened);
  }

  constructor({ context, track, close }) {
    this.context = context;
    this.track = track;
    this.rate = context.sampleRate;
    this.shut = close;
  }

  /* A tone: the count-down for who does not look. */
  tone(hertz) {
    const start = this.context.currentTime;
    const tone = this.context.createOscillator(), gain = this.context.createGain();
    tone.frequency.value = hertz;
    gain.gain.setValueAtTime(0.15, start);
    gain.gain.exponentialRampToValueAtTime(0.001, start + 0.12);
    tone.connect(gain).connect(this.context.destination);
    tone.start(start);
    tone.stop(start + 0.13);
  }

  /* Play a WAV file; resolves at its end. */
  async play(bytes) {
    const source = this.context.createBufferSource();
    source.buffer = await this.context.decodeAudioData(bytes);
    source.connect(this.context.destination);
    await new Promise((done) => { source.onended = done; source.start(); });
  }

  close() {
    this.track.onended = null;
    this.shut();
  }
}

/* ---- The picture of a recording as it is made ---- */

class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.peaks = [];
    this.need = 1;
    this.drawn = -1e9;
  }

  start(need) {
    this.need = need;
    this.peaks = [];
    this.draw();
  }

  /* A block that ends at sample `at`. */
  add(at, peak) {
    this.peaks.push([at, peak]);
    const now = performance.now();
    if (now - this.drawn < DRAW_MS || stillness.matches) return;
    this.drawn = now;
    this.draw();
  }

  draw() {
    const scale = devicePixelRatio || 1, paint = this.canvas.getContext("2d");
    const wide = this.canvas.width = Math.round(this.canvas.clientWidth * scale);
    const high = this.canvas.height = Math.round(this.canvas.clientHeight * scale);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    paint.clearRect(0, 0, wide, high);
    paint.fillStyle = colour("--track");
    const last = this.peaks.length ? this.peaks.at(-1)[0] / this.need : 0;
    paint.fillRect(0, 0, last * wide, high);
    paint.fillStyle = colour("--bar");
    const top = 26 * scale; // the mark's line
    let before = 0;
    for (const [at, peak] of this.peaks) {
      // As loud sounds to people: a twentieth of full scale is half as high.
      const tall = Math.max(scale, Math.min(1, peak) ** 0.4 * 0.95 * (high - top));
      const x = before / this.need * wide, width = at / this.need * wide - x;
      if (peak >= 0.999) paint.fillStyle = colour("--bad");
      paint.fillRect(x, (high + top - tall) / 2, width, tall);
      paint.fillStyle = colour("--bar");
      before = at;
    }
  }
}

/* ---- The page ---- */

class App {
  constructor() {
    this.microphone = null;
    this.speaker = "";
    this.done = data.prompts.map(() => 0);
    this.now = 0;
    this.skipped = new Set();
    this.turn = 0;        // a run of recordings; who presses Pause begins another
    this.running = false;
    this.taking = null;
    this.before = [];     // the last blocks, for PREROLL_S
    this.level = -60;
    this.refusals = 0;
    this.clips = [];      // of this page: { clip, prompt, name }
    this.picture = new Picture(part("picture"));
    this.welcome();
    this.wire();
  }

  /* ---- Who speaks ---- */

  welcome() {
    const words = data.prompts.filter((prompt) => prompt.kind === "word");
    part("title").textContent = words.map((prompt) => prompt.text).join(", ");
    part("out").textContent = data.out;
    part("fits").textContent = data.clip_seconds;
    const known = data.speaker ? [data.speaker] : data.speakers;
    const choice = (value, text, checked) => {
      const label = made("label", undefined, made("li", undefined, part("known")));
      label.className = "check";
      const radio = made("input", undefined, label);
      Object.assign(radio, { type: "radio", name: "who", value, checked });
      made("span", text, label);
    };
    for (const name of known) choice(name, (data.speaker ? "" : "Go on as ") + name, true);
    if (!data.speaker && known.length) choice("", "Somebody else", false);
    part("known").hidden = known.length === 0;
    for (const [kind, text] of Object.entries(GROUPS)) {
      const prompts = data.prompts.filter((prompt) => prompt.kind === kind);
      if (!prompts.length) continue;
      const each = prompts[0].wanted === 1 ? "" : ", " + prompts[0].wanted + " times each";
      made("dt", text + each, part("asked"));
      made("dd", prompts.map(title).join(", "), part("asked"));
    }
    const all = data.prompts.reduce((sum, { wanted }) => sum + wanted, 0);
    const seconds = data.prompts.reduce(
      (sum, prompt) => sum + prompt.wanted * (prompt.seconds + 2.5), 0);
    part("long").textContent = all + " recordings, some "
      + (seconds > 60 ? Math.ceil(seconds / 60) + " minutes" : "60 seconds")
      + ". Stop when you like: the same command goes on.";
    this.named();
  }

  /* Who was chosen of those that are known; "": somebody new. */
  chosen() {
    return document.querySelector("[name='who']:checked")?.value ?? "";
  }

  named() {
    const name = part("name").value.trim(), known = this.chosen();
    part("new").hidden = known !== "";
    const shown = known || (part("hidden").checked || !name ? "1a2b3c4d"
      : name.replace(/[^\p{L}\p{N}]+/gu, "-"));
    part("example").textContent = data.prompts[0].folder + "/" + shown + "_nohash_0.wav";
  }

  async start() {
    part("start").disabled = true;
    try {
      await this.listen("");
      const known = this.chosen();
      this.speaker = known || (await told("speaker", { name: part("name").value,
        hidden: part("hidden").checked ? "yes" : "no" })).speaker;
      for (const id of ["say", "plan", "kept"]) part(id).hidden = false;
      part("who").hidden = true;
      await this.follow(-1);
      part("record").focus();
      navigator.wakeLock?.request("screen").catch(() => {}); // a phone stays awake
      this.say(this.now === null ? this.complete() : "Press Record, and speak when the "
        + "mark says so.");
    } catch (error) {
      this.say(this.reason(error), true);
    }
    part("start").disabled = false;
  }

  reason(error) {
    return error.name === "NotAllowedError" ? "The browser was not allowed to use the "
      + "microphone: see its address bar."
      : error.name === "NotFoundError" ? "There is no microphone." : error.message;
  }

  async listen(device) {
    this.microphone?.close();
    this.microphone = await Microphone.open(device, {
      block: (samples, peak) => this.heard(samples, peak),
      ended: () => { this.pause(); this.say("The microphone is gone.", true); },
    });
    const all = (await navigator.mediaDevices.enumerateDevices())
      .filter((found) => found.kind === "audioinput");
    part("device-row").hidden = all.length < 2;
    const used = this.microphone.track.getSettings().deviceId;
    part("device").replaceChildren(...all.map((found, i) => {
      const option = made("option", found.label || "number " + (i + 1));
      option.value = found.deviceId;
      option.selected = found.deviceId === used;
      return option;
    }));
  }

  wire() {
    const on = (id, kind, act) => part(id).addEventListener(kind, act);
    on("form", "submit", (event) => { event.preventDefault(); this.start(); });
    on("form", "input", () => this.named());
    on("record", "click", () => (this.running ? this.pause() : this.run()));
    on("play", "click", () => this.play(this.clips.at(-1)));
    on("redo", "click", () => this.redo());
    on("skip", "click", () => this.skip());
    on("finish", "click", () => this.finish());
    on("copy", "click", () => this.copy());
    on("device", "change", () => {
      this.pause();
      this.listen(part("device").value)
        .catch((error) => this.say(this.reason(error), true));
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.pause();
    });
    darkness.addEventListener("change", () => this.picture.draw());
    addEventListener("resize", () => this.picture.draw());
  }

  say(text, bad = false) {
    // Before the microphone is open, the card with the status isn't there yet.
    part(part("say").hidden ? "problem" : "state").textContent = text;
    part("state").classList.toggle("bad", bad);
  }

  /* ---- What comes next ---- */

  /* Ask what there is, and what follows `last`. */
  async follow(last) {
    const { done, next } = await asked("state", { speaker: this.speaker, now: last,
      skip: [...this.skipped].join(",") });
    this.done = done;
    const other = next !== this.now;
    this.now = next;
    this.show();
    return other;
  }

  show() {
    const prompt = data.prompts[this.now];
    part("kind").textContent = prompt ? KINDS[prompt.kind] : "";
    part("prompt").textContent = prompt ? title(prompt) : "All is recorded";
    part("record").disabled = part("skip").disabled = !prompt;
    part("count").textContent = "";
    part("how").textContent = "";
    if (prompt) {
      const done = this.done[this.now];
      part("count").textContent = done < prompt.wanted
        ? done + 1 + " of " + prompt.wanted : done + " recorded";
      part("how").textContent = prompt.kind === "room"
        ? prompt.seconds + " " + ROOMS[prompt.text][1]
        : "Say it " + MANNERS[done % MANNERS.length] + ".";
    }
    this.buttons();
    this.plan();
  }

  buttons() {
    part("record").textContent = this.running ? "Pause" : "Record";
    part("play").disabled = part("redo").disabled = this.clips.length === 0;
  }

  plan() {
    let have = 0, wanted = 0;
    const groups = part("groups"), again = document.activeElement?.dataset?.prompt;
    groups.replaceChildren();
    for (const [kind, text] of Object.entries(GROUPS)) {
      const rows = data.prompts.map((prompt, n) => [prompt, n])
        .filter(([prompt]) => prompt.kind === kind);
      if (!rows.length) continue;
      made("h3", text, groups);
      const list = made("ul", undefined, groups);
      for (const [prompt, n] of rows) {
        const row = made("li", undefined, list), done = this.done[n];
        const button = made("button", undefined, row);
        button.type = "button";
        button.dataset.prompt = n;
        made("span", title(prompt), button);
        const bar = made("b", undefined, made("i", undefined, button));
        bar.style.transform = "scaleX(" + Math.min(1, done / prompt.wanted) + ")";
        made("span", done + " of " + prompt.wanted, button);
        row.classList.toggle("done", done >= prompt.wanted);
        button.setAttribute("aria-current", String(n === this.now));
        button.addEventListener("click", () => this.choose(n));
        have += Math.min(done, prompt.wanted);
        wanted += prompt.wanted;
      }
    }
    // The buttons are new: who was on one still is.
    if (again) groups.querySelector("[data-prompt='" + again + "']")?.focus();
    part("all").textContent = have + " of " + wanted;
  }

  choose(n) {
    this.pause();
    this.skipped.delete(n);
    this.now = n;
    this.mark("", "");
    this.show();
    this.say("Press Record.");
  }

  async skip() {
    this.pause();
    this.skipped.add(this.now);
    try {
      await this.follow(-1);
      this.mark("", "");
      this.say(this.now === null ? this.complete() : "Skipped. Press Record.");
    } catch (error) {
      this.say(error.message, true);
    }
  }

  complete() {
    return "That is all. Finish, or choose a word to record more of it.";
  }

  /* ---- Recording ---- */

  /* Samples of the microphone. */
  heard(samples, peak) {
    this.before.push([samples, peak]);
    const rate = this.microphone?.rate ?? 48000;
    let kept = this.before.reduce((sum, [block]) => sum + block.length, 0);
    while (kept - this.before[0][0].length >= PREROLL_S * rate) {
      kept -= this.before.shift()[0].length;
    }
    if (this.taking) this.take(samples, peak);
    this.level = Math.max(decibels(peak), this.level - 1); // falls slowly, to be seen
    const now = performance.now();
    if (now - (this.shown ?? -1e9) >= DRAW_MS) {
      this.shown = now;
      this.drawLevel();
    }
  }

  take(samples, peak) {
    const taking = this.taking;
    taking.parts.push(samples);
    taking.have += samples.length;
    this.picture.add(taking.have, peak);
    const left = Math.ceil((taking.need - taking.have) / this.microphone.rate);
    if (taking.long && left > 0) part("mark").textContent = left + " s";
    if (taking.have >= taking.need) {
      this.taking = null;
      taking.ready();
    }
  }

  drawLevel() {
    const level = Math.max(-60, Math.min(0, this.level)), meter = part("level");
    meter.setAttribute("aria-valuenow", level.toFixed(0));
    meter.setAttribute("aria-valuetext", level.toFixed(0) + " decibels");
    meter.classList.toggle("clipped", level > -0.1);
    meter.firstElementChild.style.transform = "scaleX(" + (1 + level / 60) + ")";
    part("level-text").textContent = level > -0.1 ? "clipped" : level.toFixed(0) + " dB";
  }

  mark(text, kind) {
    part("mark").textContent = text.slice(0, 1).toUpperCase() + text.slice(1);
    part("stage").className = "stage " + kind;
    part("wave").toggleAttribute("hidden", kind !== "good"); // no property of an SVG's
    part("picture").hidden = kind === "good";
    if (kind === "" || kind === "count") this.picture.start(1);
  }

  async run() {
    const mine = ++this.turn;
    this.running = true;
    this.refusals = 0;
    this.buttons();
    let steps = 3;
    try {
      await this.microphone.context.resume(); // a phone may have put it to sleep
      while (mine === this.turn && this.now !== null) {
        const [kept, other] = await this.one(mine, steps);
        if (mine !== this.turn || this.now === null || !part("auto").checked) break;
        if (data.prompts[this.now].kind === "room") break; // needs some preparing
        if (this.refusals >= MOST_REFUSED) break;
        await wait(kept && !other ? BETWEEN_MS : READING_MS);
        steps = other ? 3 : 2;
      }
    } catch (error) {
      if (mine !== this.turn) return;
      this.mark("", "");
      this.say(error.message, true);
    }
    if (mine === this.turn) this.pause();
  }

  /* Nothing more is recorded; what is sent already is kept. */
  pause() {
    this.turn++;
    this.running = false;
    if (this.taking || part("stage").classList.contains("count")) this.mark("", "");
    this.taking = null;
    this.buttons();
  }

  /* Count down, record, send. Returns whether it was kept, and if another prompt
   * follows. */
  async one(mine, steps) {
    const place = this.now, prompt = data.prompts[place];
    this.say(prompt.kind === "room" ? "Get ready to be silent ..." : "Get ready ...");
    for (let left = steps; left > 0; left--) {
      this.mark(String(left), "count");
      if (part("tones").checked) this.microphone.tone(660);
      await wait(STEP_MS);
      if (mine !== this.turn) return [false, false];
    }
    if (part("tones").checked) {
      this.microphone.tone(990);
      await wait(250 + 1000 * PREROLL_S); // until it can't be heard any more
    }
    const samples = await this.record(prompt);
    if (mine !== this.turn) return [false, false];
    this.picture.draw();
    this.say("Checking ...");
    const verdict = await asked("take",
      { speaker: this.speaker, prompt: place, rate: this.microphone.rate },
      { method: "POST", headers: { "Content-Type": "application/octet-stream" },
        body: samples });
    const kept = verdict.problem === "";
    if (kept) this.kept(verdict, place);
    else this.refusals++;
    const other = await this.follow(place);
    this.mark(kept ? "Kept: " + this.clips.at(-1).text : verdict.problem,
      kept ? "good" : "bad");
    const next = this.now === null ? " " + this.complete()
      : other ? " Next: " + title(data.prompts[this.now]) + "." : "";
    this.say(kept ? "Kept, " + verdict.level_db.toFixed(0) + " dB." + next
      : "Not kept: " + verdict.problem + ". " + verdict.advice, !kept);
    return [kept, other];
  }

  record(prompt) {
    const rate = this.microphone.rate, need = Math.round(prompt.seconds * rate);
    const long = prompt.kind === "room";
    this.picture.start(need);
    this.mark(long ? "" : "Speak now", "on");
    this.say(long ? "Recording the room. Say nothing." : "Speak now: " + prompt.text);
    return new Promise((done, failed) => {
      let quiet = 0;
      const taking = { need, have: 0, parts: [], long, ready: () => {
        clearInterval(quiet);
        done(joined(taking.parts).subarray(0, need));
      } };
      let seen = -1;
      quiet = setInterval(() => {
        if (this.taking !== taking) { // paused
          clearInterval(quiet);
          done(new Int16Array());
        } else if (taking.have === seen) {
          this.taking = null;
          clearInterval(quiet);
          failed(new Error("The microphone gives no sound any more. Load the page again."));
        }
        seen = taking.have;
      }, STALLED_MS);
      this.taking = taking;
      const before = this.before.slice();
      if (!long) for (const [samples, peak] of before) this.take(samples, peak);
    });
  }

  /* ---- What was kept ---- */

  kept({ clip, name, wave }, prompt) {
    this.refusals = 0;
    const row = document.createElement("li");
    const text = title(data.prompts[prompt]) + " " + name.match(/(\d+)\.wav$/)[1];
    const each = { clip, prompt, row, text };
    const play = made("button", undefined, row), remove = made("button", "\u2715", row);
    play.append(drawing(wave));
    made("span", "\u25b6\ufe0e " + text, play);
    play.type = remove.type = "button";
    play.title = name;
    play.setAttribute("aria-label", "Play " + text);
    remove.setAttribute("aria-label", "Delete " + text);
    remove.title = "Delete";
    play.addEventListener("click", () => this.play(each));
    remove.addEventListener("click", () => this.remove(each));
    part("clips").prepend(row);
    part("wave").firstElementChild.setAttribute("d", wave);
    this.clips.push(each);
    this.listed();
  }

  listed() {
    part("kept-none").hidden = this.clips.length > 0;
    part("kept-count").textContent = this.clips.length || "none yet";
    this.buttons();
  }

  async play({ clip }) {
    this.pause();
    try {
      const answer = await fetch("clip?" + new URLSearchParams({ clip }));
      if (!answer.ok) throw new Error("The clip is gone.");
      const bytes = await answer.arrayBuffer();
      this.say("Playing what is kept ...");
      await this.microphone.context.resume();
      await this.microphone.play(bytes);
      this.say("Played.");
    } catch (error) {
      this.say(error instanceof TypeError
        ? "Nobody answers: is kws data record still running?" : error.message, true);
    }
  }

  async remove(each) {
    this.pause();
    try {
      this.done = (await told("remove", { clip: each.clip })).done;
    } catch (error) {
      this.say(error.message, true);
      return false;
    }
    const next = each.row.nextElementSibling ?? each.row.previousElementSibling;
    const focused = each.row.contains(document.activeElement);
    each.row.remove();
    if (focused) (next?.querySelector("button") ?? part("record")).focus();
    this.clips.splice(this.clips.indexOf(each), 1);
    this.listed();
    this.now ??= each.prompt;
    this.mark("", "");
    this.show();
    this.say("Deleted.");
    return true;
  }

  /* Delete the last one, and record it again. */
  async redo() {
    const last = this.clips.at(-1);
    if (!await this.remove(last)) return;
    this.now = last.prompt;
    this.show();
    part("record").focus();
    this.run();
  }

  async finish() {
    this.pause();
    try {
      const { next } = await told("finish");
      part("next").textContent = next;
      part("next-row").hidden = next === "";
    } catch (error) {
      this.say(error.message, true);
      return;
    }
    this.microphone.close();
    for (const id of ["say", "plan", "kept", "help"]) part(id).hidden = true;
    part("end").hidden = false;
    const count = this.clips.length;
    part("end-text").textContent = (count === 0 ? "Nothing new was recorded here."
      : count + (count === 1 ? " recording is" : " recordings are") + " in " + data.out + ".")
      + " The same command goes on from here, whenever you like. This page can be closed.";
    part("end-title").focus();
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(part("next").textContent);
      part("copied").textContent = "Copied.";
    } catch {
      part("copied").textContent = "The browser did not copy; the line is above.";
    }
  }
}

function joined(parts) {
  const whole = new Int16Array(parts.reduce((sum, each) => sum + each.length, 0));
  let at = 0;
  for (const each of parts) {
    whole.set(each, at);
    at += each.length;
  }
  return whole;
}

const app = new App();
app.say("");

})();
