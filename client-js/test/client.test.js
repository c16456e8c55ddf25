// The client against a server that fails in every way: its retries, its errors, and the calls that it makes only once.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { BadItem, Client, QueueFull, Refused, Unreachable, Unsent } from "../index.js";

/** Run `work` against a server that answers each request by the next of `answers`: a status, an object, or "cut". */
async function serving(answers, work, settings = {}) {
  const seen = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (piece) => (body += piece));
    request.on("end", () => {
      seen.push({ method: request.method, url: request.url, headers: request.headers, body: body && JSON.parse(body) });
      const next = answers.length > 1 ? answers.shift() : answers[0];
      const answer = typeof next === "function" ? next(seen.at(-1)) : next;
      if (answer === "cut") return request.socket.destroy();
      const { status = 200, headers = {}, ...said } = typeof answer === "number" ? { status: answer } : answer;
      response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(said.text ?? JSON.stringify(said));
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const pauses = [];
  const world = { pause: async (ms) => void pauses.push(ms) };
  const client = new Client(`http://127.0.0.1:${server.address().port}`, "key", settings, world);
  try {
    await work(client, seen, pauses);
  } finally {
    server.closeAllConnections?.();
    await new Promise((resolve) => server.close(resolve));
  }
}

const taken = ({ body }) => ({ results: body.map((one) => ({ status: "accepted", id: one.event_id })) });
const refusal = (status, code) => ({ status, error: { code, message: "no", details: { wrong: [] } } });

test("a call is repeated under its key until there is an answer", () =>
  serving(["cut", 503, { status: 429, headers: { "Retry-After": "2" } }, { done: 1 }], async (client, seen, pauses) => {
    assert.deepEqual(await client.post("/v1/keys", { name: "a" }), { done: 1 });
    assert.equal(seen.length, 4);
    assert.equal(new Set(seen.map((one) => one.headers["idempotency-key"])).size, 1);
    assert.ok(pauses.some((ms) => ms >= 2000), "it obeys Retry-After");
    await client.post("/v1/keys", { name: "a" });
    assert.notEqual(seen.at(-1).headers["idempotency-key"], seen[0].headers["idempotency-key"]);
  }));

test("a refusal is final, and an answer that never comes is unreachable", async () => {
  await serving([refusal(403, "no_scope")], async (client, seen) => {
    await assert.rejects(client.get("/v1/orgs"), (error) => error instanceof Refused && error.code === "no_scope");
    assert.equal(seen.length, 1);
  });
  await serving([503], async (client, seen) => {
    await assert.rejects(client.get("/v1/orgs"), Unreachable);
    assert.equal(seen.length, 4);
  });
  for (const text of ["", "[]", "null", "{", "x".repeat(9 * 1024 * 1024)])
    await serving([{ text }], (client) => assert.rejects(client.get("/v1/orgs"), Unreachable), { tries: 1 });
});

const FORBIDDEN = { status: 403, text: "<html>forbidden</html>" };

test("a proxy's redirect is no answer, and its refusal is final for who waits", async () => {
  await serving([{ status: 302, headers: { Location: "http://127.0.0.1:1/" } }, { done: 1 }], async (client, seen) => {
    assert.deepEqual(await client.get("/v1/orgs"), { done: 1 });
    assert.equal(seen.length, 2);
  });
  const refusals = [FORBIDDEN, { status: 404, error: { code: 404, message: "no route" } }, { status: 413, text: "<html>" }];
  for (const refused of refusals)
    await serving([refused], async (client, seen) => {
      await assert.rejects(client.post("/v1/keys"), (error) => error instanceof Refused && error.code === "no_code");
      assert.equal(seen.length, 1);
    });
});

test("an event that a proxy refuses does not hold up the others, and is dropped in the end", async () => {
  const isBad = (one) => one.quantity === 5;
  const told = [];
  await serving(
    [(call) => (call.body.some(isBad) ? FORBIDDEN : taken(call))],
    async (client, seen) => {
      const ids = [1, 2, 3, 4, 5, 6, 7].map((n) => client.record("page", n));
      await assert.rejects(client.flush(), (error) => error instanceof Unsent && error.count === 1);
      const stored = seen.filter((one) => !one.body.some(isBad)).flatMap((one) => one.body.map((event) => event.event_id));
      assert.deepEqual(stored, ids.filter((_, at) => at !== 4));
      assert.equal(seen.filter((one) => one.body.length === 1 && one.body.some(isBad)).length, 30);
      await client.close();
    },
    { onResult: (event, result) => told.push([event.quantity, result.status]) },
  );
  assert.deepEqual(told.at(-1), [5, "refused"]);
  assert.equal(told.length, 7);
});

test("a flush does not wait for an event that a proxy refused, and a close sends it again", () =>
  serving([FORBIDDEN, taken], async (client, seen) => {
    let pauses = 0; // the second is that of the event: it ends at the close
    const pause = (_ms, signal) => new Promise((resolve) => {
      if (++pauses === 2) signal.addEventListener("abort", resolve);
      else resolve();
    });
    const slow = new Client(client.url, "key", {}, { pause });
    slow.record("a");
    await assert.rejects(slow.flush(), (error) => error instanceof Unsent && error.count === 1);
    await slow.close();
    assert.equal(seen.length, 2);
    assert.deepEqual(seen[0].body, seen[1].body);
  }));

test("events are sent once each, the same again", () =>
  serving(["cut", 500, taken], async (client, seen) => {
    const ids = [1, 2, 3].map((n) => client.record("page", n, { org_id: "acme" }));
    await client.flush();
    assert.equal(seen.length, 3);
    assert.deepEqual(seen[0].body, seen[2].body, "the same events, under the same ids");
    assert.deepEqual(seen[2].body.map((one) => one.event_id), ids);
    assert.ok(seen[2].body.every((one) => Number.isInteger(one.occurred_at)));
    client.record("page", 1, { event_id: "mine" });
    await client.close();
    assert.ok(seen.at(-1).body[0].recorded_at && !("occurred_at" in seen.at(-1).body[0]));
    assert.throws(() => client.record("page"), /closed/);
  }));

test("a batch that is too large is halved, and no event is lost", async () => {
  const answer = ({ body }) => (body.length > 2 ? { status: 413, text: "<html>too large</html>" } : taken({ body }));
  await serving([answer], async (client, seen) => {
    const ids = [1, 2, 3, 4, 5, 6, 7].map((n) => client.record("page", n));
    await client.close();
    const stored = seen.filter((one) => one.body.length <= 2).flatMap((one) => one.body.map((event) => event.event_id));
    assert.deepEqual(stored, ids);
  });
  await serving([413], async (client, seen) => {
    client.record("page");
    await assert.rejects(client.close(), (error) => error instanceof Unsent && error.count === 1);
    assert.equal(seen.length, 1);
  });
});

test("a body and an event are bounded in bytes", async () => {
  const note = "é".repeat(8_000); // 16,000 bytes
  await serving([taken], async (client, seen) => {
    const ids = Array.from({ length: 600 }, () => client.record("page", 1, { properties: { note } }));
    await client.close();
    const sizes = seen.map((one) => Buffer.byteLength(JSON.stringify(one.body)));
    assert.ok(sizes.length === 3 && sizes.every((size) => size <= 4 * 1024 * 1024), String(sizes));
    assert.deepEqual(seen.flatMap((one) => one.body.map((event) => event.event_id)), ids);
    const properties = { note: note + note };
    assert.throws(() => client.record("page", 1, { properties }), BadItem);
    await assert.rejects(client.events.send({ event_id: "1", event_type: "page", properties }), BadItem);
  });
});

test("what the server does not take is raised with its count", async (t) => {
  const told = [];
  const wrong = { status: "invalid", code: "foreign_source", message: "name /a" };
  const some = ({ body }) => ({ status: 207, results: body.map((_, at) => (at ? wrong : { status: "accepted" })) });
  await serving(
    [some],
    async (client) => {
      client.record("a");
      client.record("b");
      await assert.rejects(client.flush(), (error) => error instanceof Unsent && error.rejected === 1 && !error.count
        && error.first.code === "foreign_source" && error.message.endsWith("rejected: 1: foreign_source: name /a"));
      await client.close();
    },
    { onResult: (event, result) => told.push([event.event_type, result.status]) },
  );
  assert.deepEqual(told, [["a", "accepted"], ["b", "invalid"]]);
  await serving([refusal(401, "unauthorized")], async (client) => {
    client.record("a");
    const logged = t.mock.method(console, "error", () => {});
    await assert.rejects(client.flush(), (error) => error instanceof Unsent && error.first.code === "unauthorized");
    assert.match(logged.mock.calls[0].arguments[0], /refused events \(1\)/, "without onResult, the client logs it");
    logged.mock.restore();
  });
  await serving([503], async (client) => {
    client.record("a");
    await assert.rejects(client.close(0), (error) => error instanceof Unsent && error.count === 1);
  });
});

test("closing ends a long pause", () =>
  serving([{ status: 503, headers: { "Retry-After": "200" } }, taken], async (client, seen) => {
    const slow = new Client(client.url, "key");
    slow.record("a");
    while (!seen.length) await new Promise((resolve) => setTimeout(resolve, 20));
    const began = Date.now();
    await slow.close(5_000);
    assert.ok(Date.now() - began < 4_000 && seen.length === 2);
  }));

test("what waits is bounded, and what is no event is refused at once", () =>
  serving(
    [taken],
    async (client) => {
      client.record("a");
      client.record("a");
      assert.throws(() => client.record("a"), QueueFull);
      for (const wrong of [1.5, -1, NaN, "3", 2 ** 60]) assert.throws(() => client.record("a", wrong), BadItem);
      assert.throws(() => client.record(""), BadItem);
      assert.throws(() => client.record("a", 1, { organisation: "acme" }), BadItem);
      await assert.rejects(client.events.send({ event_type: "a" }), BadItem);
      await client.close();
    },
    { queueItems: 2 },
  ));

test("an event that JSON cannot encode is refused at once", () =>
  serving([taken], async (client, seen) => {
    const circular = {};
    circular.itself = circular;
    for (const wrong of [{ n: 1n }, circular, { toJSON: () => { throw new Error("no"); } }]) {
      assert.throws(() => client.record("a", 1, { properties: wrong }), BadItem);
      await assert.rejects(client.events.send({ event_id: "1", event_type: "a", properties: wrong }), BadItem);
    }
    assert.throws(() => client.record("a", 1, { at: 1n }), BadItem);
    const properties = { page: 1 };
    client.record("a", 1, { properties });
    properties.page = 2n;
    await client.close();
    assert.deepEqual(seen.map((one) => one.body.map((event) => event.properties)), [[{ page: 1 }]]);
  }));

test("the guard's block is an answer, and a use may emit an event", () =>
  serving([{ decision: "block", options: [] }, { decision: "allow", event: { status: "accepted" } }, {}], async (client, seen) => {
    assert.equal((await client.guard.consume("k", { org_id: "acme", metric: "export" })).isAllowed, false);
    const found = await client.guard.consume("k", { org_id: "acme", metric: "export", event: "page" });
    assert.ok(found.isAllowed && found.event.status === "accepted");
    assert.equal(seen[1].body.event.event_type, "page");
    assert.ok(!("event" in seen[0].body) && Number.isInteger(seen[1].body.event.recorded_at));
    await assert.rejects(client.guard.check({ org_id: "acme", metric: "export" }), Unreachable);
  }));

test("the environment names the server, and nothing is guessed", () => {
  const before = { ...process.env };
  delete process.env.DRAWDOWN_URL;
  assert.throws(() => Client.fromEnv(), /DRAWDOWN_URL/);
  Object.assign(process.env, { DRAWDOWN_URL: "http://127.0.0.1:1", DRAWDOWN_KEY: "key" });
  assert.ok(Client.fromEnv() instanceof Client);
  assert.throws(() => new Client("ftp://x", "key"), TypeError);
  assert.throws(() => new Client("http://x", ""), TypeError);
  assert.throws(() => new Client("http://x", "key", { sauce: "/web" }), /no setting sauce/);
  process.env = before;
});
