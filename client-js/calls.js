// One call of the server: its request, its answer, and its retries.
//
// Guarantee: a call is retried only if the same call is safe and may help: no connection, a cut one, an answer
// that cannot be read, 408, 429, 5xx. Any other refusal is final. Redirects are not followed, so the key goes to no
// other address. An answer is a JSON object of bounded size; otherwise the client throws an error.

export const CALL_TRIES = 4; // attempts of a call for which the program waits
export const CALL_WITHIN_MS = 15_000; // after this, no further attempt of such a call begins
export const ANSWER_MS = 30_000; // time limit of one attempt
export const FIRST_PAUSE_MS = 200; // longest first pause, doubled after each further failure
export const LONGEST_PAUSE_MS = 60_000;
export const LONGEST_RETRY_AFTER_MS = 300_000; // longest wait that the server can request
export const MAX_ANSWER_BYTES = 8 * 1024 * 1024;
const AGAIN = new Set([408, 429]);
const NOTHING_KEPT = 422; // a batch of which the server stored no item: `results` has the reason of each
const SHOWN_CHARS = 300;

export class DrawdownError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An error: the server refused the call, would refuse it again, and did nothing. */
export class Refused extends DrawdownError {
  constructor(status, code, message, details) {
    super(`${status} ${code}: ${message}`);
    Object.assign(this, { status, code, details });
  }
}

/** An error: no answer, so it is unknown if the call was done. The same call under the same key is safe. */
export class Unreachable extends DrawdownError {
  constructor(message, retryAfterMs = 0, options = undefined) {
    super(message, options);
    this.retryAfterMs = retryAfterMs;
  }
}

export class Line {
  /** `world`: the clock, the ids, the pauses and the fetch; tests pass others. */
  constructor(url, key, settings, world) {
    if (typeof url !== "string") throw new TypeError("new Client(url, key, settings): url must be a string");
    const found = new URL(url); // TypeError for an invalid address
    if (!["http:", "https:"].includes(found.protocol)) throw new TypeError("the server's address is http://… or https://…");
    if (!key) throw new TypeError("the client has no key");
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
        const wait = this.pauseMs(attempt, error);
        if (attempt >= tries || this.world.now() - began + wait > withinMs) throw error;
        await this.world.pause(wait);
      }
    }
  }

  pauseMs(attempt, error) {
    const most = Math.min(FIRST_PAUSE_MS * 2 ** Math.min(attempt - 1, 30), LONGEST_PAUSE_MS);
    return Math.max(this.world.random() * most, error.retryAfterMs);
  }

  /** Make a call once, without retries. Errors: Refused, Unreachable. */
  async once({ method, path, order, once }) {
    const headers = { ...this.headers };
    if (order !== undefined) headers["Content-Type"] = "application/json";
    if (once !== undefined) headers["Idempotency-Key"] = once;
    const body = order === undefined ? undefined : JSON.stringify(order);
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

/** Return the text of an answer. Errors: Unreachable if it is too long. */
async function bounded(answer) {
  const pieces = [];
  let bytes = 0;
  for await (const piece of answer.body ?? []) {
    bytes += piece.byteLength;
    if (bytes > MAX_ANSWER_BYTES) throw new Unreachable(`the response has more than ${MAX_ANSWER_BYTES} bytes`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString("utf8");
}

function read(status, retryAfter, text) {
  const found = object(text);
  const isDone = status >= 200 && status < 300;
  if (found && (isDone || (status === NOTHING_KEPT && Array.isArray(found.results)))) return found;
  if (isDone) throw new Unreachable(`the response to a call is not a JSON object: ${shown(text)}`);
  const error = found?.error ?? {};
  const code = shown(error.code ?? "no_code");
  const message = shown(error.message ?? text);
  if (status >= 500 || AGAIN.has(status)) throw new Unreachable(`${status} ${code}: ${message}`, asked(retryAfter));
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

/** Return a server's text for a line of a log: short, and without control characters. */
export function shown(value) {
  return String(value).slice(0, SHOWN_CHARS).replace(/\p{C}/gu, "?");
}

/** Return an order without its empty fields. */
export function said(order) {
  return Object.fromEntries(Object.entries(order).filter(([, value]) => value !== undefined && value !== null));
}

/** Return a path with its query. A list becomes one parameter for each value. */
export function withQuery(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(said(query)))
    for (const one of Array.isArray(value) ? value : [value]) words.append(name, String(one));
  return words.size || [...words].length ? `${path}?${words}` : path;
}
