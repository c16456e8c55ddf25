// Sign up a customer, as in docs/sign-up.md. Set DRAWDOWN_URL and DRAWDOWN_KEY. You can run the program twice, because
// the server does each call once for its key.
import { Client } from "../index.js";

const client = Client.fromEnv({ source: "/web" });
const once = (key) => ({ key });
const now = Date.now();
const window = now - (now % 300_000);

// Once: what you sell.
await client.post("/v1/event-types/page.render/map", { feature: "render", new: true }, once("once-1"));
await client.post("/v1/rates/render", { micro_credits: 2000, new: true }, once("once-2"));
await client.post("/v1/metrics/export", { phase: 3, new: true }, once("once-3"));
await client.post("/v1/metrics/export/limits", { amount: 1000 }, once("once-4"));

// For each customer: the organisation, trial credit, and a key of its own.
const org = process.argv[2] ?? "initech";
const begin = Number(process.argv[3] ?? window); // pass the same time if you run the program again
const ends = begin + 30 * 86_400_000;
await client.post(
  `/v1/orgs/${org}/assign`,
  { provider: "embedded", from_ms: begin, new: true, reason: "signed up" },
  once(`${org}-1`),
);
const trial = { amount: 10, kind: "bonus", expires_ms: ends, reason: "trial", new: true };
const granted = await client.post(`/v1/wallets/${org}/grants`, trial, once(`${org}-2`));
const scopes = ["events:write", "guard", "usage:read"];
const made = await client.post(
  "/v1/keys",
  { name: org, org_id: org, scopes, source: `/${org}`, reason: "signed up" },
  once(`${org}-3`),
);

// Tell your product about low balances.
const hook = { url: "https://product.example/webhooks/drawdown", events: ["balance.low", "organisation.halted"], new: true };
await client.post("/v1/hooks/product", hook, once("hook-1"));
await client.post("/v1/levels", { low: 2 }, once("hook-2"));

// Use it.
client.record("page.render", 3, { org_id: org, event_id: `${org}-page-1` });
await client.flush();
const use = { org_id: org, metric: "export", event: { event_type: "page.render", quantity: 2 } };
const found = await client.guard.consume(`${org}-export-1`, use);
const { available } = await client.get(`/v1/balance/${org}`);
const { usage } = await client.get("/v1/usage", { by: ["org", "feature", "day"], org_id: org });
console.log(JSON.stringify({ begin, granted, key: made, found, available, usage }));
await client.close();
