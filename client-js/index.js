// The client for Node 18 or newer, without dependencies.

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";

import { ANSWER_MS, CALL_TRIES, CALL_WITHIN_MS, Line, withQuery } from "./calls.js";
import { BATCH_MS, Events, QUEUE_ITEMS } from "./events.js";
import { Guard } from "./guard.js";

export { DrawdownError, Refused, Unreachable } from "./calls.js";
export { BadItem, QueueFull, Unsent } from "./events.js";

const WORLD = {
  now: () => Date.now(),
  newId: () => randomUUID(),
  random: () => Math.random(),
  pause: (ms, signal = undefined) => setTimeout(ms, undefined, { signal }).catch(() => {}),
  fetch: (...given) => fetch(...given),
};
const SETTINGS = {
  source: "drawdown-client-js", // the source of events without a source
  onResult: undefined, // called once for each recorded event
  tries: CALL_TRIES,
  withinMs: CALL_WITHIN_MS,
  answerMs: ANSWER_MS,
  batchMs: BATCH_MS,
  queueItems: QUEUE_ITEMS,
};

/** A client of one server, with one key. Close the client, because it sends recorded events in the background. */
export class Client {
  #line;
  #world;

  /** `settings`: the fields of SETTINGS. `world` is for tests. */
  constructor(url, key, settings = {}, world = {}) {
    const whole = { ...SETTINGS, ...settings };
    const [other] = Object.keys(settings).filter((name) => !(name in SETTINGS));
    if (other !== undefined)
      throw new TypeError(`there is no setting ${other}. The settings are ${Object.keys(SETTINGS).join(", ")}`);
    this.#world = { ...WORLD, ...world };
    this.url = url;
    this.#line = new Line(url, key, whole, this.#world);
    this.events = new Events(this.#line, whole, this.#world);
    this.guard = new Guard(this.#line, this.#world);
  }

  /** Return a client of the server in DRAWDOWN_URL, with the key in DRAWDOWN_KEY. Errors: TypeError. */
  static fromEnv(settings = {}) {
    const { DRAWDOWN_URL: url, DRAWDOWN_KEY: key } = process.env;
    if (!url || !key) throw new TypeError("missing server address or key. Set DRAWDOWN_URL and DRAWDOWN_KEY");
    return new Client(url, key, settings);
  }

  /** Call an operation of /openapi.json that changes data, by its path. `key`: the idempotency key, by default a new
   * key. If `order` has `dry_run`, the server returns the effect without any change. Errors: Refused, Unreachable. */
  post(path, order = {}, { key = this.#world.newId() } = {}) {
    return this.#line.ask({ method: "POST", path, order, once: key });
  }

  /** Call an operation of /openapi.json that only reads data, by its path. Errors: Refused, Unreachable. */
  get(path, query = {}) {
    return this.#line.ask({ method: "GET", path: withQuery(path, query) });
  }

  /** Record one event, and return its id. The default quantity is 1. */
  record(eventType, quantity = 1, more = {}) {
    return this.events.record(eventType, quantity, more);
  }

  /** Wait for the results of all events recorded so far. Errors: Unsent. */
  flush() {
    return this.events.flush();
  }

  /** Send waiting events within `withinMs` milliseconds, then stop. Errors: Unsent. */
  close(withinMs) {
    return this.events.close(withinMs);
  }
}
