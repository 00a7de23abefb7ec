// Requests to the app. Every wait has a deadline; what is worth another try says so.

const DEADLINE_MS = 20_000;

/** A refusal (status above 399), or no answer (status 0). */
export class ApiError extends Error {
  constructor(status, message, retryAfterS = 0) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }

  /** The same request may succeed later. */
  get isTransient() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export class Api {
  #token = "";

  /** Who this page speaks for. Renews the token of all later requests. */
  async session() {
    const session = await this.#send("GET", "/api/session");
    this.#token = session.csrf_token;
    return session;
  }

  get(path) {
    return this.#send("GET", path);
  }

  /** A request that needs no token of ours. */
  post(path, body) {
    return this.#send("POST", path, body);
  }

  /** A request that changes something. A token that has become old is renewed once. */
  async change(method, path, body) {
    if (!this.#token) await this.session();
    try {
      return await this.#send(method, path, body);
    } catch (error) {
      if (error.status !== 403 || !error.message.startsWith("x-csrf-token")) throw error;
      await this.session();
      return this.#send(method, path, body);
    }
  }

  async #send(method, path, body) {
    const headers = { accept: "application/json" };
    if (body !== undefined) headers["content-type"] = "application/json";
    if (method !== "GET") headers["x-csrf-token"] = this.#token;
    let response;
    try {
      const options = { method, headers, credentials: "same-origin", signal: AbortSignal.timeout(DEADLINE_MS) };
      response = await fetch(path, { ...options, body: body === undefined ? undefined : JSON.stringify(body) });
    } catch {
      throw new ApiError(0, "no connection to the app");
    }
    const data = await response.json().catch(() => null);
    if (response.ok && data !== null) return data;
    // Only our own refusals carry `error`. Anything else comes from what stands in front while the app restarts.
    if (typeof data?.error !== "string") throw new ApiError(0, "the app is not answering");
    throw new ApiError(response.status, data.error, Number(response.headers.get("retry-after")) || 0);
  }
}

/** Calls `action` until it succeeds or fails for good; `onWait(error)` hears of each failure in between. */
export async function persist(action, onWait = () => {}) {
  for (let pauseMs = 700; ; pauseMs = Math.min(pauseMs * 1.7, 10_000)) {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof ApiError) || !error.isTransient) throw error;
      onWait(error);
      await sleep(Math.max(pauseMs, error.retryAfterS * 1000));
    }
  }
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A random id of 32 hexadecimal digits. (crypto.randomUUID is missing where a page is not served by https.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
