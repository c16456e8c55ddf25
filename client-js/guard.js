// The guard: ask before an act, count it, and have it billed by the event that it emits.
//
// Guarantee: the key of a use is the caller's: the same call again, after an answer that was lost, is done once. What is
// blocked is an answer, and no error.

import { Unreachable, said, withQuery } from "./calls.js";
import { moment } from "./events.js";

const DECISIONS = new Set(["allow", "warn", "block"]);

export class Guard {
  #line;
  #world;

  constructor(line, world) {
    this.#line = line;
    this.#world = world;
  }

  /** Whether so much may be used now; nothing is used. `wish`: {org_id, metric, quantity, payer}. */
  check({ org_id, metric, quantity, payer }) {
    return this.#ask("check", { org_id, metric, quantity, payer });
  }

  /** Use so much at once, where it may be used. `wish`: {org_id, metric, quantity, payer, project, subject, event}. `event`: a
   * type, or an object by the server's names with its `event_type`: the use counts against limits, and the event is
   * billed, both or neither. */
  consume(key, wish) {
    return this.#ask("consume", { key, ...wish, event: this.#event(wish.event) });
  }

  /** Hold so much until it is known what was used. `wish`: as `consume`, without an event; `for_ms`: the hold. */
  reserve(key, wish) {
    return this.#ask("reserve", { key, ...wish });
  }

  /** End it with what was used in all. */
  settle(key, actual, reason = undefined) {
    return this.#ask("settle", { key, actual, reason });
  }

  /** Give it up; what it used all the same counts. */
  release(key, incurred = 0, reason = undefined) {
    return this.#ask("release", { key, incurred, reason });
  }

  /** Hold `to` in all, and for longer. */
  extend(key, { to, for_ms, reason } = {}) {
    return this.#ask("extend", { key, to, for_ms, reason });
  }

  /** The four ways out of a block, and which are open now. */
  options({ org_id, metric, quantity, payer }) {
    const path = `/v1/guard/${encodeURIComponent(org_id)}/options`;
    return this.#line.ask({ method: "GET", path: withQuery(path, { metric, quantity, payer }) });
  }

  #event(event) {
    if (event === undefined || event === null) return undefined;
    const given = typeof event === "string" ? { event_type: event } : { ...event };
    if (given.occurred_at === undefined) return { recorded_at: this.#world.now(), ...given };
    return { ...given, occurred_at: moment(given.occurred_at) };
  }

  async #ask(act, order) {
    const found = await this.#line.ask({ method: "POST", path: `/v1/guard/${act}`, order: said(order) });
    if (!DECISIONS.has(found.decision)) throw new Unreachable("the answer of the guard has no decision");
    return { ...found, isAllowed: found.decision !== "block" };
  }
}
