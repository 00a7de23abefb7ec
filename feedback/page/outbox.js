// The one answer that is under way. It is kept by the browser until the app has acknowledged it, under one id, so that
// neither a reload nor a restart of the app loses it or counts it twice.

import { persist } from "./api.js";

const KEY = "outbox";

export class Outbox {
  #api;
  #kept = null; // where storage is off, for as long as the page is open

  constructor(api) {
    this.#api = api;
  }

  /** The answer that waits: {path, body}, or null. */
  get waiting() {
    try {
      return JSON.parse(localStorage.getItem(KEY)) ?? this.#kept;
    } catch {
      return this.#kept;
    }
  }

  put(path, body) {
    this.#kept = { path, body };
    try {
      localStorage.setItem(KEY, JSON.stringify(this.#kept));
    } catch {
      // storage is off or full: kept in the page alone
    }
  }

  /** Sends what waits until it is acknowledged, or refused for good (then throws ApiError). -> receipt, or null. */
  async deliver(onWait) {
    const answer = this.waiting;
    if (!answer) return null;
    let refused;
    const receipt = await persist(() => this.#api.change("POST", answer.path, answer.body), onWait).catch((error) => {
      refused = error;
    });
    this.#clear();
    if (refused) throw refused;
    return receipt;
  }

  #clear() {
    this.#kept = null;
    try {
      localStorage.removeItem(KEY);
    } catch {
      // storage is off
    }
  }
}
