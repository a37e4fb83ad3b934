// Numbers, sizes and times for people.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function size(bytes) {
  let [value, unit] = [Number(bytes), 0];
  while (value >= 1024 && unit < UNITS.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

export const count = (value) => Number(value).toLocaleString("en-US");

export const counted = (value, noun) => `${count(value)} ${noun}${Number(value) === 1 ? "" : "s"}`;

/** A rate or a figure of a plot: three digits are enough. */
export const figure = (value) =>
  value >= 10_000 ? `${(value / 1000).toFixed(value < 100_000 ? 1 : 0)}k` : value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(2);

export function seconds(total) {
  const whole = Math.max(0, Math.floor(total));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  const pad = (part) => String(part).padStart(2, "0");
  return hours ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

/** A time of day without its seconds. */
export const minute = (ms) => clock(ms).slice(0, 5);

/** A time of day, with the date when it is not today's. */
export function moment(ms) {
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock(ms) : `${date.toLocaleDateString("en-CA")} ${clock(ms)}`;
}

export const hexId = (decimal) => BigInt.asUintN(64, BigInt(decimal)).toString(16);
