// What the key browser shows, asked for in pages, so that a million keys cost what is looked at.
//
// A listing has `length` rows, `row(index)` of which some may not be loaded, and `want(first, last)`, which loads
// what is in view. It calls `changed` when rows came.

import { prefixEnd, successor } from "./bytes.js";
import { hexId } from "./format.js";
import * as server from "./server.js";

const PAGE = 200;
/** Pages of a flat list that are kept; one that is out of view longer is dropped, and asked for again. */
const PAGES_KEPT = 50;
/** Rows of an open tree; beyond them a longer prefix has to be chosen. */
export const TREE_ROWS_MAX = 20_000;

/** All keys below a prefix, one after the other. */
export class Flat {
  #pages;
  #ended = false;
  #loading = false;
  #lastUsed = 0;

  constructor(prefix, revision, changed) {
    Object.assign(this, { prefix, revision, changed, end: prefixEnd(prefix), count: null });
    this.#pages = [{ from: prefix, rows: null, used: 0 }];
  }

  get length() {
    const last = this.#pages.at(-1);
    return (this.#pages.length - 1) * PAGE + (last.rows?.length ?? 1);
  }

  row(index) {
    const page = this.#pages[Math.floor(index / PAGE)];
    return page?.rows ? (page.rows[index % PAGE] ?? { kind: "gone" }) : { kind: "loading" };
  }

  async want(first, last, signal) {
    this.#lastUsed += 1;
    const [from, to] = [Math.floor(first / PAGE), Math.min(Math.floor(last / PAGE), this.#pages.length - 1)];
    for (let at = from; at <= to; at += 1) this.#pages[at].used = this.#lastUsed;
    if (this.#loading) return;
    const missing = this.#pages.slice(from, to + 1).find((page) => !page.rows);
    const page = missing ?? (to === this.#pages.length - 1 && last >= this.length - PAGE / 2 && !this.#ended ? this.#next() : null);
    if (!page) return;
    this.#loading = true;
    try {
      const found = await server.keys(page.from, this.end, PAGE, this.revision, signal);
      page.rows = found.pairs.map((pair) => ({ kind: "key", depth: 0, label: pair.key.slice(this.prefix.length), pair }));
      this.#ended ||= found.pairs.length < PAGE && page === this.#pages.at(-1);
      if (page === this.#pages[0]) this.count = found.count;
      this.#drop();
    } finally {
      this.#loading = false;
    }
    this.changed();
  }

  #next() {
    const key = this.#pages.at(-1).rows.at(-1)?.pair.key;
    if (key === undefined) return null;
    const page = { from: successor(key), rows: null, used: this.#lastUsed };
    this.#pages.push(page);
    return page;
  }

  #drop() {
    const kept = this.#pages.filter((page) => page.rows);
    if (kept.length <= PAGES_KEPT) return;
    const oldest = kept.reduce((a, b) => (a.used <= b.used ? a : b));
    if (oldest !== this.#pages.at(-1)) oldest.rows = null;
  }
}

/** The last part of the key of a lock or an election: the id of its lease. A list of keys does not say their leases. */
export const CONTENDER = /^[0-9a-f]{8,16}$/;

/** The name of the lock or election that a key is for, or null. */
export function lockOf({ key, lease }) {
  const slash = key.lastIndexOf("/");
  return lease !== "0" && slash > 0 && key.slice(slash + 1) === hexId(lease) ? key.slice(0, slash) : null;
}

/**
 * Keys below a prefix with "/" as the border between levels. A directory is passed over with one request, however
 * many keys are in it.
 */
export class Tree {
  #rows = [];
  #loading = false;

  /** The directories around `revealed`, a key, are opened. */
  constructor(prefix, revision, changed, revealed = null) {
    Object.assign(this, { prefix, revision, changed, revealed, count: null });
    this.#rows.push(this.#more(prefix, prefix, 0));
    server.count(prefix, prefixEnd(prefix), revision).then((count) => {
      this.count = count;
      changed();
    }, () => {});
  }

  get length() {
    return this.#rows.length;
  }

  row(index) {
    return this.#rows[index];
  }

  /** The place of what is not loaded yet of the level `below`, from `from` on. */
  #more = (below, from, depth) => ({ kind: "more", below, from, depth });

  async want(first, last, signal) {
    if (this.#loading) return;
    const more = this.#rows.slice(first, last).find((row) => row.kind === "more" && !row.isFull);
    if (!more) return;
    if (this.#rows.length >= TREE_ROWS_MAX) {
      more.isFull = true;
      this.changed();
      return;
    }
    this.#loading = true;
    try {
      const rows = await this.#level(more, signal);
      const at = this.#rows.indexOf(more);
      // The directory may have been closed while it was read.
      if (at >= 0) this.#rows.splice(at, 1, ...this.#opened(rows));
    } finally {
      this.#loading = false;
    }
    this.changed();
  }

  /** Up to a page of entries of one level, and the place of the rest. */
  async #level({ below, from, depth }, signal) {
    const [rows, end] = [[], prefixEnd(below)];
    let next = from;
    while (rows.length < PAGE) {
      const { pairs } = await server.keys(next, end, PAGE, this.revision, signal);
      for (const pair of pairs) {
        if (pair.key < next) continue;
        const rest = pair.key.slice(below.length);
        const slash = rest.indexOf("/", 1);
        if (slash < 0 || slash === rest.length - 1) {
          rows.push({ kind: "key", depth, label: rest, pair });
          next = successor(pair.key);
        } else {
          const path = below + rest.slice(0, slash + 1);
          rows.push({ kind: "directory", depth, label: rest.slice(0, slash + 1), path, isOpen: false });
          next = prefixEnd(path);
        }
      }
      if (pairs.length < PAGE) return from === below ? this.#withTurns(rows, below, signal) : rows;
    }
    return [...rows, this.#more(below, next, depth)];
  }

  /** Numbers the keys of a lock or an election in the order in which they were created: the first one holds it. */
  async #withTurns(rows, below, signal) {
    const contenders = below.endsWith("/") ? rows.filter((row) => row.kind === "key" && CONTENDER.test(row.label)) : [];
    contenders.sort((a, b) => a.pair.created - b.pair.created);
    const first = contenders.length ? await server.get(contenders[0].pair.key, this.revision, signal) : null;
    if (first && lockOf(first) !== null) contenders.forEach((row, index) => (row.turn = index + 1));
    return rows;
  }

  /** Opens a directory that has no siblings, and the one that leads to the revealed key. */
  #opened(rows) {
    return rows.flatMap((row) => {
      if (row.kind !== "directory" || !(rows.length === 1 || this.revealed?.startsWith(row.path))) return [row];
      row.isOpen = true;
      return [row, this.#more(row.path, row.path, row.depth + 1)];
    });
  }

  /** Opens a directory, or closes it. */
  toggle(index) {
    const row = this.#rows[index];
    if (row.isOpen) {
      const after = this.#rows.findIndex((other, at) => at > index && other.depth <= row.depth);
      this.#rows.splice(index + 1, (after < 0 ? this.#rows.length : after) - index - 1);
    } else {
      this.#rows.splice(index + 1, 0, this.#more(row.path, row.path, row.depth + 1));
    }
    row.isOpen = !row.isOpen;
    this.changed();
  }
}
