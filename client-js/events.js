// Record usage events and send them in the background, or send events at once and return their results.
//
// Guarantee: the client makes an event once. A retry sends the same bytes with the same id, so that the server
// recognises the event. If a proxy refuses an event alone, the client sends the other events first, and this event up to
// MOST_REFUSALS times. The number of waiting events is bounded, and an event is never lost silently. If the server
// rejects an event, or events are left when the client is closed, the client throws an error with their number.

import { DrawdownError, FIRST_PAUSE_MS, Refused, TOO_LARGE, Unreachable, said, shown } from "./calls.js";

export const BATCH_ITEMS = 1_000; // maximum number of events of one request, which is the server's limit
export const BATCH_BYTES = 4 * 1024 * 1024; // maximum bytes of one request, which is the server's limit
export const MAX_ITEM_BYTES = 16 * 1024; // maximum bytes of an event as JSON, which is the server's limit
export const BATCH_MS = 200; // time for which an event waits for other events of its request
export const QUEUE_ITEMS = 10_000;
export const CLOSE_MS = 10_000;
export const CLOSING_PAUSE_MS = 500; // longest pause before a retry while `close` waits
export const MOST_REFUSALS = 30; // maximum refusals of an event by a proxy, after which the client drops the event
export const MAX_QUANTITY = 1_000_000_000_000;
const KEPT = new Set(["accepted", "duplicate", "pending"]);

/** Thrown if an event is invalid, and was not recorded. */
export class BadItem extends DrawdownError {}
/** Thrown if the queue is full, and the event was not recorded. */
export class QueueFull extends DrawdownError {}
/** Thrown if the server did not store some events. `count`: the number of events that were not sent, or were in a
 * refused call. `rejected`: the number of events that the server rejected. `first`: the first result of these
 * events. */
export class Unsent extends DrawdownError {
  constructor(count, rejected, first) {
    const texts = first ? [first.status === "refused" ? undefined : first.code, first.message] : [];
    const why = texts.filter((text) => text !== undefined).map((text) => `: ${shown(text)}`).join("");
    super(`events not sent: ${count}, events that the server rejected: ${rejected}${why}`);
    Object.assign(this, { count, rejected, first });
  }
}

/** Return an event with the server's field names. Errors: BadItem. */
export function eventOf(eventType, quantity, more, source, world) {
  if (typeof eventType !== "string" || !eventType)
    throw new BadItem("invalid event_type: expected a string of 1 to 200 characters");
  if (!Number.isSafeInteger(quantity) || quantity < 0 || quantity > MAX_QUANTITY)
    throw new BadItem(`invalid quantity: expected a whole number from 0 to ${MAX_QUANTITY}. Use a smaller unit`);
  const { org_id, at, event_id, subject, project, plan_key, properties, ...unknown } = { ...more, source: undefined };
  const [other] = Object.keys(said(unknown));
  if (other !== undefined) throw new BadItem(`unknown field ${shown(other)} of an event. See EventMore in index.d.ts`);
  const isStamped = at === undefined && event_id !== undefined; // a repetition has another time, but is the same event
  const now = world.now();
  return said({
    source: more.source ?? source,
    event_id: event_id ?? world.newId(),
    event_type: eventType,
    org_id,
    quantity,
    recorded_at: isStamped ? now : undefined,
    occurred_at: isStamped ? undefined : at === undefined ? now : moment(at),
    subject,
    project,
    plan_key,
    properties,
  });
}

/** Return an event as JSON. Errors: BadItem. */
function encoded(event) {
  let json;
  try {
    json = JSON.stringify(event);
  } catch (error) {
    throw new BadItem(`invalid event: it cannot be encoded as JSON (${shown(error)}). Pass only JSON values`);
  }
  const bytes = Buffer.byteLength(json);
  if (bytes > MAX_ITEM_BYTES)
    throw new BadItem(`invalid event: expected at most ${MAX_ITEM_BYTES} bytes as JSON, got ${bytes}. Pass less data`);
  return json;
}

/** Return the call that sends events. `found`: their JSON. */
const batchOf = (found) => ({ method: "POST", path: "/v1/events", body: `[${found.join()}]` });

/** Return milliseconds since 1970. */
export const moment = (at) => (at instanceof Date ? at.getTime() : at);

export class Events {
  #line;
  #settings;
  #world;
  #waiting = []; // events, each with its JSON
  #postponed = new Set(); // events that a proxy refused, until the next attempt
  #sending; // the promise of the sending loop, while it runs
  #rejected = 0;
  #refused = 0;
  #first; // the first result that was rejected or refused
  #closed = false;
  #deadline = Infinity;
  #closing = new AbortController(); // ends a pause when the client is closed

  constructor(line, settings, world) {
    this.#line = line;
    this.#settings = settings;
    this.#world = world;
  }

  /** Record one event, and return its id. The client sends the event in the background. Errors: BadItem, QueueFull. */
  record(eventType, quantity = 1, more = {}) {
    const event = eventOf(eventType, quantity, more, this.#settings.source, this.#world);
    const json = encoded(event);
    if (this.#closed) throw new DrawdownError("the client is closed. Create another client");
    if (this.#count >= this.#settings.queueItems)
      throw new QueueFull(`queue is full (events: ${this.#count}). Try again later, or drop the event`);
    this.#take({ event, json, refusals: 0 });
    return event.event_id;
  }

  get #count() {
    return this.#waiting.length + this.#postponed.size;
  }

  #take(entry) {
    this.#waiting.push(entry);
    this.#sending ??= this.#send().finally(() => (this.#sending = undefined));
  }

  /** Send events with the server's field names, and return the result of each, in order. Each event must have an
   * `event_id`, so that you can safely repeat the call. Errors: Refused, Unreachable, BadItem. */
  async send(...events) {
    if (events.some((one) => !one.event_id)) throw new BadItem("missing event_id. Pass an id for each event");
    const found = events.map((one) => encoded(said({ source: this.#settings.source, ...one })));
    return results(await this.#line.ask(batchOf(found)), found.length);
  }

  /** Wait until no event waits to be sent. An event that a proxy refused waits again at its next attempt.
   * Errors: Unsent, also for refused events. */
  async flush() {
    while (this.#sending) await this.#sending;
    this.#requireSent();
  }

  /** Send waiting events within `withinMs` milliseconds, then stop. Errors: Unsent. */
  async close(withinMs = CLOSE_MS) {
    this.#closed = true;
    this.#deadline = this.#world.now() + withinMs;
    this.#closing.abort();
    for (const entry of this.#postponed) this.#take(entry);
    this.#postponed.clear();
    while (this.#sending) await this.#sending;
    this.#requireSent();
  }

  /** Wait for `ms` milliseconds, or until the client is closed. */
  #pause(ms) {
    return this.#closed
      ? this.#world.pause(Math.min(ms, CLOSING_PAUSE_MS))
      : this.#world.pause(ms, this.#closing.signal);
  }

  #requireSent() {
    const [count, rejected] = [this.#count + this.#refused, this.#rejected];
    const first = this.#first;
    this.#rejected = this.#refused = 0;
    this.#first = undefined;
    if (count || rejected) throw new Unsent(count, rejected, first);
  }

  /** Return the first waiting events, at most `most`, and BATCH_BYTES in one body. */
  #next(most) {
    let room = BATCH_BYTES - 1; // each event has a comma or bracket behind it; the other bracket is before the first
    const over = this.#waiting.findIndex(({ json }, at) => at === most || (room -= Buffer.byteLength(json) + 1) < 0);
    return over < 0 ? [...this.#waiting] : this.#waiting.slice(0, over);
  }

  async #send() {
    let attempt = 0;
    let most = BATCH_ITEMS; // halved if a batch is too large, doubled after an answer
    await this.#pause(this.#settings.batchMs);
    while (this.#waiting.length) {
      const batch = this.#next(most);
      try {
        const found = results(await this.#line.once(batchOf(batch.map(({ json }) => json))), batch.length);
        this.#answered(batch, found);
        attempt = 0;
        most = Math.min(most * 2, BATCH_ITEMS);
      } catch (error) {
        if (error instanceof Refused) {
          if (error.mayPassLater && this.#world.now() > this.#deadline) return;
          if ((error.status === TOO_LARGE || error.mayPassLater) && batch.length > 1) {
            most = Math.ceil(batch.length / 2);
            continue;
          }
          if (error.mayPassLater && this.#postpone(batch[0], error)) {
            await this.#pause(this.#world.random() * FIRST_PAUSE_MS); // bounds the calls if all events are refused
            continue;
          }
          this.#refused += batch.length;
          this.#answered(batch, Array(batch.length).fill({ status: "refused", code: error.code, message: error.message }));
          continue;
        }
        if (!(error instanceof Unreachable)) throw error;
        const asked = this.#line.pauseMs(++attempt, error.retryAfterMs);
        const wait = this.#closed ? Math.min(asked, CLOSING_PAUSE_MS) : asked;
        if (this.#world.now() + wait > this.#deadline) return;
        await this.#pause(wait);
      }
    }
  }

  /** Move an event that a proxy refused behind the others. Return false after MOST_REFUSALS. */
  #postpone(entry, error) {
    if (++entry.refusals >= MOST_REFUSALS) return false;
    this.#waiting.shift();
    this.#postponed.add(entry);
    this.#first ??= { status: "refused", code: error.code, message: error.message };
    if (!this.#closed)
      this.#world.pause(this.#line.pauseMs(entry.refusals), this.#closing.signal).then(() => {
        if (!this.#closed && this.#postponed.delete(entry)) this.#take(entry);
      });
    return true;
  }

  #answered(batch, found) {
    this.#waiting.splice(0, batch.length);
    if (found[0].status === "refused" && !this.#settings.onResult)
      console.error(`the server refused events (${batch.length}): ${found[0].message}`);
    found.forEach((result, at) => {
      if (result.status !== "refused" && !KEPT.has(result.status)) this.#rejected++;
      if (!KEPT.has(result.status)) this.#first ??= result;
      try {
        this.#settings.onResult?.(batch[at].event, result);
      } catch (error) {
        console.error(`onResult failed: ${shown(error)}`); // sending continues after any error of the callback
      }
    });
  }
}

/** Return the results of `count` events. Errors: Unreachable if the response lacks a result for an event. */
function results(answer, count) {
  const found = answer.results;
  if (!Array.isArray(found) || found.length !== count || found.some((one) => typeof one?.status !== "string"))
    throw new Unreachable(`invalid response: expected a result for each event, ${count} in all. Check the server address`);
  return found;
}
