//! Numbers for things, such that a number of a thing that is gone never names another thing.

use std::sync::{Arc, PoisonError, RwLock};

/// A table of shared values under 64-bit numbers: slot in the lower half, generation in the upper.
///
/// A number is never used twice: the generation of a slot grows with each value in it, and a slot whose generations
/// are used up is not used again. Bit 63 of a number is never set.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    table: RwLock<Table<T>>,
    limit: usize,
}

#[derive(Debug)]
struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    used: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<Arc<T>>,
}

/// Generations have 31 bits: bit 63 of a number belongs to others.
const LAST_GENERATION: u32 = u32::MAX >> 1;

fn number(slot: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

fn parts(number: u64) -> (usize, u64) {
    (usize::try_from(number & u64::from(u32::MAX)).unwrap_or(usize::MAX), number >> 32)
}

impl<T> Slab<T> {
    /// An empty table for at most `limit` values.
    pub(crate) fn new(limit: usize) -> Self {
        Self { table: RwLock::new(Table { slots: Vec::new(), free: Vec::new(), used: 0 }), limit }
    }

    /// Puts a value in. `None`: the table is full.
    pub(crate) fn insert(&self, value: Arc<T>) -> Option<u64> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.used >= self.limit {
            return None;
        }
        let index = match table.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(table.slots.len()).ok()?;
                table.slots.push(Slot { generation: 0, value: None });
                index
            }
        };
        let slot = table.slots.get_mut(usize::try_from(index).ok()?)?;
        slot.generation += 1;
        slot.value = Some(value);
        let generation = slot.generation;
        table.used += 1;
        Some(number(index, generation))
    }

    /// The value with this number.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<T>> {
        let (index, generation) = parts(number);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get(index)?;
        if u64::from(slot.generation) == generation { slot.value.clone() } else { None }
    }

    /// Takes the value with this number out, if `agree` does. The caller drops it, outside the table's lock.
    pub(crate) fn remove_if(&self, number: u64, agree: impl FnOnce(&T) -> bool) -> Option<Arc<T>> {
        let (index, generation) = parts(number);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let slot = table.slots.get_mut(index)?;
        if u64::from(slot.generation) != generation || !slot.value.as_deref().is_some_and(agree) {
            return None;
        }
        let value = slot.value.take();
        if slot.generation < LAST_GENERATION {
            table.free.push(u32::try_from(index).ok()?);
        }
        table.used -= 1;
        value
    }

    /// Takes all values out. Their numbers stay used.
    pub(crate) fn clear(&self) -> Vec<Arc<T>> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Table { slots, free, used } = &mut *table;
        let mut values = Vec::with_capacity(*used);
        for (index, slot) in (0..).zip(slots) {
            if let Some(value) = slot.value.take() {
                values.push(value);
                if slot.generation < LAST_GENERATION {
                    free.push(index);
                }
            }
        }
        *used = 0;
        values
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn behaves_like_a_map_whose_keys_are_never_used_twice(ops in prop::collection::vec((0u8..4, any::<u64>()), 0..200)) {
            let slab = Slab::new(20);
            let (mut model, mut ever) = (HashMap::new(), Vec::new());
            for (op, x) in ops {
                let pick = |ever: &Vec<u64>| ever.get(usize::try_from(x).unwrap_or(0) % ever.len().max(1)).copied().unwrap_or(x);
                match op {
                    0 | 1 => match slab.insert(Arc::new(x)) {
                        Some(key) => {
                            prop_assert!(!ever.contains(&key) && key >> 63 == 0 && key >> 32 != 0);
                            ever.push(key);
                            model.insert(key, x);
                        }
                        None => prop_assert_eq!(model.len(), 20),
                    },
                    2 => {
                        let key = pick(&ever);
                        prop_assert_eq!(slab.remove_if(key, |_| true).map(|v| *v), model.remove(&key));
                    }
                    _ => {
                        let key = pick(&ever);
                        prop_assert_eq!(slab.get(key).map(|v| *v), model.get(&key).copied());
                        prop_assert!(slab.get(x).is_none() || model.contains_key(&x));
                    }
                }
                prop_assert_eq!(slab.len(), model.len());
            }
            prop_assert_eq!(slab.clear().len(), model.len());
            prop_assert!(ever.iter().all(|key| slab.get(*key).is_none()));
        }
    }
}
