//! Many of a kind, each of which has something to do at some time: nobody is visited who has nothing to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    time::Instant,
};

/// Has something to do at some time.
pub(crate) trait Timer {
    /// When, by what is known now.
    fn wake_at(&self) -> Option<Instant>;
}

impl Timer for Instant {
    fn wake_at(&self) -> Option<Instant> {
        Some(*self)
    }
}

/// By key, and in the order of their times. Whoever was lent out to be changed is asked for its time again, by itself, when somebody wants to
/// know whose time has come.
#[derive(Debug)]
pub(crate) struct Timed<K, V> {
    all: BTreeMap<K, V>,
    wakes: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
    /// Those that may have another time by now, or are gone.
    touched: BTreeSet<K>,
}

impl<K, V> Default for Timed<K, V> {
    fn default() -> Self {
        let (all, wakes) = (BTreeMap::new(), BTreeMap::new());
        Self { all, wakes, by_time: BTreeSet::new(), touched: BTreeSet::new() }
    }
}

/// To look at.
impl<K, V> Deref for Timed<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<K: Ord + Clone, V: Timer> Timed<K, V> {
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let item = self.all.get_mut(key)?;
        self.touched.insert(key.clone());
        Some(item)
    }

    pub(crate) fn get_or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        self.touched.insert(key.clone());
        self.all.entry(key).or_insert_with(new)
    }

    pub(crate) fn insert(&mut self, key: K, item: V) {
        self.touched.insert(key.clone());
        self.all.insert(key, item);
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let item = self.all.remove(key)?;
        self.touched.insert(key.clone());
        Some(item)
    }

    /// All of them: what concerns everybody.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.touched.extend(self.all.keys().cloned());
        self.all.values_mut()
    }

    /// When the first of them has something to do.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let known = self.by_time.iter().find(|(_, key)| !self.touched.contains(key));
        let touched = self.touched.iter().filter_map(|key| self.all.get(key)?.wake_at());
        touched.chain(known.map(|(at, _)| *at)).min()
    }

    /// Those whose time has come, in the order of their keys.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<K> {
        self.settle();
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        let mut due: Vec<K> = due.map(|(_, key)| key.clone()).collect();
        due.sort_unstable();
        due
    }

    /// Of those whose time has come, the one whose came first.
    pub(crate) fn first_due(&mut self, now: Instant) -> Option<K> {
        self.settle();
        self.by_time.first().filter(|(at, _)| *at <= now).map(|(_, key)| key.clone())
    }

    /// Asks those that were touched for their times.
    fn settle(&mut self) {
        while let Some(key) = self.touched.pop_first() {
            let at = self.all.get(&key).and_then(V::wake_at);
            let before = self.wakes.get(&key).copied();
            if at == before {
                continue;
            }
            if let Some(before) = before {
                self.by_time.remove(&(before, key.clone()));
            }
            match at {
                Some(at) => {
                    self.wakes.insert(key.clone(), at);
                    self.by_time.insert((at, key));
                }
                None => {
                    self.wakes.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use proptest::prelude::*;

    use super::*;

    thread_local! {
        static ASKED: Cell<usize> = const { Cell::new(0) };
    }

    impl Timer for Option<Instant> {
        fn wake_at(&self) -> Option<Instant> {
            ASKED.set(ASKED.get() + 1);
            *self
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, Option<u8>),
        Change(u8, Option<u8>),
        Remove(u8),
        ChangeAll(u8),
        Look(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (key, time) = (0..8_u8, prop::option::of(0..50_u8));
        prop_oneof![
            (key.clone(), time.clone()).prop_map(|(key, at)| Step::Set(key, at)),
            (key.clone(), time).prop_map(|(key, at)| Step::Change(key, at)),
            key.prop_map(Step::Remove),
            (0..50_u8).prop_map(Step::ChangeAll),
            (0..50_u8).prop_map(Step::Look),
        ]
    }

    proptest! {
        /// Against a walk over all.
        #[test]
        fn whose_time_has_come_is_known_whatever_was_changed(steps in prop::collection::vec(step(), 0..60)) {
            let start = Instant::now();
            let at = |seconds: u8| start + Duration::from_secs(u64::from(seconds));
            let (mut timed, mut model) = (Timed::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Set(key, time) => {
                        timed.insert(key, time.map(at));
                        model.insert(key, time.map(at));
                    }
                    Step::Change(key, time) => {
                        if let (Some(one), Some(other)) = (timed.get_mut(&key), model.get_mut(&key)) {
                            (*one, *other) = (time.map(at), time.map(at));
                        }
                    }
                    Step::Remove(key) => prop_assert_eq!(timed.remove(&key), model.remove(&key)),
                    Step::ChangeAll(time) => {
                        timed.values_mut().for_each(|item| *item = Some(at(time)));
                        model.values_mut().for_each(|item| *item = Some(at(time)));
                    }
                    Step::Look(time) => {
                        let is_due = |(_, item): &(&u8, &Option<Instant>)| item.is_some_and(|due| due <= at(time));
                        let due: Vec<u8> = model.iter().filter(is_due).map(|(key, _)| *key).collect();
                        prop_assert_eq!(timed.due(at(time)), due.clone());
                        let first = due.into_iter().min_by_key(|key| (model[key], *key));
                        prop_assert_eq!(timed.first_due(at(time)), first);
                    }
                }
                prop_assert_eq!(timed.next_wake(), model.values().flatten().min().copied());
                prop_assert_eq!(&*timed, &model);
            }
        }
    }

    #[test]
    fn nobody_is_asked_who_was_not_touched() {
        let start = Instant::now();
        let mut timed = Timed::default();
        for number in 0..1_000_u16 {
            timed.insert(number, Some(start + Duration::from_secs(60)));
        }
        assert!(timed.due(start).is_empty());
        ASKED.set(0);
        for _ in 0..10 {
            *timed.get_mut(&7).unwrap() = Some(start + Duration::from_secs(30));
            assert_eq!(timed.next_wake(), Some(start + Duration::from_secs(30)));
            assert!(timed.due(start).is_empty());
        }
        assert_eq!(ASKED.get(), 20);
    }
}
