// What has been heard of a clip: stretches [start, end] in seconds, sorted and apart.

const TOUCHING_S = 0.02; // stretches that a pause left almost touching are one

/** The union of stretches in any order. */
export function union(stretches) {
  const joined = [];
  for (const [start, end] of [...stretches].sort((one, other) => one[0] - other[0])) {
    const last = joined.at(-1);
    if (last && start <= last[1] + TOUCHING_S) last[1] = Math.max(last[1], end);
    else if (end > start) joined.push([start, end]);
  }
  return joined;
}

/** Seconds in stretches that are sorted and apart. */
export function total(stretches) {
  return stretches.reduce((sum, [start, end]) => sum + end - start, 0);
}

/** What the browser says was played of a media element. */
export function playedOf(media) {
  return Array.from({ length: media.played.length }, (_, i) => [media.played.start(i), media.played.end(i)]);
}

/** Stretches of a pair's clips that survive a reload of the tab. */
export class HeardStore {
  constructor(pairId) {
    this.key = `heard ${pairId}`;
  }

  read(side) {
    return this.#content()[side] ?? [];
  }

  write(side, stretches) {
    keep(this.key, { ...this.#content(), [side]: stretches });
  }

  clear() {
    forget(this.key);
  }

  #content() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key)) ?? {};
    } catch {
      return {};
    }
  }
}

function keep(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    // storage is off or full: a reload then begins anew, nothing else is lost
  }
}

function forget(key) {
  try {
    sessionStorage.removeItem(key);
  } catch {
    // as above
  }
}
