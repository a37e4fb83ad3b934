// How the cluster is: members, what is wrong and what to do about it, and the last minutes of this member.

import { fill, h, trouble } from "./dom.js";
import { count, counted, figure, size } from "./format.js";
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
    this.table = h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Members" });
    this.alarms = h("div.alarms");
    const plots = [
      new Plot("puts a second", (sample) => sample.puts_per_s, figure),
      new Plot("ranges a second", (sample) => sample.ranges_per_s, figure),
      new Plot("sync of the log, 99th percentile", (sample) => sample.fsync_p99_ms, (ms) => `${figure(ms)} ms`),
      new Plot("watchers", (sample) => sample.watchers, figure),
      new Plot("database", (sample) => sample.db_bytes, size),
      new Plot("database in use", (sample) => sample.db_in_use_bytes, size),
    ];
    this.element = h("section.column.wide-column", { "aria-label": "Cluster" }, this.verdict, this.alarms, h("h2", {}, "Members"), this.table, h("h2", {}, "This member, the last 15 minutes"), h("div.plots", {}, plots.map((plot) => plot.element)));
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
    if (!this.#abort.signal.aborted) this.timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  #draw({ members, alarms }) {
    const voters = members.filter((member) => !member.is_learner);
    const answering = voters.filter((member) => member.status);
    const quorum = Math.floor(voters.length / 2) + 1;
    const spare = answering.length - quorum;
    const silent = members.filter((member) => !member.status).map((member) => member.name || member.id);
    const leader = members.find((member) => member.status?.leader === member.id);
    const newest = Math.max(...members.map((member) => member.status?.revision ?? 0));
    fill(
      this.verdict,
      h(
        "p",
        { class: spare < 0 || !leader ? "bad" : silent.length || alarms.length ? "warn" : "good" },
        verdict(voters.length, answering.length, spare, Boolean(leader)),
        silent.length ? ` No answer from ${silent.join(", ")}: is the process running, and can this member reach its peer URL?` : "",
      ),
    );
    fill(this.alarms, alarms.map(({ member, alarm }) => alarmBox(members.find(({ id }) => id === member)?.name ?? member, member, alarm)), members.flatMap((member) => (member.status?.errors ?? []).filter((error) => /^disk full/.test(error)).map((error) => diskBox(member.name, error))));
    fill(
      this.table,
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ["member", "role", "version", "revision", "behind", "database", "in use", "term", "client URLs"].map((title) => h("th", { scope: "col" }, title)))),
        h("tbody", {}, members.map((member) => memberRow(member, newest))),
      ),
    );
  }
}

function verdict(voters, answering, spare, hasLeader) {
  if (voters === 1) return hasLeader ? "One member, and it serves. There is no other copy of the data: add members, or take backups." : "The only member has no leader.";
  const who = `${answering} of ${voters} voting members answer`;
  if (spare < 0) return `${who}. That is no quorum: nothing can be written until ${counted(-spare, "more member")} answer${-spare === 1 ? "s" : ""}.`;
  if (!hasLeader) return `${who}, but there is no leader: one is being elected.`;
  if (answering < voters) return `${who}. The cluster serves, ${spare ? `and can lose ${counted(spare, "more member")}` : "but it cannot lose another member"}.`;
  return `All ${voters} voting members answer. The cluster can lose ${spare === 0 ? "none" : spare} of them and still serve.`;
}

function memberRow(member, newest) {
  const { status } = member;
  const name = h("th", { scope: "row" }, member.name || "(not started)", " ", h("span.faint", {}, member.id), member.is_this ? h("span.tag", {}, "this one") : null);
  if (!status) return h("tr.down", {}, name, h("td", {}, h("span.dot.bad"), member.is_learner ? "learner, " : "", "no answer"), h("td", { colspan: 6 }, member.problem ?? ""), h("td", {}, member.client_urls.join(", ")));
  const role = member.is_learner ? "learner" : status.leader === member.id ? "leader" : "follower";
  const behind = newest - status.revision;
  const quota = status.quota ? ` of ${size(status.quota)}` : "";
  const share = status.quota ? status.db_bytes / status.quota : 0;
  return h(
    "tr",
    {},
    name,
    h("td", {}, h("span.dot", { class: role === "leader" ? "lead" : "good" }), role),
    h("td", {}, status.version),
    h("td.number", {}, count(status.revision)),
    h("td.number", { class: behind > 1000 ? "warn" : "" }, count(behind)),
    h("td.number", { class: share > 0.8 ? "warn" : "" }, size(status.db_bytes), h("span.faint", {}, quota)),
    h("td.number", {}, size(status.db_in_use_bytes)),
    h("td.number", {}, count(status.term)),
    h("td", {}, member.client_urls.join(", ")),
  );
}

function alarmBox(name, member, alarm) {
  const [text, commands] = ADVICE[alarm]?.(member) ?? [`Alarm ${alarm} of member ${member}.`, "etcdctl alarm list"];
  return h("div.alarm", { role: "alert" }, h("h3", {}, `${alarm} at ${name}`), h("p", {}, text), h("pre", {}, commands));
}

const diskBox = (name, error) =>
  h("div.alarm", { role: "alert" }, h("h3", {}, `The disk of ${name} is full`), h("p", {}, `${error}. Writes that need space are refused; reads and deletes go on. Free some space: the member goes on by itself within seconds.`));
