// Everything that is asked of the member: etcd's JSON gateway under /v3, and the console's own data.

import { fromBase64, toBase64 } from "./bytes.js";

/** The server's refusal: its words, and its gRPC code. */
export class Refusal extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }

  /** True if the caller has to log in, or has to log in again. */
  get asksForLogin() {
    return this.code === UNAUTHENTICATED || /user name is empty|invalid auth token/.test(this.message);
  }

  get isCompacted() {
    return /has been compacted/.test(this.message);
  }
}

const UNAUTHENTICATED = 16;

/** The token of who is logged in. It is in memory only: closing the page logs out. */
let token = null;

export const login = { listener: () => {} };

const headers = () => ({ "Content-Type": "application/json", ...(token && { Authorization: token }) });

function refused(body, status) {
  const { message, error, code } = body ?? {};
  const refusal = new Refusal(message ?? (typeof error === "string" ? error : error?.message) ?? `HTTP status ${status}`, code ?? error?.code);
  if (refusal.asksForLogin) login.listener(refusal);
  return refusal;
}

async function answer(response) {
  const text = await response.text();
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    if (response.ok) throw new Refusal(`The answer is not JSON: ${text.slice(0, 200)}`);
  }
  if (!response.ok) throw refused(body, `${response.status}: ${text.slice(0, 200)}`);
  return body;
}

/** One call of the gateway. */
export async function call(path, body = {}, signal = undefined) {
  const request = { method: "POST", headers: headers(), body: JSON.stringify(body), signal };
  return answer(await fetch(`/v3/${path}`, request));
}

/** What the console's own endpoints know: `members`, `samples`. */
export async function ask(what, signal = undefined) {
  return answer(await fetch(`/console/data/${what}`, { headers: headers(), signal }));
}

/** The messages of a stream, one by one, until it ends or `signal` aborts it. */
export async function* stream(path, body, signal) {
  const response = await fetch(`/v3/${path}`, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) await answer(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) {
      const message = JSON.parse(line);
      if (message.error) throw refused(message.error);
      yield message.result;
    }
  }
}

export async function logIn(name, password) {
  token = null;
  ({ token } = await call("auth/authenticate", { name, password }));
}

export function logOut() {
  token = null;
}

export const isLoggedIn = () => token !== null;

/** A key with its value, as the page uses it. */
export function pair(kv) {
  return {
    key: fromBase64(kv.key),
    value: fromBase64(kv.value),
    created: Number(kv.create_revision),
    modified: Number(kv.mod_revision),
    version: Number(kv.version),
    lease: kv.lease ?? "0",
  };
}

const at = (revision) => (revision ? { revision: String(revision) } : {});

/** Keys from `from` up to `end`, without values, at most `limit`; `revision` 0 is now. */
export async function keys(from, end, limit, revision, signal) {
  const range = { key: toBase64(from || "\0"), range_end: toBase64(end), limit: String(limit), keys_only: true, ...at(revision) };
  const found = await call("kv/range", range, signal);
  return { pairs: (found.kvs ?? []).map(pair), count: Number(found.count ?? 0), revision: Number(found.header.revision) };
}

export async function count(from, end, revision, signal) {
  const range = { key: toBase64(from || "\0"), range_end: toBase64(end), count_only: true, ...at(revision) };
  return Number((await call("kv/range", range, signal)).count ?? 0);
}

/** One key as it was at `revision`, or null. */
export async function get(key, revision, signal) {
  const found = await call("kv/range", { key: toBase64(key), ...at(revision) }, signal);
  return found.kvs ? pair(found.kvs[0]) : null;
}

/**
 * Changes `key` only if it still is what the reader saw: `modified` is the revision of its last change, 0 if there
 * was no such key. Resolves to null when it was done, else to `{ current }`, the key as it is now or null.
 */
async function changeIfUnchanged(key, modified, operation) {
  const compare = [{ key: toBase64(key), target: "MOD", result: "EQUAL", mod_revision: String(modified) }];
  const outcome = await call("kv/txn", { compare, success: [operation], failure: [{ request_range: { key: toBase64(key) } }] });
  if (outcome.succeeded) return null;
  const kvs = outcome.responses?.[0]?.response_range?.kvs;
  return { current: kvs ? pair(kvs[0]) : null };
}

export const put = (key, value, lease, modified) =>
  changeIfUnchanged(key, modified, { request_put: { key: toBase64(key), value: toBase64(value), lease } });

export const remove = (key, modified) => changeIfUnchanged(key, modified, { request_delete_range: { key: toBase64(key) } });
