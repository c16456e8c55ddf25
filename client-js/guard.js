// The guard: check a use before it starts, count it, and bill it by the event that it emits.
//
// Guarantee: the caller chooses the key of a use. If you repeat a call with the key, the server counts the use once. A
// blocked use is a result, not an error.

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

  /** Return the decision on a use, without counting the use. `wish`: {org_id, metric, quantity, payer}. */
  check({ org_id, metric, quantity, payer }) {
    return this.#ask("check", { org_id, metric, quantity, payer });
  }

  /** Use a quantity at once, if the guard allows the use. `wish`: {org_id, metric, quantity, payer, project, subject,
   * event}. `event`: a type, or an object with the server's field names and an `event_type`. Drawdown
   * counts the use and bills the event, or does neither. */
  consume(key, wish) {
    return this.#ask("consume", { key, ...wish, event: this.#event(wish.event) });
  }

  /** Reserve a quantity, if the guard allows the use. `wish`: as for `consume`, without `event`, and with `for_ms`: the
   * length of the reservation. */
  reserve(key, wish) {
    return this.#ask("reserve", { key, ...wish });
  }

  /** Settle a reserved use with its total quantity. */
  settle(key, actual, reason = undefined) {
    return this.#ask("settle", { key, actual, reason });
  }

  /** Release a reserved use, and count only the quantity `incurred`. */
  release(key, incurred = 0, reason = undefined) {
    return this.#ask("release", { key, incurred, reason });
  }

  /**
   * Extend a reserved use, and increase its quantity to `to` (default: unchanged). `for_ms`: milliseconds from now
   * (default: an hour). The call never reduces the quantity or the time until expiry.
   */
  extend(key, { to, for_ms, reason } = {}) {
    return this.#ask("extend", { key, to, for_ms, reason });
  }

  /** Return the four ways out of a block, and which are open now. */
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
    if (!DECISIONS.has(found.decision))
      throw new Unreachable("invalid response: expected a decision. Check the server address");
    return { ...found, isAllowed: found.decision !== "block" };
  }
}
