// What the member remembers of its last minutes: one sample every few seconds, and one a minute for a day.

import * as server from "./server.js";

/** How far back the samples reach. */
export const WINDOW_MS = 15 * 60_000;

/** Samples, oldest first: `{ at_ms, revision, puts_per_s, ... }`. */
let recent = [];
/** `{ at_ms, revision }`, one a minute, oldest first. */
let day = [];
const listeners = new Set();

/** Calls `listener` whenever there are new samples, until the returned function is called. */
export function follow(listener) {
  listeners.add(listener);
  if (recent.length) listener(recent);
  return () => listeners.delete(listener);
}

export async function refresh() {
  ({ recent, day } = await server.ask("samples"));
  recent.forEach((sample, index) => {
    const before = recent[index - 1];
    sample.revisions_per_s = before ? (sample.revision - before.revision) / ((sample.at_ms - before.at_ms) / 1000) : null;
  });
  for (const listener of listeners) listener(recent);
  return recent;
}

const all = () => [...day.filter((sample) => !recent.length || sample.at_ms < recent[0].at_ms), ...recent];

/** The newest sample that is not after `ms`, or null if the member knows nothing of that time. */
export const at = (ms) => all().findLast((sample) => sample.at_ms <= ms) ?? null;

/** The first sample that the member has, or null. */
export const oldest = () => all()[0] ?? null;

/** Between which two times `revision` was made; either may be null. */
export function when(revision) {
  const samples = all();
  const after = samples.findIndex((sample) => sample.revision >= revision);
  if (after < 0) return { from: samples.at(-1)?.at_ms ?? null, to: null };
  return { from: after ? samples[after - 1].at_ms : null, to: samples[after].at_ms };
}
