// One clip: play and pause, seek by mouse, touch and keys, and an account of what has really been heard.

import { playedOf, total, union } from "./heard.js";
import { Waveform, peaksOf } from "./waveform.js";

const STEP_S = 0.5;
const ENOUGH_SLACK_S = 0.03; // the app allows a little more than that
let playing = null; // one clip plays at a time

export class ClipPlayer {
  /** clip: {clip_id, url, seconds, needed_s}; store: HeardStore; onHeard() is called whenever more was heard. */
  constructor(side, clip, store, onHeard) {
    Object.assign(this, { side, clip, store, onHeard, failed: false });
    this.letter = side.toUpperCase();
    this.root = document.getElementById("clip-template").content.cloneNode(true).firstElementChild;
    this.audio = new Audio();
    this.earlier = union(store.read(side)); // heard before the page was loaded anew
    this.#find();
    this.#listen();
    this.#load();
    this.#show();
  }

  /** Stretches that were heard, the union of all plays. */
  get heard() {
    return union([...this.earlier, ...playedOf(this.audio)]);
  }

  /** Seconds that still have to be heard. */
  get leftS() {
    const left = this.clip.needed_s - total(this.heard);
    return left <= ENOUGH_SLACK_S ? 0 : left;
  }

  /** What the app is told. */
  get report() {
    return { clip_id: this.clip.clip_id, played: this.heard.map((stretch) => stretch.map((s) => Number(s.toFixed(3)))) };
  }

  toggle() {
    if (this.audio.paused) this.#play();
    else this.audio.pause();
  }

  close() {
    this.audio.pause();
    if (playing === this) playing = null;
    URL.revokeObjectURL(this.audio.src);
  }

  #find() {
    const part = (selector) => this.root.querySelector(selector);
    Object.assign(this, { button: part(".play"), slider: part(".wave"), heardBar: part(".heard"), note: part(".left") });
    this.nowText = part(".now");
    part(".letter").textContent = this.letter;
    part(".name").textContent = `Clip ${this.letter}`;
    part(".length").textContent = clock(this.clip.seconds);
    part("h2").id = `clip-${this.side}`;
    this.root.setAttribute("aria-labelledby", `clip-${this.side}`);
    this.slider.setAttribute("aria-label", `Position in clip ${this.letter}`);
    this.slider.setAttribute("aria-valuemax", this.clip.seconds.toFixed(1));
    this.heardBar.setAttribute("aria-label", `Heard of what is needed of clip ${this.letter}`);
    this.waveform = new Waveform(part("canvas"));
    this.waveform.show({ seconds: this.clip.seconds });
  }

  #listen() {
    this.button.addEventListener("click", () => this.toggle());
    for (const name of ["play", "pause", "ended", "seeked", "timeupdate"]) {
      this.audio.addEventListener(name, () => this.#changed());
    }
    this.audio.addEventListener("play", () => this.#follow());
    this.slider.addEventListener("keydown", (event) => this.#key(event));
    this.slider.addEventListener("pointerdown", (event) => {
      this.slider.setPointerCapture(event.pointerId);
      this.#seekTo(event);
    });
    this.slider.addEventListener("pointermove", (event) => {
      if (this.slider.hasPointerCapture(event.pointerId)) this.#seekTo(event);
    });
  }

  /** The whole file at once: seeking then needs no network, and the waveform is drawn from the same bytes. */
  async #load() {
    try {
      const response = await fetch(this.clip.url, { credentials: "same-origin", signal: AbortSignal.timeout(30_000) });
      if (!response.ok) throw new Error(String(response.status));
      const blob = await response.blob();
      this.audio.src = URL.createObjectURL(blob);
      this.waveform.show({ peaks: await peaksOf(await blob.arrayBuffer()) });
      this.failed = false;
    } catch {
      this.failed = true;
    }
    this.#show();
  }

  async #play() {
    if (this.failed || !this.audio.src) {
      await this.#load();
      if (this.failed) return;
    }
    if (playing && playing !== this) playing.audio.pause();
    playing = this;
    if (this.audio.ended) this.audio.currentTime = 0;
    await this.audio.play().catch(() => {}); // a pause that comes before the start rejects; the button shows it
  }

  /** Redraws at the screen's own rate while the clip plays. */
  #follow() {
    if (this.audio.paused) return;
    this.#show();
    this.onHeard();
    requestAnimationFrame(() => this.#follow());
  }

  #changed() {
    this.store.write(this.side, this.heard);
    this.#show();
    this.onHeard();
  }

  #seekTo(event) {
    const box = this.slider.getBoundingClientRect();
    this.#seek(((event.clientX - box.left) / box.width) * this.clip.seconds);
  }

  #seek(second) {
    this.audio.currentTime = Math.min(Math.max(second, 0), this.clip.seconds - 0.01);
    this.#show();
  }

  #key(event) {
    const now = this.audio.currentTime;
    const moves = { ArrowLeft: now - STEP_S, ArrowDown: now - STEP_S, ArrowRight: now + STEP_S, ArrowUp: now + STEP_S };
    const second = { ...moves, Home: 0, End: this.clip.seconds }[event.key];
    if (second === undefined) return;
    event.preventDefault();
    this.#seek(second);
  }

  #show() {
    const isPlaying = !this.audio.paused;
    const now = Math.min(this.audio.currentTime, this.clip.seconds);
    const left = this.leftS;
    this.button.setAttribute("aria-label", `${isPlaying ? "Pause" : "Play"} clip ${this.letter}`);
    this.button.querySelector("use").setAttribute("href", isPlaying ? "#icon-pause" : "#icon-play");
    this.root.classList.toggle("playing", isPlaying);
    this.root.classList.toggle("done", left === 0);
    this.slider.setAttribute("aria-valuenow", now.toFixed(1));
    this.slider.setAttribute("aria-valuetext", `${now.toFixed(1)} of ${this.clip.seconds.toFixed(1)} seconds`);
    this.nowText.textContent = clock(now);
    this.note.textContent = this.failed ? "could not be loaded, play tries again" : leftText(left);
    const part = this.clip.needed_s ? Math.min(1, 1 - left / this.clip.needed_s) : 1;
    this.heardBar.setAttribute("aria-valuenow", Math.round(part * 100));
    this.heardBar.firstElementChild.style.setProperty("--part", part.toFixed(3));
    this.waveform.show({ heard: this.heard, position: now, active: isPlaying });
  }
}

function leftText(leftS) {
  return leftS === 0 ? "heard ✓" : `${leftS.toFixed(1)} s to go`;
}

function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
