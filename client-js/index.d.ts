export interface Settings {
  source?: string;
  onResult?: (event: Record<string, unknown>, result: Result) => void;
  tries?: number;
  withinMs?: number;
  answerMs?: number;
  batchMs?: number;
  queueItems?: number;
}
export interface Result {
  status: "accepted" | "duplicate" | "pending" | "conflict" | "invalid" | "refused";
  id?: string;
  code?: string;
  message?: string;
  at?: string;
}
export interface EventMore {
  org_id?: string;
  at?: Date | number;
  event_id?: string;
  source?: string;
  subject?: string;
  project?: string;
  plan_key?: string;
  properties?: Record<string, unknown>;
}
/** A usage event, with the server's field names. */
export interface UsageEvent {
  event_type: string;
  event_id?: string;
  source?: string;
  org_id?: string;
  quantity?: number;
  occurred_at?: Date | number | string;
  subject?: string;
  project?: string;
  plan_key?: string;
  properties?: Record<string, unknown>;
}
export interface Wish {
  org_id?: string;
  metric: string;
  quantity?: number;
  payer?: string;
  project?: string;
  subject?: string;
}
export interface Decision {
  decision: "allow" | "warn" | "block";
  isAllowed: boolean;
  would: string;
  rule: string;
  reason: string;
  limit: number | null;
  used: number | null;
  remaining: number | null;
  options: string[];
  repeated: boolean;
  event: { status: string; source: string; event_id: string; code: string | null; message: string | null } | null;
  [name: string]: unknown;
}
type Answer = Record<string, any>;
export class DrawdownError extends Error {}
export class Refused extends DrawdownError {
  status: number;
  code: string;
  details?: Record<string, unknown>;
  readonly mayPassLater: boolean;
}
export class Unreachable extends DrawdownError {
  retryAfterMs: number;
}
export class BadItem extends DrawdownError {}
export class QueueFull extends DrawdownError {}
export class Unsent extends DrawdownError {
  count: number;
  rejected: number;
  first?: Result;
}
export class Events {
  record(eventType: string, quantity?: number, more?: EventMore): string;
  send(...events: (UsageEvent & { event_id: string })[]): Promise<Result[]>;
  flush(): Promise<void>;
  close(withinMs?: number): Promise<void>;
}
export class Guard {
  check(wish: Wish): Promise<Decision>;
  consume(key: string, wish: Wish & { event?: string | UsageEvent; let_through?: boolean }): Promise<Decision>;
  reserve(key: string, wish: Wish & { for_ms?: number; let_through?: boolean }): Promise<Decision>;
  settle(key: string, actual: number, reason?: string): Promise<Decision>;
  release(key: string, incurred?: number, reason?: string): Promise<Decision>;
  extend(key: string, more?: { to?: number; for_ms?: number; reason?: string }): Promise<Decision>;
  options(wish: Wish & { org_id: string }): Promise<Answer>;
}
export class Client {
  constructor(url: string, key: string, settings?: Settings);
  static fromEnv(settings?: Settings): Client;
  readonly url: string;
  readonly events: Events;
  readonly guard: Guard;
  post(path: string, order?: Record<string, unknown>, more?: { key?: string }): Promise<Answer>;
  get(path: string, query?: Record<string, unknown>): Promise<Answer>;
  record(eventType: string, quantity?: number, more?: EventMore): string;
  flush(): Promise<void>;
  close(withinMs?: number): Promise<void>;
}
