// Make one call to the server: its request, its response and its retries.
//
// Guarantee: the client retries a call only if a retry is safe and may help. It retries after a missing or broken
// connection, an invalid response, a redirect, 408, 429 and 5xx. Any other refusal is final for the caller who waits. If
// it lacks Drawdown's code, a proxy refused the call, maybe for its content. Then the client sends a recorded event again
// later. The client does not follow redirects, so it never sends the key to another address. If a response is too large,
// or is not a JSON object, the client throws an error.

export const CALL_TRIES = 4; // maximum attempts of a call for which the program waits
export const CALL_WITHIN_MS = 15_000; // time from the start of such a call in which a retry can begin
export const ANSWER_MS = 30_000; // time limit of one attempt
export const FIRST_PAUSE_MS = 200; // longest pause before the first retry, doubled after each failure
export const LONGEST_PAUSE_MS = 60_000;
export const LONGEST_RETRY_AFTER_MS = 300_000; // longest wait that the server can request
export const MAX_ANSWER_BYTES = 8 * 1024 * 1024;
const AGAIN = new Set([408, 429]);
export const TOO_LARGE = 413;
const NO_CODE = "no_code"; // the code of a refusal that is of a proxy, not of Drawdown
const NOTHING_KEPT = 422; // the server did not store any item of a batch; `results` has the reason for each item
const SHOWN_CHARS = 300;

export class DrawdownError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** Thrown if the server refused a call, changed nothing, and would refuse the same call again. */
export class Refused extends DrawdownError {
  constructor(status, code, message, details) {
    super(`${status} ${code}: ${message}`);
    Object.assign(this, { status, code, details });
  }

  /** True if a proxy refused the call, so that it may pass later. 413 is final: each retry has the same size. */
  get mayPassLater() {
    return this.code === NO_CODE && this.status !== TOO_LARGE;
  }
}

/** Thrown without a usable response. The server may have done the call. You can safely repeat it with the same key. */
export class Unreachable extends DrawdownError {
  constructor(message, retryAfterMs = 0, options = undefined) {
    super(message, options);
    this.retryAfterMs = retryAfterMs;
  }
}

export class Line {
  /** `world`: the clock, the ids, the pauses and the fetch function, which tests replace. */
  constructor(url, key, settings, world) {
    if (typeof url !== "string")
      throw new TypeError("invalid url: expected a string. Call new Client(url, key, settings)");
    const found = new URL(url); // TypeError for an invalid address
    if (!["http:", "https:"].includes(found.protocol))
      throw new TypeError("invalid server address: expected http://… or https://…");
    if (!key) throw new TypeError("missing key. Pass `key`, or set DRAWDOWN_URL and DRAWDOWN_KEY and call Client.fromEnv()");
    this.url = url.replace(/\/+$/, "");
    this.headers = { Authorization: `Bearer ${key}`, Accept: "application/json" };
    this.settings = settings;
    this.world = world;
  }

  /** Make a call, with retries within the bounds of the settings. Errors: Refused, Unreachable. */
  async ask(call) {
    const { tries, withinMs } = this.settings;
    const began = this.world.now();
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.once(call);
      } catch (error) {
        if (!(error instanceof Unreachable)) throw error;
        const wait = this.pauseMs(attempt, error.retryAfterMs);
        if (attempt >= tries || this.world.now() - began + wait > withinMs) throw error;
        await this.world.pause(wait);
      }
    }
  }

  pauseMs(attempt, retryAfterMs = 0) {
    const most = Math.min(FIRST_PAUSE_MS * 2 ** Math.min(attempt - 1, 30), LONGEST_PAUSE_MS);
    return Math.max(this.world.random() * most, retryAfterMs);
  }

  /** Make a call once, without retries. `body`: the JSON of `order`. Errors: Refused, Unreachable. */
  async once({ method, path, order, body = JSON.stringify(order), once }) {
    const headers = { ...this.headers };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (once !== undefined) headers["Idempotency-Key"] = once;
    const signal = AbortSignal.timeout(this.settings.answerMs);
    let status, retryAfter, text;
    try {
      const answer = await this.world.fetch(this.url + path, { method, headers, body, redirect: "manual", signal });
      ({ status } = answer);
      retryAfter = answer.headers.get("retry-after");
      text = await bounded(answer);
    } catch (error) {
      if (error instanceof Unreachable) throw error;
      throw new Unreachable(`no response (${error.name}): ${error.cause?.code ?? error.message}`, 0, { cause: error });
    }
    return read(status, retryAfter, text);
  }
}

/** Return the text of a response. Errors: Unreachable above MAX_ANSWER_BYTES. */
async function bounded(answer) {
  const pieces = [];
  let bytes = 0;
  for await (const piece of answer.body ?? []) {
    bytes += piece.byteLength;
    if (bytes > MAX_ANSWER_BYTES)
      throw new Unreachable(`invalid response: more than ${MAX_ANSWER_BYTES} bytes. Check the server address`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

function read(status, retryAfter, text) {
  const found = object(text);
  const isDone = status >= 200 && status < 300;
  if (found && (isDone || (status === NOTHING_KEPT && Array.isArray(found.results)))) return found;
  if (isDone)
    throw new Unreachable(`invalid response: expected a JSON object, got ${shown(text)}. Check the server address`);
  const error = found?.error ?? {};
  const code = typeof error.code === "string" ? shown(error.code) : NO_CODE;
  const message = shown(error.message ?? text);
  const isRefusal = status >= 400 && status < 500 && !AGAIN.has(status);
  if (!isRefusal) throw new Unreachable(`${status} ${code}: ${message}`, asked(retryAfter));
  throw new Refused(status, code, message, error.details);
}

function object(text) {
  try {
    const found = JSON.parse(text);
    return found !== null && typeof found === "object" && !Array.isArray(found) ? found : undefined;
  } catch {
    return undefined;
  }
}

function asked(retryAfter) {
  const seconds = /^[0-9]{1,10}$/.test(retryAfter ?? "") ? Number(retryAfter) : 0;
  return Math.min(seconds * 1000, LONGEST_RETRY_AFTER_MS);
}

/** Return a server's text in a form that is safe in a line of a log: short, without control characters. */
export function shown(value) {
  return String(value).slice(0, SHOWN_CHARS).replace(/\p{C}/gu, "?");
}

/** Return an object without its undefined and null fields. */
export function said(order) {
  return Object.fromEntries(Object.entries(order).filter(([, value]) => value !== undefined && value !== null));
}

/** Return a path with its query. A list becomes a parameter for each value. */
export function withQuery(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(said(query)))
    for (const one of Array.isArray(value) ? value : [value]) words.append(name, String(one));
  return words.size || [...words].length ? `${path}?${words}` : path;
}
