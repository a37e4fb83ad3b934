//! What jemalloc writes down about its samples: stacks as addresses, and how much was allocated from each.

use std::collections::BTreeMap;

use thiserror::Error;

/// Objects and bytes that there are now, and that there ever were. Both are estimates of all of them, not the sampled
/// ones alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) objects_allocated: i64,
    pub(super) bytes_allocated: i64,
    pub(super) objects_in_use: i64,
    pub(super) bytes_in_use: i64,
}

#[derive(Debug)]
pub(super) struct Dump {
    /// How many bytes lie between two samples on average.
    pub(super) interval: u64,
    /// By stack: return addresses, the innermost first.
    pub(super) stacks: BTreeMap<Vec<u64>, Counts>,
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line} of the samples of the allocator, {text:?}, has another form than jemalloc 5.3 gives it")]
pub(super) struct Unreadable {
    line: usize,
    text: String,
}

impl Dump {
    /// The form is that of `heap_v2`: the interval; then for each stack a line of addresses, a line of counts over all
    /// threads (`t*`), and lines for single threads, which are not used here.
    pub(super) fn parse(text: &str) -> Result<Dump, Unreadable> {
        let mut lines = text.lines().enumerate();
        let unreadable =
            |line: usize, text: &str| Unreadable { line: line + 1, text: text.chars().take(100).collect() };
        let (_, first) = lines.next().unwrap_or_default();
        let interval = first.strip_prefix("heap_v2/").and_then(|number| number.parse().ok());
        let interval = interval.filter(|interval| *interval > 0).ok_or_else(|| unreadable(0, first))?;
        let mut stacks: BTreeMap<Vec<u64>, Counts> = BTreeMap::new();
        let mut stack = None;
        for (number, line) in lines {
            if line == "MAPPED_LIBRARIES:" {
                break;
            }
            if let Some(addresses) = line.strip_prefix('@') {
                stack = Some(parse_stack(addresses).ok_or_else(|| unreadable(number, line))?);
            } else if let Some(counts) = line.trim_start().strip_prefix("t*:") {
                let counts = parse_counts(counts, interval).ok_or_else(|| unreadable(number, line))?;
                // Before the first stack there are the counts of the whole process.
                if let Some(stack) = stack.take() {
                    stacks.insert(stack, counts);
                }
            }
        }
        Ok(Dump { interval, stacks })
    }

    /// What has changed since an earlier dump.
    pub(super) fn since(mut self, before: &Dump) -> Dump {
        for (stack, before) in &before.stacks {
            if let Some(now) = self.stacks.get_mut(stack) {
                now.objects_allocated -= before.objects_allocated;
                now.bytes_allocated -= before.bytes_allocated;
                now.objects_in_use -= before.objects_in_use;
                now.bytes_in_use -= before.bytes_in_use;
            }
        }
        self.stacks.retain(|_, counts| *counts != Counts::default());
        self
    }
}

fn parse_stack(addresses: &str) -> Option<Vec<u64>> {
    let parse = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    addresses.split_whitespace().map(parse).collect()
}

/// `objects: bytes [objects ever: bytes ever]`, of the samples.
fn parse_counts(counts: &str, interval: u64) -> Option<Counts> {
    let (in_use, ever) = counts.trim().strip_suffix(']')?.split_once('[')?;
    let pair = |text: &str| {
        let (objects, bytes) = text.split_once(':')?;
        Some(estimate(objects.trim().parse().ok()?, bytes.trim().parse().ok()?, interval))
    };
    let (objects_in_use, bytes_in_use) = pair(in_use)?;
    let (objects_allocated, bytes_allocated) = pair(ever)?;
    Some(Counts { objects_allocated, bytes_allocated, objects_in_use, bytes_in_use })
}

/// An allocation is sampled the more likely the larger it is: with a probability of `1 - exp(-size / interval)`.
fn estimate(objects: u64, bytes: u64, interval: u64) -> (i64, i64) {
    if objects == 0 || bytes == 0 {
        return (0, 0);
    }
    let size = bytes as f64 / objects as f64;
    let likely = 1.0 - (-size / interval as f64).exp();
    ((objects as f64 / likely).round() as i64, (bytes as f64 / likely).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "heap_v2/524288
  t*: 3: 1048800 [4: 1048832]
  t0: 3: 1048800 [4: 1048832]
@ 0x55d0 0x7f01
  t*: 1: 32 [2: 64]
  t0: 1: 32 [2: 64]
@ 0x55d0 0x7f02 0x7f03
  t*: 2: 10485760 [2: 10485760]

MAPPED_LIBRARIES:
55d0-7f01 r-xp 00000000 00:00 0 @ nonsense
";

    #[test]
    fn small_allocations_stand_for_many_and_large_ones_for_themselves() {
        let dump = Dump::parse(TEXT).expect("it is jemalloc's form");
        assert_eq!((dump.interval, dump.stacks.len()), (524_288, 2));
        let small = dump.stacks[&vec![0x55d0, 0x7f01]];
        assert_eq!((small.objects_in_use, small.objects_allocated), (16_385, 32_769));
        assert_eq!((small.bytes_in_use, small.bytes_allocated), (524_304, 1_048_608));
        let large = dump.stacks[&vec![0x55d0, 0x7f02, 0x7f03]];
        assert_eq!((large.objects_in_use, large.bytes_in_use), (2, 10_486_236));
    }

    #[test]
    fn only_what_has_changed_is_left_of_a_difference() {
        let before = Dump::parse(TEXT).expect("it is jemalloc's form");
        let after = TEXT.replace("1: 32 [2: 64]", "0: 0 [2: 64]");
        let difference = Dump::parse(&after).expect("it is jemalloc's form").since(&before);
        assert_eq!(difference.stacks.len(), 1);
        let freed = difference.stacks[&vec![0x55d0, 0x7f01]];
        assert_eq!((freed.objects_in_use, freed.bytes_in_use, freed.bytes_allocated), (-16_385, -524_304, 0));
    }

    #[test]
    fn another_form_is_refused_with_its_line() {
        for (text, line) in [
            ("", 1),
            ("heap_v2/0\n", 1),
            ("heap profile: 1: 2\n", 1),
            ("heap_v2/524288\n  t*: 1: 2\n", 2),
            ("heap_v2/524288\n  t*: 1: 2 [3: 4]\n@ 0x1 words\n", 3),
        ] {
            assert_eq!(Dump::parse(text).expect_err("it is another form").line, line, "{text:?}");
        }
    }
}
