//! Judges the history without revisions: is there an order of the operations in which every answer is right,
//! and which respects time, so that no operation comes before one that was answered before it was called?
//!
//! The search is that of Wing and Gong, in the form by Lowe. It walks along the history and keeps all
//! possible situations. A situation is the values of the keys, which of the operations in progress have taken
//! effect, and which of the never answered ones have. When an operation is answered, each situation is
//! replaced by all those that effects of operations in progress lead to and in which the operation has taken
//! effect. If no situation is left, no order explains the answer. So the search handles one event at a time,
//! with the set of all possible situations.
//!
//! These rules keep the set small, without excluding an order:
//! * Groups of keys that no transaction and no list connects are judged separately.
//! * A value is put only once, so a situation is dropped if it has lost a value that is observed later.
//! * An operation that changes nothing takes effect as soon as its answer is right.
//! * Before an answer, only operations take effect that are connected to the same keys, directly or through
//!   other operations.
//! * An operation that was never answered takes effect only if it makes a condition true, unless it has
//!   several keys. Of two situations with the same values, the one with fewer such operations is kept. Such
//!   an operation has taken effect when its value is observed; if its value is never observed, not even by a
//!   watcher of all keys, it has not taken effect.
//!
//! Values are unique, so a comparison of `mod_revision` is one of the value that was seen with it. Of other
//! numbers only whether the key exists is modelled. Serializable reads are not judged here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use super::history::{
    Compare, History, Operation, Outcome, Request, Response, Stored, Txn, Violation, Write,
};

/// Maximum number of situations examined for one group of keys. A search that needs more fails.
const STEPS_MAX: usize = 500_000;

#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) operations: usize,
    pub(crate) groups: usize,
    /// The number of situations examined.
    pub(crate) steps: usize,
    /// The maximum number of situations that were possible at the same time.
    pub(crate) situations_max: usize,
}

pub(crate) fn check(history: &History) -> Result<Summary, Violation> {
    check_within(history, STEPS_MAX)
}

/// As [`check`], with another bound.
pub(crate) fn check_within(history: &History, steps_max: usize) -> Result<Summary, Violation> {
    let names = Names::new(history);
    let mut summary = Summary::default();
    for keys in groups(history) {
        let mut group = Group::new(history, &keys, &names)?;
        group.run(steps_max)?;
        summary.groups += 1;
        summary.operations += group.judged;
        summary.steps += group.steps;
        summary.situations_max = summary.situations_max.max(group.situations_max);
    }
    Ok(summary)
}

/// The values behind revisions, and when they were seen.
struct Names<'a> {
    /// The value that a key had with a `mod_revision`.
    values: BTreeMap<(&'a str, i64), u64>,
    /// When a value was first seen.
    seen: BTreeMap<u64, Duration>,
}

impl<'a> Names<'a> {
    fn new(history: &'a History) -> Names<'a> {
        let mut names = Names { values: BTreeMap::new(), seen: BTreeMap::new() };
        for (stored, time, _) in history.seen() {
            names.values.insert((&stored.key, stored.mod_revision), stored.value);
            let first = names.seen.entry(stored.value).or_insert(time);
            *first = time.min(*first);
        }
        for operation in &history.operations {
            let Some(answer) = operation.answer() else { continue };
            let put = match &operation.request {
                Request::Put { key, value } => vec![(key, *value)],
                Request::Txn(txn) => {
                    let taken = txn.taken(answer.succeeded, &answer.responses).into_iter();
                    taken.filter_map(|(write, _)| write.as_put()).collect()
                }
                Request::Get { .. } | Request::List { .. } | Request::Delete { .. } => Vec::new(),
            };
            for (key, value) in put {
                names.values.insert((key, answer.revision), value);
            }
        }
        names
    }
}

/// What must be true of a key for an operation to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Is(Option<u64>),
    Exists,
    Never,
}

impl Condition {
    fn holds(self, value: Option<u64>) -> bool {
        match self {
            Condition::Is(expected) => value == expected,
            Condition::Exists => value.is_some(),
            Condition::Never => false,
        }
    }
}

/// One way in which an operation can take effect. Keys are indexes into the group's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Effect {
    holds: Vec<(usize, Condition)>,
    /// Of each of these lists at least one condition must not hold: those of a comparison that failed.
    unless: Vec<Vec<(usize, Condition)>>,
    writes: Vec<(usize, Option<u64>)>,
}

impl Effect {
    fn is_possible(&self, values: &[Option<u64>]) -> bool {
        let holds = |(key, condition): &(usize, Condition)| condition.holds(values[*key]);
        self.holds.iter().all(holds) && !self.unless.iter().any(|all| all.iter().all(holds))
    }

    /// Whether these writes would make a condition true that is not true now.
    fn is_helped(&self, values: &[Option<u64>], writes: &[(usize, Option<u64>)]) -> bool {
        let after = |key| writes.iter().find(|(written, _)| *written == key).map(|(_, value)| *value);
        let becomes = |(key, condition): &(usize, Condition), is: bool| {
            condition.holds(values[*key]) != is
                && after(*key).is_some_and(|value| condition.holds(value) == is)
        };
        let is_refuted = |all: &Vec<(usize, Condition)>| {
            all.iter().all(|(key, condition)| condition.holds(values[*key]))
                && all.iter().any(|condition| becomes(condition, false))
        };
        self.holds.iter().any(|condition| becomes(condition, true)) || self.unless.iter().any(is_refuted)
    }

    /// Whether the effect has several keys. Such an effect may be needed even if it does not help at once.
    fn is_wide(&self) -> bool {
        (self.read_mask() | self.write_mask()).count_ones() > 1
    }

    /// Both effects, one after the other, with the conditions of both on the state before.
    fn and(&self, rest: &Effect) -> Effect {
        Effect {
            holds: [&self.holds[..], &rest.holds].concat(),
            unless: [&self.unless[..], &rest.unless].concat(),
            writes: [&self.writes[..], &rest.writes].concat(),
        }
    }

    fn puts(&self) -> impl Iterator<Item = u64> {
        self.writes.iter().filter_map(|(_, value)| *value)
    }

    fn read_mask(&self) -> u128 {
        self.holds.iter().chain(self.unless.iter().flatten()).fold(0, |mask, (key, _)| mask | 1 << key)
    }

    fn write_mask(&self) -> u128 {
        self.writes.iter().fold(0, |mask, (key, _)| mask | 1 << key)
    }
}

/// The events at one time, with calls first, because none of the other events was before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Called,
    Answered,
    /// The value of an operation without an answer is observed.
    Seen,
}

/// An operation as far as its group of keys is concerned.
struct Item<'a> {
    /// `None`: the final state.
    operation: Option<&'a Operation>,
    /// The possible effects; for an answered operation, the only one that its answer allows.
    effects: Vec<Effect>,
    is_answered: bool,
    stage: Stage,
    reads: u128,
    writes: u128,
    /// An earlier operation without an answer that has the same effect, and takes effect first.
    twin: Option<usize>,
}

/// The progress of an operation that is answered at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Coming,
    /// With its position in `Situation::done`.
    UnderWay(usize),
    Answered,
}

impl Item<'_> {
    fn text(&self) -> String {
        self.operation.map_or_else(|| "the final state".to_owned(), Operation::to_string)
    }
}

/// By key.
type Values = Vec<Option<u64>>;

#[derive(Clone, Debug)]
struct Situation {
    values: Values,
    /// By slot: which operations in progress have taken effect.
    done: u128,
    /// The operations without an answer that have taken effect, as sorted indexes of items.
    used: Vec<usize>,
}

/// The situations, by values and `done`, each with the minimal sets of `used`.
#[derive(Default)]
struct Situations {
    all: BTreeMap<(Values, u128), Vec<Vec<usize>>>,
    count: usize,
}

impl Situations {
    /// Whether no other situation makes this one redundant.
    fn insert(&mut self, situation: &Situation) -> bool {
        let used = self.all.entry((situation.values.clone(), situation.done)).or_default();
        if used.iter().any(|fewer| is_subset(fewer, &situation.used)) {
            return false;
        }
        self.count -= used.len();
        used.retain(|more| !is_subset(&situation.used, more));
        used.push(situation.used.clone());
        self.count += used.len();
        true
    }

    fn into_iter(self) -> impl Iterator<Item = Situation> {
        self.all.into_iter().flat_map(|((values, done), used)| {
            used.into_iter().map(move |used| Situation { values: values.clone(), done, used })
        })
    }
}

fn is_subset(fewer: &[usize], more: &[usize]) -> bool {
    fewer.len() <= more.len() && fewer.iter().all(|each| more.binary_search(each).is_ok())
}

struct Group<'a> {
    keys: &'a [String],
    items: Vec<Item<'a>>,
    /// The events in the order of time, each with its item.
    events: Vec<(Event, usize)>,
    /// The answered operations that observe a value of a key.
    wanting: BTreeMap<(usize, u64), Vec<usize>>,
    /// The operations in progress that are answered later, by slot.
    slots: Vec<Option<usize>>,
    /// Whether a situation is dropped if it has lost a value that is observed later.
    looks_ahead: bool,
    /// The operations called so far that are never answered and whose value was not observed yet.
    unanswered: Vec<usize>,
    situations: Vec<Situation>,
    judged: usize,
    steps: usize,
    situations_max: usize,
}

impl<'a> Group<'a> {
    fn new(history: &'a History, keys: &'a [String], names: &Names<'_>) -> Result<Group<'a>, Violation> {
        if keys.len() > u128::BITS as usize {
            return Err(Violation(format!(
                "gave up: {} keys hang together, beginning with {}",
                keys.len(),
                keys[0]
            )));
        }
        let translation = Translation { keys, names };
        let mut items: Vec<Item<'a>> = Vec::new();
        let mut times = Vec::new();
        let mut operations: Vec<&Operation> = history.operations.iter().collect();
        operations.sort_by_key(|operation| operation.called);
        for operation in operations {
            let effects = translation.effects(operation)?;
            if effects.is_empty() {
                continue;
            }
            let index = items.len();
            let returned = operation.answer().and(operation.returned);
            let twin = match returned {
                Some(_) => None,
                None => {
                    let same = |item: &Item<'_>| !item.is_answered && item.effects == effects;
                    items.iter().rposition(same)
                }
            };
            items.push(Item::new(Some(operation), effects, returned.is_some(), twin));
            times.push((operation.called, Event::Called, index));
            match returned {
                Some(returned) => times.push((returned, Event::Answered, index)),
                None => {
                    times.extend(translation.first_seen(&items[index]).map(|at| (at, Event::Seen, index)))
                }
            }
        }
        times.sort_unstable();
        let mut events: Vec<(Event, usize)> =
            times.into_iter().map(|(_, event, index)| (event, index)).collect();
        let end = items.len();
        items.push(Item::new(
            None,
            vec![translation.exactly(0..keys.len(), &history.final_state)],
            true,
            None,
        ));
        events.extend([(Event::Called, end), (Event::Answered, end)]);
        let mut wanting: BTreeMap<(usize, u64), Vec<usize>> = BTreeMap::new();
        for (index, item) in items.iter().enumerate().filter(|(_, item)| item.is_answered) {
            for (key, condition) in item.effects.iter().flat_map(|effect| &effect.holds) {
                if let Condition::Is(Some(value)) = condition {
                    wanting.entry((*key, *value)).or_default().push(index);
                }
            }
        }
        let nothing = Situation { values: vec![None; keys.len()], done: 0, used: Vec::new() };
        Ok(Group {
            keys,
            items,
            events,
            wanting,
            slots: Vec::new(),
            looks_ahead: true,
            unanswered: Vec::new(),
            situations: vec![nothing],
            judged: 0,
            steps: 0,
            situations_max: 1,
        })
    }

    fn run(&mut self, steps_max: usize) -> Result<(), Violation> {
        for (event, index) in std::mem::take(&mut self.events) {
            match event {
                Event::Called if self.items[index].is_answered => self.called(index)?,
                Event::Called => self.unanswered.push(index),
                Event::Answered => self.answered(index, steps_max)?,
                Event::Seen => self.seen(index, steps_max)?,
            }
        }
        Ok(())
    }

    fn called(&mut self, index: usize) -> Result<(), Violation> {
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.slots.len() == u128::BITS as usize => {
                return Err(Violation(
                    "gave up: more operations are under way than can be followed".to_owned(),
                ));
            }
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[slot] = Some(index);
        self.items[index].stage = Stage::UnderWay(slot);
        let (slots, items) = (&self.slots, &self.items);
        self.situations.iter_mut().for_each(|situation| observe(situation, slots, items));
        Ok(())
    }

    fn answered(&mut self, index: usize, steps_max: usize) -> Result<(), Violation> {
        let mut reached = self.search(index, steps_max)?;
        if reached.count == 0 && self.looks_ahead {
            // There is a violation, perhaps only in a later answer, which is the one to report.
            self.looks_ahead = false;
            reached = self.search(index, steps_max)?;
        }
        if reached.count == 0 {
            return Err(self.violation("no order of the operations explains", index));
        }
        let Stage::UnderWay(slot) = std::mem::replace(&mut self.items[index].stage, Stage::Answered) else {
            return Err(Violation(format!("answered before it was called: {}", self.items[index].text())));
        };
        self.slots[slot] = None;
        let without = |situation: Situation| Situation { done: situation.done & !(1 << slot), ..situation };
        self.situations_max = self.situations_max.max(reached.count);
        self.situations = reached.into_iter().map(without).collect();
        self.judged += 1;
        Ok(())
    }

    /// The item has taken effect, or never will, so it can be forgotten. An effect that was replaced unseen
    /// is the same as no effect.
    fn seen(&mut self, index: usize, steps_max: usize) -> Result<(), Violation> {
        let mut reached = self.search(index, steps_max)?;
        let puts = self.items[index].effects.iter().flat_map(|effect| &effect.writes);
        let is_wanted = puts.clone().any(|(key, value)| self.is_wanted(*key, *value, 0));
        if !is_wanted {
            for situation in &self.situations {
                reached.insert(situation);
            }
        }
        let mut rest = Situations::default();
        for mut situation in reached.into_iter() {
            situation.used.retain(|other| *other != index);
            rest.insert(&situation);
        }
        if rest.count == 0 {
            // As for an answer, the violation to report comes later.
            self.looks_ahead = false;
            return self.seen(index, steps_max);
        }
        self.situations_max = self.situations_max.max(rest.count);
        self.situations = rest.into_iter().collect();
        self.unanswered.retain(|other| *other != index);
        Ok(())
    }

    /// All situations in which the item has taken effect.
    fn search(&mut self, index: usize, steps_max: usize) -> Result<Situations, Violation> {
        let relevant = self.relevant(index);
        let mut reached = Situations::default();
        let mut met = Situations::default();
        let mut waiting = VecDeque::new();
        for situation in &self.situations {
            if self.is_spent(situation, index) {
                reached.insert(situation);
            } else if met.insert(situation) {
                waiting.push_back(situation.clone());
            }
        }
        while let Some(situation) = waiting.pop_front() {
            for next in self.next(&situation, index, &relevant) {
                self.steps += 1;
                if self.is_spent(&next, index) {
                    reached.insert(&next);
                } else if met.insert(&next) {
                    waiting.push_back(next);
                }
            }
            if self.steps > steps_max {
                return Err(self.violation("gave up: too many orders are possible at", index));
            }
        }
        Ok(reached)
    }

    /// Whether an operation that is answered later observes this value, and has not taken effect yet.
    fn is_wanted(&self, key: usize, value: Option<u64>, done: u128) -> bool {
        let Some(wanting) = value.and_then(|value| self.wanting.get(&(key, value))) else { return false };
        if !self.looks_ahead {
            return false;
        }
        wanting.iter().any(|index| match self.items[*index].stage {
            Stage::Coming => true,
            Stage::UnderWay(slot) => done >> slot & 1 == 0,
            Stage::Answered => false,
        })
    }

    /// The items in progress, including this one, that are connected to the keys of the item, directly or
    /// through others, so that their order matters.
    fn relevant(&self, index: usize) -> Vec<usize> {
        let mut relevant = vec![index];
        let (mut reads, mut writes) = (self.items[index].reads, self.items[index].writes);
        let mut others: Vec<usize> = self.slots.iter().flatten().chain(&self.unanswered).copied().collect();
        others.retain(|other| *other != index);
        loop {
            let before = others.len();
            others.retain(|&other| {
                let item = &self.items[other];
                let is_apart = item.writes & (reads | writes) == 0 && item.reads & writes == 0;
                if !is_apart {
                    relevant.push(other);
                    reads |= item.reads;
                    writes |= item.writes;
                }
                is_apart
            });
            if others.len() == before {
                return relevant;
            }
        }
    }

    /// The situations that one effect leads to.
    fn next(&self, situation: &Situation, target: usize, relevant: &[usize]) -> Vec<Situation> {
        let mut reached = Vec::new();
        for &index in relevant.iter().filter(|index| !self.is_spent(situation, **index)) {
            let item = &self.items[index];
            for effect in &item.effects {
                if !effect.is_possible(&situation.values) {
                    continue;
                }
                let mut next = situation.clone();
                if let Stage::UnderWay(slot) = item.stage {
                    next.done |= 1 << slot;
                } else {
                    let waits_for_twin = item.twin.is_some_and(|twin| !self.is_spent(situation, twin));
                    let is_due =
                        index == target || effect.is_wide() || self.is_help(situation, effect, relevant);
                    if waits_for_twin || !is_due {
                        continue;
                    }
                    let at = next.used.partition_point(|other| *other < index);
                    next.used.insert(at, index);
                }
                let is_too_early =
                    |(key, _): &(usize, Option<u64>)| self.is_wanted(*key, situation.values[*key], next.done);
                if effect.writes.iter().any(is_too_early) {
                    continue;
                }
                for (key, value) in &effect.writes {
                    next.values[*key] = *value;
                }
                observe(&mut next, &self.slots, &self.items);
                reached.push(next);
            }
        }
        reached
    }

    fn is_spent(&self, situation: &Situation, index: usize) -> bool {
        match self.items[index].stage {
            Stage::UnderWay(slot) => situation.done >> slot & 1 == 1,
            Stage::Coming | Stage::Answered => situation.used.binary_search(&index).is_ok(),
        }
    }

    /// Whether an effect makes another one possible that was not possible before.
    fn is_help(&self, situation: &Situation, effect: &Effect, relevant: &[usize]) -> bool {
        relevant.iter().filter(|index| !self.is_spent(situation, **index)).any(|&index| {
            let item = &self.items[index];
            // For operations without an answer, only comparisons can be worth making true.
            let is_worth = |effect: &Effect| {
                let is_compare = |(_, condition): &(usize, Condition)| matches!(condition, Condition::Is(_));
                item.is_answered || effect.holds.iter().any(is_compare) || !effect.unless.is_empty()
            };
            let is_helped =
                |other: &Effect| is_worth(other) && other.is_helped(&situation.values, &effect.writes);
            item.effects.iter().any(is_helped)
        })
    }

    fn violation(&self, what: &str, index: usize) -> Violation {
        let relevant = self.relevant(index);
        let item = &self.items[index];
        let mut text = format!("{what}\n  {}", item.text());
        let touched = item.reads | item.writes;
        let (keys, rest) = (self.keys.iter().enumerate(), self.situations.len().saturating_sub(SHOWN));
        let keys: Vec<(usize, &String)> = keys.filter(|(key, _)| touched >> key & 1 == 1).collect();
        for situation in self.situations.iter().take(SHOWN) {
            text.push_str("\n  possible before it:");
            for (key, name) in &keys {
                let _ = match situation.values[*key] {
                    Some(value) => write!(text, " {name} = {value}"),
                    None => write!(text, " no {name}"),
                };
            }
        }
        if rest > 0 {
            let _ = write!(text, "\n  and {rest} more");
        }
        for &other in relevant.iter().filter(|other| **other != index).take(4 * SHOWN) {
            let _ = write!(text, "\n  under way: {}", self.items[other].text());
        }
        let until = item.operation.and_then(|operation| operation.returned);
        let is_before =
            |other: &&Operation| until.is_none_or(|until| other.returned.is_some_and(|it| it < until));
        let is_near = |other: &&Item<'_>| other.is_answered && (other.reads | other.writes) & touched != 0;
        let near = self.items.iter().filter(is_near).filter_map(|other| other.operation);
        let mut before: Vec<&Operation> = near.filter(is_before).collect();
        before.sort_by_key(|operation| operation.returned);
        for operation in &before[before.len().saturating_sub(2 * SHOWN)..] {
            let _ = write!(text, "\n  before: {operation}");
        }
        Violation(text)
    }
}

/// The maximum number of items of each kind in the text of a violation.
const SHOWN: usize = 4;

/// An effect that changes nothing is taken as soon as possible, because delaying it has no advantage.
fn observe(situation: &mut Situation, slots: &[Option<usize>], items: &[Item<'_>]) {
    for (slot, index) in slots.iter().enumerate() {
        let Some(index) = index else { continue };
        let item = &items[*index];
        if situation.done >> slot & 1 == 0
            && item.writes == 0
            && item.effects.iter().any(|effect| effect.is_possible(&situation.values))
        {
            situation.done |= 1 << slot;
        }
    }
}

impl<'a> Item<'a> {
    fn new(
        operation: Option<&'a Operation>,
        effects: Vec<Effect>,
        is_answered: bool,
        twin: Option<usize>,
    ) -> Item<'a> {
        let reads = effects.iter().fold(0, |mask, effect| mask | effect.read_mask());
        let writes = effects.iter().fold(0, |mask, effect| mask | effect.write_mask());
        Item { operation, effects, is_answered, stage: Stage::Coming, reads, writes, twin }
    }
}

/// From requests and answers to conditions and writes.
struct Translation<'a> {
    /// Sorted.
    keys: &'a [String],
    names: &'a Names<'a>,
}

impl Translation<'_> {
    /// `None` for a condition on another group, or one that says nothing about this group.
    fn effects(&self, operation: &Operation) -> Result<Vec<Effect>, Violation> {
        let is_ours = match &operation.request {
            Request::List { prefix, .. } => self.keys.iter().any(|key| key.starts_with(prefix)),
            request => keys_of(request).first().is_some_and(|key| self.key(key).is_some()),
        };
        if !is_ours || operation.is_serializable() {
            return Ok(Vec::new());
        }
        let mut effects = match &operation.outcome {
            Outcome::Refused => Vec::new(),
            Outcome::Unknown => self.unanswered(&operation.request),
            Outcome::Ok(_) => return Ok(vec![self.answered(operation)]),
        };
        // It has put what is seen of it, and nothing else.
        let put: Vec<u64> = operation.request.writes().into_iter().filter_map(|(_, value)| value).collect();
        let is_put = |effect: &Effect, value: u64| effect.puts().any(|put| put == value);
        let is_seen = |effect: &Effect| {
            put.iter().all(|value| is_put(effect, *value) == self.names.seen.contains_key(value))
        };
        effects.retain(|effect| !effect.writes.is_empty() && is_seen(effect));
        Ok(effects)
    }

    /// The value that a request without an answer puts, if it puts one.
    fn first_seen(&self, item: &Item<'_>) -> Option<Duration> {
        let puts = item.effects.iter().flat_map(Effect::puts);
        puts.filter_map(|value| self.names.seen.get(&value).copied()).min()
    }

    fn answered(&self, operation: &Operation) -> Effect {
        let mut effect = Effect::default();
        let Some(answer) = operation.answer() else { return effect };
        match &operation.request {
            Request::Get { key, .. } => {
                let value = answer.kvs.first().map(|stored| stored.value);
                effect.holds.extend(self.key(key).map(|key| (key, Condition::Is(value))));
            }
            Request::List { prefix, .. } => {
                let inside = (0..self.keys.len()).filter(|&key| self.keys[key].starts_with(prefix));
                effect = self.exactly(inside, &answer.kvs);
            }
            Request::Put { key, value } => {
                if let Some(previous) = &answer.previous {
                    effect = self.exactly(self.key(key), previous);
                }
                effect.writes.extend(self.key(key).map(|key| (key, Some(*value))));
            }
            Request::Delete { key } => {
                if let Some(previous) = &answer.previous {
                    effect = self.exactly(self.key(key), previous);
                }
                self.delete(key, answer.deleted, &mut effect);
            }
            Request::Txn(txn) => self.taken(txn, answer.succeeded, &answer.responses, &mut effect),
        }
        effect
    }

    /// The way that a transaction has taken.
    fn taken(&self, txn: &Txn, succeeded: bool, responses: &[Response], effect: &mut Effect) {
        self.compares(&txn.compares, succeeded, effect);
        let branch = txn.branch(succeeded);
        if branch.len() != responses.len() {
            effect.holds.push((0, Condition::Never));
        }
        for (write, response) in branch.iter().zip(responses) {
            match (write, response) {
                (Write::Txn(inner), Response::Txn { succeeded, responses }) => {
                    self.taken(inner, *succeeded, responses, effect);
                }
                _ => self.write(write, response, effect),
            }
        }
    }

    fn write(&self, write: &Write, response: &Response, effect: &mut Effect) {
        let Some(key) = write.key().and_then(|key| self.key(key)) else {
            effect.holds.push((0, Condition::Never));
            return;
        };
        match (write, response) {
            (Write::Put { value, .. }, Response::Put) => effect.writes.push((key, Some(*value))),
            (Write::Delete { key, .. }, Response::Deleted(deleted)) => self.delete(key, *deleted, effect),
            (Write::Get { .. }, Response::Got(stored)) => {
                let value = stored.as_ref().map(|stored| stored.value);
                // The operation sees the earlier writes of its transaction.
                match effect.writes.iter().find(|(written, _)| *written == key) {
                    Some((_, written)) if *written == value => {}
                    Some(_) => effect.holds.push((key, Condition::Never)),
                    None => effect.holds.push((key, Condition::Is(value))),
                }
            }
            _ => effect.holds.push((key, Condition::Never)),
        }
    }

    fn delete(&self, key: &str, deleted: i64, effect: &mut Effect) {
        let Some(key) = self.key(key) else { return };
        if deleted > 0 {
            effect.holds.push((key, Condition::Exists));
            effect.writes.push((key, None));
        } else {
            effect.holds.push((key, Condition::Is(None)));
        }
    }

    /// The possible effects of a request without an answer.
    fn unanswered(&self, request: &Request) -> Vec<Effect> {
        match request {
            Request::Get { .. } | Request::List { .. } => Vec::new(),
            Request::Put { key, value } => {
                let writes = self.key(key).map(|key| (key, Some(*value)));
                vec![Effect { writes: writes.into_iter().collect(), ..Effect::default() }]
            }
            Request::Delete { key } => {
                let mut effect = Effect::default();
                self.delete(key, 1, &mut effect);
                vec![effect]
            }
            Request::Txn(txn) => self.ways(txn),
        }
    }

    /// An effect for each way through the branches of a transaction.
    fn ways(&self, txn: &Txn) -> Vec<Effect> {
        let mut all = Vec::new();
        for succeeded in [true, false] {
            let mut begun = Effect::default();
            self.compares(&txn.compares, succeeded, &mut begun);
            let mut ways = vec![begun];
            for write in txn.branch(succeeded) {
                if let Write::Txn(inner) = write {
                    let inner = self.ways(inner);
                    let further = |way: &Effect| inner.iter().map(|rest| way.and(rest)).collect::<Vec<_>>();
                    ways = ways.iter().flat_map(further).collect();
                } else {
                    let written = self.unconditional(write);
                    ways.iter_mut().for_each(|way| way.writes.extend(written));
                }
            }
            all.extend(ways);
        }
        all
    }

    fn unconditional(&self, write: &Write) -> Option<(usize, Option<u64>)> {
        match write {
            Write::Put { key, value } => Some((self.key(key)?, Some(*value))),
            Write::Delete { key } => Some((self.key(key)?, None)),
            Write::Get { .. } | Write::Txn(_) => None,
        }
    }

    /// The conditions on the state before, which follow from the branch that was taken.
    fn compares(&self, compares: &[Compare], succeeded: bool, effect: &mut Effect) {
        let mut is_exact = true;
        let mut conditions = Vec::new();
        for compare in compares {
            let Some(key) = self.key(compare.key()) else { continue };
            let (condition, exact) = match compare {
                Compare::Value { equal, .. } => (Condition::Is(Some(*equal)), true),
                Compare::Version { equal: 0, .. }
                | Compare::CreateRevision { equal: 0, .. }
                | Compare::ModRevision { equal: 0, .. } => (Condition::Is(None), true),
                Compare::ModRevision { key, equal } => match self.names.values.get(&(key.as_str(), *equal)) {
                    Some(value) => (Condition::Is(Some(*value)), true),
                    None => (Condition::Exists, false),
                },
                Compare::Version { .. } | Compare::CreateRevision { .. } => (Condition::Exists, false),
            };
            conditions.push((key, condition));
            is_exact &= exact;
        }
        match succeeded {
            true => effect.holds.extend(conditions),
            false if conditions.is_empty() => effect.holds.push((0, Condition::Never)),
            false if is_exact => effect.unless.push(conditions),
            false => {}
        }
    }

    /// The conditions that these keys have these values, and that no other keys exist.
    fn exactly(&self, keys: impl IntoIterator<Item = usize>, kvs: &[Stored]) -> Effect {
        let value =
            |key: usize| kvs.iter().find(|stored| stored.key == self.keys[key]).map(|stored| stored.value);
        let holds = keys.into_iter().map(|key| (key, Condition::Is(value(key)))).collect();
        Effect { holds, ..Effect::default() }
    }

    fn key(&self, name: &str) -> Option<usize> {
        self.keys.binary_search_by(|key| key.as_str().cmp(name)).ok()
    }
}

/// The keys that a request names.
fn keys_of(request: &Request) -> Vec<&str> {
    match request {
        Request::List { .. } => Vec::new(),
        Request::Get { key, .. } | Request::Put { key, .. } | Request::Delete { key } => vec![key],
        Request::Txn(txn) => txn.keys(),
    }
}

/// The groups of connected keys, each sorted.
fn groups(history: &History) -> Vec<Vec<String>> {
    let requests = history.operations.iter().flat_map(|operation| keys_of(&operation.request));
    let seen = history.seen().map(|(stored, ..)| stored.key.as_str());
    let all: BTreeSet<&str> = requests.chain(seen).collect();
    let all: Vec<&str> = all.into_iter().collect();
    let mut group_of: Vec<usize> = (0..all.len()).collect();
    let mut joined: BTreeSet<Vec<&str>> = BTreeSet::new();
    for operation in &history.operations {
        let keys = match &operation.request {
            Request::List { prefix, serializable: false } => {
                all.iter().copied().filter(|key| key.starts_with(prefix.as_str())).collect()
            }
            request => keys_of(request),
        };
        if keys.len() > 1 && joined.insert(keys.clone()) {
            let indexes: Vec<usize> = keys.iter().filter_map(|key| all.binary_search(key).ok()).collect();
            let group = group_of[indexes[0]];
            let old: BTreeSet<usize> = indexes.iter().map(|index| group_of[*index]).collect();
            group_of.iter_mut().filter(|of| old.contains(of)).for_each(|of| *of = group);
        }
    }
    let mut groups: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (key, group) in all.iter().zip(group_of) {
        groups.entry(group).or_default().push((*key).to_owned());
    }
    groups.into_values().collect()
}
