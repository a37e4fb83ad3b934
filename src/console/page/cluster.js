// How the cluster is: members, what is wrong and what to do about it, and the last minutes of this member.

import { fill, h, trouble, whenVisible } from "./dom.js";
import { count, figure, size } from "./format.js";
import { diskErrors, judge, percent, QUOTA_ATTENTION } from "./health.js";
import { Plot } from "./plot.js";
import * as samples from "./samples.js";
import * as server from "./server.js";

const POLL_MS = 2000;

const ADVICE = {
  NOSPACE: (member) => [
    `The quota of the database of member ${member} is used up, and writes that need space are refused. Compact the history, defragment, and then disarm the alarm:`,
    "etcdctl compact <revision>\netcdctl defrag --cluster\netcdctl alarm disarm",
  ],
  CORRUPT: (member) => [
    `Member ${member} found damaged data, and the cluster refuses writes. Replace that member: remove it, delete its data directory, and add it again. Then disarm the alarm:`,
    `etcdctl member remove ${member}\netcdctl member add <name> --peer-urls=<url>\netcdctl alarm disarm`,
  ],
};

export class ClusterView {
  #abort = new AbortController();

  constructor() {
    this.verdict = h("div.verdict", { role: "status" });
    this.tiles = h("div.tiles");
    this.table = h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Members" });
    this.alarms = h("div.alarms");
    const one = (name) => [{ of: (sample) => sample[name] }];
    const plots = [
      new Plot("Puts a second", one("puts_per_s"), figure),
      new Plot("Ranges a second", one("ranges_per_s"), figure),
      new Plot("Sync of the log, 99th percentile", one("fsync_p99_ms"), (ms) => `${figure(ms)} ms`),
      new Plot("Revisions a second, of all members", one("revisions_per_s"), figure),
      new Plot("Watchers", one("watchers"), figure),
      new Plot("Database", [...one("db_bytes"), { of: (sample) => sample.db_in_use_bytes, name: "in use" }], size, 1024),
    ];
    this.element = h("section.column.wide-column", { "aria-label": "Cluster" }, this.verdict, this.alarms, this.tiles, h("h2", {}, "Members"), this.table, h("h2", {}, "This member, the last 15 minutes"), h("div.plots", {}, plots.map((plot) => plot.element)));
    this.stopFollowing = samples.follow((recent) => plots.forEach((plot) => plot.update(recent)));
    this.#poll();
  }

  close() {
    this.#abort.abort();
    clearTimeout(this.timer);
    this.stopFollowing();
  }

  async #poll() {
    try {
      this.#draw(await server.ask("members", this.#abort.signal));
      await samples.refresh();
    } catch (error) {
      if (this.#abort.signal.aborted) return;
      fill(this.verdict, trouble(error));
    }
    if (!this.#abort.signal.aborted) this.timer = setTimeout(() => whenVisible(this.#abort.signal, () => this.#poll()), POLL_MS);
  }

  #draw(answer) {
    const { members, alarms } = answer;
    const health = judge(answer);
    const silent = health.silent.map((member) => `${member.name || member.id}${member.problem ? ` (${member.problem})` : ""}`);
    fill(
      this.verdict,
      h(
        "p",
        { class: health.level },
        health.text,
        silent.length ? ` No answer from ${silent.join(", ")}: is the process running, and can this member reach its peer URL?` : "",
      ),
    );
    fill(
      this.alarms,
      alarms.map(({ member, alarm }) => alarmBox(members.find(({ id }) => id === member)?.name ?? member, member, alarm)),
      members.flatMap((member) => diskErrors(member).map((error) => diskBox(member.name, error))),
      alarms.length === 0 && health.fullestShare >= QUOTA_ATTENTION ? quotaBox(health.fullest) : null,
    );
    fill(this.tiles, tiles(health, alarms));
    const columns = ["member", "role", "version", ["revision"], ["behind"], ["database"], ["in use"], ["term"], "client URLs"];
    fill(
      this.table,
      h(
        "table.members",
        {},
        h("thead", {}, h("tr", {}, columns.map((title) => h("th", { scope: "col", class: Array.isArray(title) ? "number" : "" }, title)))),
        h("tbody", {}, members.map((member) => memberRow(member, health.newest))),
      ),
    );
  }
}

/** What is to be seen from across the room. */
function tiles({ level, voters, answering, quorum, leader, fullest, fullestShare, newest, silent }, alarms) {
  const tile = (title, value, detail, of = "", more = null) => h("div.tile", { class: of }, h("span.label", {}, title), h("strong", {}, value), h("span.faint", {}, detail), more);
  const { quota, db_bytes } = fullest?.status ?? {};
  return [
    tile("Members", voters === 1 ? "1" : `${answering} of ${voters}`, voters === 1 ? "no other copy of the data" : `answer; ${quorum} are needed`, silent.length ? (level === "bad" ? "bad" : "warn") : "good"),
    tile("Leader", leader ? leader.name || leader.id : "none", leader ? `in term ${count(leader.status.term)}` : "nothing can be written", leader ? "good" : "bad"),
    tile("Database", fullest ? size(db_bytes) : "?", quota ? `${percent(fullestShare)} of ${size(quota)}` : "without a quota", fullestShare >= QUOTA_ATTENTION ? "warn" : "good", quota ? bar(fullestShare, `${percent(fullestShare)} of the quota is used`) : null),
    tile("Revision", count(newest), "newest change"),
    tile("Alarms", alarms.length ? alarms.map(({ alarm }) => alarm).join(", ") : "none", alarms.length ? "writes are refused" : "no quota reached", alarms.length ? "bad" : "good"),
  ];
}

/** How much of something is used. */
function bar(share, label) {
  const used = h("span.used", { class: share >= QUOTA_ATTENTION ? "warn" : "" });
  used.style.width = `${Math.min(100, share * 100).toFixed(1)}%`;
  return h("span.track", { role: "img", "aria-label": label }, used);
}

function memberRow(member, newest) {
  const { status } = member;
  const name = h("th", { scope: "row" }, member.name || "(not started)", " ", h("span.faint", {}, member.id), member.is_this ? h("span.tag", {}, "this one") : null);
  const cell = (title, ...children) => h("td", { "data-title": title }, children);
  const number = (title, isWrong, ...children) => h("td.number", { "data-title": title, class: isWrong ? "warn" : "" }, children);
  const urls = cell("client URLs", member.client_urls.join(", "));
  if (!status) return h("tr.down", {}, name, cell("role", h("span", {}, h("span.dot.bad"), member.is_learner ? "learner, " : "", "no answer")), h("td", { colspan: 6, "data-title": "why" }, member.problem ?? ""), urls);
  const role = member.is_learner ? "learner" : status.leader === member.id ? "leader" : "follower";
  const behind = newest - status.revision;
  const share = status.quota ? status.db_bytes / status.quota : 0;
  return h(
    "tr",
    {},
    name,
    cell("role", h("span", {}, h("span.dot", { class: role === "leader" ? "lead" : "good" }), role)),
    cell("version", status.version),
    number("revision", false, count(status.revision)),
    number("behind", behind > 1000, count(behind)),
    number("database", share >= QUOTA_ATTENTION, h("span", {}, size(status.db_bytes), status.quota ? h("span.faint", {}, ` of ${size(status.quota)}`) : null)),
    number("in use", false, size(status.db_in_use_bytes)),
    number("term", false, count(status.term)),
    urls,
  );
}

function alarmBox(name, member, alarm) {
  const [text, commands] = ADVICE[alarm]?.(member) ?? [`Alarm ${alarm} of member ${member}.`, "etcdctl alarm list"];
  return h("div.alarm", { role: "alert" }, h("h3", {}, `${alarm} at ${name}`), h("p", {}, text), h("pre", {}, commands));
}

function quotaBox(member) {
  const { db_bytes, db_in_use_bytes, quota } = member.status;
  const text =
    db_in_use_bytes < db_bytes / 2
      ? `Most of it is free space within the file, which defragmenting gives back:`
      : `Compact the history and defragment, delete keys, or start the members with a larger --quota-backend-bytes:`;
  return h("div.alarm.attention", { role: "alert" }, h("h3", {}, `The database of ${member.name} takes ${percent(db_bytes / quota)} of its quota`), h("p", {}, `At the quota, ${size(quota)}, writes that need space are refused. ${text}`), h("pre", {}, db_in_use_bytes < db_bytes / 2 ? "etcdctl defrag --cluster" : "etcdctl compact <revision>\netcdctl defrag --cluster"));
}

const diskBox = (name, error) =>
  h("div.alarm", { role: "alert" }, h("h3", {}, `The disk of ${name} is full`), h("p", {}, `${error}. Writes that need space are refused; reads and deletes go on. Free some space: the member goes on by itself within seconds.`));
