// A clip's waveform on a canvas: what was heard in colour, what was not in grey, a line where the clip plays.

const BAR_PX = 3;
const GAP_PX = 2;

/** Loudest sample of each of `count` slices of a clip, the loudest of all at 1. bytes: the FLAC file. */
export async function peaksOf(bytes, count = 240) {
  const context = new OfflineAudioContext(1, 1, 44_100);
  const audio = await context.decodeAudioData(bytes);
  const samples = audio.getChannelData(0);
  const size = samples.length / count;
  const peaks = Array.from({ length: count }, (_, i) => {
    let peak = 0;
    for (let n = Math.floor(i * size); n < (i + 1) * size && n < samples.length; n++) {
      peak = Math.max(peak, Math.abs(samples[n]));
    }
    return peak;
  });
  const loudest = Math.max(...peaks, 1e-6);
  return peaks.map((peak) => peak / loudest);
}

export class Waveform {
  #canvas;
  #state = { peaks: [], heard: [], position: 0, seconds: 1, active: false };

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Takes what is new of {peaks, heard, position, seconds, active} and draws. */
  show(changes) {
    Object.assign(this.#state, changes);
    this.#draw();
  }

  #draw() {
    const canvas = this.#canvas;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    this.#drawBars(pen, width, height);
    this.#drawPosition(pen, width, height);
  }

  #drawBars(pen, width, height) {
    const { peaks, heard, seconds } = this.#state;
    const style = getComputedStyle(this.#canvas);
    const colours = [style.getPropertyValue("--wave"), style.getPropertyValue("--accent")];
    const bars = Math.max(1, Math.floor((width + GAP_PX) / (BAR_PX + GAP_PX)));
    for (let bar = 0; bar < bars; bar++) {
      const from = Math.floor((bar / bars) * peaks.length);
      const upTo = Math.max(from + 1, Math.floor(((bar + 1) / bars) * peaks.length));
      const peak = peaks.length ? Math.max(...peaks.slice(from, upTo)) : 0;
      const tall = Math.max(BAR_PX, peak * (height - 4));
      const middle = ((bar + 0.5) / bars) * seconds;
      const isHeard = heard.some(([start, end]) => start <= middle && middle <= end);
      pen.fillStyle = colours[Number(isHeard)];
      pen.beginPath();
      pen.roundRect(bar * (BAR_PX + GAP_PX), (height - tall) / 2, BAR_PX, tall, BAR_PX / 2);
      pen.fill();
    }
  }

  #drawPosition(pen, width, height) {
    const { position, seconds, active } = this.#state;
    if (!active && position === 0) return;
    pen.fillStyle = getComputedStyle(this.#canvas).getPropertyValue("--ink");
    pen.fillRect(Math.min(width - 2, (position / seconds) * width), 0, 2, height);
  }
}
