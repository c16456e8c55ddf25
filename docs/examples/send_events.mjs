// Sends usage to Drawdown from Node 18 or newer, without a dependency: URL and KEY in the environment.
// The same ids again are duplicates, so trying again is safe.
const { URL: url, KEY: key } = process.env;

const AGAIN = new Set([408, 429]);
const TOO_LARGE = 413; // final of a proxy, too
const MOST_TRIES = 6;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Results of up to 1,000 events, in their order. */
async function send(events) {
  for (let attempt = 1; ; attempt++) {
    let why, asked;
    try {
      const answer = await fetch(`${url}/v1/events`, {
        method: "POST",
        headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
        body: JSON.stringify(events),
        redirect: "manual",
        signal: AbortSignal.timeout(30_000),
      });
      const said = await answer.text();
      why = `${answer.status} ${said}`;
      asked = Number(answer.headers.get("retry-after")) * 1000;
      if (answer.status === TOO_LARGE) throw Object.assign(new Error(why), { final: true });
      const { results, error } = JSON.parse(said); // without JSON, a proxy answered: retry
      // 200: all are kept. 207: some are. 422: none is, and the results say why.
      if (results && (answer.ok || answer.status === 422)) return results;
      const isOfDrawdown = typeof error?.code === "string";
      if (isOfDrawdown && answer.status < 500 && !AGAIN.has(answer.status))
        throw Object.assign(new Error(why), { final: true });
    } catch (error) {
      if (error.final) throw error;
      why ??= String(error);
    }
    if (attempt === MOST_TRIES) throw new Error(`not sent after ${attempt} tries: ${why}`);
    await pause(Math.max(asked || 0, Math.random() * Math.min(200 * 2 ** attempt, 60_000)));
  }
}

const at = Date.UTC(2026, 1, 3, 0, 0, 1);
const events = [3, 2, 1].map((quantity, number) => ({
  source: "/node",
  event_id: `node-${number + 1}`, // yours, and the same whenever it is sent again
  event_type: "page.render",
  org_id: "acme",
  quantity,
  occurred_at: at + number,
}));
for (const [number, result] of (await send(events)).entries()) {
  console.log(events[number].event_id, result.status, result.code ?? "");
  if (["invalid", "conflict"].includes(result.status)) process.exitCode = 1; // not kept: fix it, or keep it yourself
}
