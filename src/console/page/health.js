// What the answers of the members and the alarms mean, in words.

import { count, counted } from "./format.js";

/** From this share of its quota on, a database wants attention. */
export const QUOTA_ATTENTION = 0.8;

const share = ({ status }) => (status?.quota ? status.db_bytes / status.quota : 0);

/**
 * What `/console/data/members` says: `level` is "good", "warn" or "bad", `short` fits a badge, `text` is the whole
 * verdict, and the others are what it was made from.
 */
export function judge({ members, alarms }) {
  const voters = members.filter((member) => !member.is_learner);
  const answering = voters.filter((member) => member.status);
  const spare = answering.length - (Math.floor(voters.length / 2) + 1);
  const silent = members.filter((member) => !member.status);
  const leader = members.find((member) => member.status && member.status.leader === member.id);
  const fullest = members.filter((member) => member.status).reduce((a, b) => (a && share(a) >= share(b) ? a : b), null);
  const isAlarming = alarms.length > 0 || members.some((member) => diskErrors(member).length) || (fullest && share(fullest) >= QUOTA_ATTENTION);
  return {
    level: spare < 0 || !leader ? "bad" : silent.length || isAlarming ? "warn" : "good",
    short: badge(voters.length, answering.length, spare, leader, alarms),
    text: verdict(voters.length, answering.length, spare, Boolean(leader)),
    voters: voters.length,
    answering: answering.length,
    quorum: answering.length - spare,
    silent,
    leader,
    fullest,
    fullestShare: fullest ? share(fullest) : 0,
    newest: Math.max(...members.map((member) => member.status?.revision ?? 0)),
  };
}

/** What a member says of its disk. */
export const diskErrors = (member) => (member.status?.errors ?? []).filter((error) => /^disk full/.test(error));

function badge(voters, answering, spare, leader, alarms) {
  if (spare < 0) return "no quorum";
  if (!leader) return "no leader";
  if (alarms.length) return `alarm ${alarms[0].alarm}`;
  return voters === 1 ? "1 member" : `${answering} of ${voters} members`;
}

function verdict(voters, answering, spare, hasLeader) {
  if (voters === 1) return hasLeader ? "One member, and it serves. There is no other copy of the data: add members, or take backups." : "The only member has no leader.";
  const who = `${answering} of ${voters} voting members answer`;
  if (spare < 0) return `${who}. That is no quorum: nothing can be written until ${counted(-spare, "more member")} answer${-spare === 1 ? "s" : ""}.`;
  if (!hasLeader) return `${who}, but there is no leader: one is being elected.`;
  if (answering < voters) return `${who}. The cluster serves, ${spare ? `and can lose ${counted(spare, "more member")}` : "but it cannot lose another member"}.`;
  return `All ${voters} voting members answer. The cluster can lose ${spare === 0 ? "none" : spare} of them and still serve.`;
}

/** A share in percent, for people. */
export const percent = (part) => (part > 0 && part < 0.01 ? "less than 1 %" : `${count(Math.round(part * 100))} %`);
