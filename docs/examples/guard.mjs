// Asks the guard from Node 18 or newer, without a dependency: URL and KEY in the environment.
// The same call under the same key is done once, so trying again is safe.
const { URL: url, KEY: key } = process.env;

const AGAIN = new Set([408, 429]);
const MOST_TRIES = 4; // somebody waits
const WITHIN_MS = 15_000; // and no try begins later
const FAILS_OPEN = new Set(["login.email"]); // as `guard set METRIC --fail open` has it
const UNREADABLE = "database_unreadable"; // let through by a server that has not written it down yet
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Refused extends Error {}
/** Nobody answered: it was done, or not. */
class Unreachable extends Error {}

/** The guard's response. What it blocks is a response, too. */
async function call(path, body, mostTries = MOST_TRIES) {
  const began = Date.now();
  for (let attempt = 1; ; attempt++) {
    let why, asked;
    try {
      const answer = await fetch(`${url}/v1/guard/${path}`, {
        method: "POST",
        headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
        body: JSON.stringify(body),
        redirect: "manual",
        signal: AbortSignal.timeout(5_000),
      });
      const said = await answer.text();
      why = `${answer.status} ${said}`;
      asked = Number(answer.headers.get("retry-after")) * 1000;
      // Also of a proxy: it may refuse the content, so the use must not fail open.
      if (answer.status >= 400 && answer.status < 500 && !AGAIN.has(answer.status)) throw new Refused(why);
      const found = JSON.parse(said); // without JSON, a proxy answered: retry
      if (answer.ok && found.decision) return found;
    } catch (error) {
      if (error instanceof Refused) throw error;
      why ??= String(error);
    }
    const wait = Math.max(asked || 0, Math.random() * 200 * 2 ** attempt);
    if (attempt >= mostTries || Date.now() - began + wait > WITHIN_MS) throw new Unreachable(why);
    await pause(wait);
  }
}

const untold = []; // what was let through without the server, in order, until it has written that down
let telling = Promise.resolve();

/** Tells the server what was let through; why that did not come to its end. One after the other. */
const tell = () => (telling = telling.then(tellAll));
async function tellAll() {
  while (untold.length) {
    const [path, order] = untold[0];
    try {
      const answer = await call(path, order, 1);
      if (answer.reason === UNREADABLE) return new Unreachable("its database is away");
    } catch (error) {
      if (error instanceof Unreachable) return error;
      console.error(`never counted: ${order.key}: ${error.message}`);
    }
    untold.shift();
  }
}

/** `consume` or `reserve`. Without a response, a metric that fails open allows the use and records it later. Otherwise: Unreachable. */
async function use(path, order) {
  const away = await tell();
  const failsOpen = FAILS_OPEN.has(order.metric);
  const late = [path, { ...order, let_through: true }];
  try {
    if (away && failsOpen) throw away;
    const answer = await call(path, order);
    if (answer.reason === UNREADABLE) untold.push(late);
    return answer;
  } catch (error) {
    if (!(error instanceof Unreachable) || !failsOpen) throw error;
    untold.push(late);
    return { decision: "allow", reason: "unreachable", degraded: true };
  }
}

/** `settle` or `release`: later, where the server was not told of the beginning yet. */
async function end(path, order) {
  const away = await tell();
  if (!away || !untold.some(([, { key }]) => key === order.key)) return call(path, order);
  untold.push([path, order]);
  return { decision: "allow", reason: "unreachable", degraded: true };
}

async function act(what, doing) {
  try {
    const { decision, reason, charged, options } = await doing();
    console.log(what, decision, reason, decision === "block" ? options.join(" ") : `charged ${charged ?? "later"}`);
    return decision !== "block";
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    console.error(what, "has no response:", error.message); // it is not done; the same call is safe at any time
    process.exitCode = 1;
    return false;
  }
}

const org_id = "acme";
const copy = async () => 31_250_000; // yours: it returns the bytes that it copied

await act("check", () => call("check", { org_id, metric: "idea.create" }));
await act("idea", () => use("consume", { key: "node-idea-1", org_id, metric: "idea.create", subject: "ann" }));
const held = { key: "node-copy-1", org_id, metric: "bandwidth", quantity: 50_000_000, for_ms: 600_000 };
if (await act("copy", () => use("reserve", held))) {
  let actual;
  try {
    actual = await copy();
  } catch (error) {
    await end("release", { key: held.key });
    throw error;
  }
  await act("copied", () => end("settle", { key: held.key, actual }));
}
await act("login", () => use("consume", { key: "node-login-1", org_id, metric: "login.email" }));
await tell();
for (const [path, order] of untold) console.error(`not told yet: ${path} ${order.key}`);
if (untold.length) process.exitCode = 1;
