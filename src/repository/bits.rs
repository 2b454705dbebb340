//! Sets of small numbers: one bit for each number that there may be.

/// A set of numbers below a length that was told when it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::repository) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// None of the numbers below `len`.
    pub(in crate::repository) fn none(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
        }
    }

    /// Those of the numbers below `len` that `holds` accepts.
    pub(in crate::repository) fn of(len: usize, holds: impl Fn(u32) -> bool) -> Self {
        let mut out = Self::none(len);
        let numbers = 0..u32::try_from(len).unwrap_or(u32::MAX);
        numbers.filter(|number| holds(*number)).for_each(|number| {
            out.set(number);
        });
        out
    }

    fn place(number: u32) -> (usize, u64) {
        ((number / 64) as usize, 1 << (number % 64))
    }

    /// Whether it has a number.
    pub(in crate::repository) fn has(&self, number: u32) -> bool {
        let (word, bit) = Self::place(number);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds a number; gives whether it was not there. A number that is not below the length is not added.
    pub(in crate::repository) fn set(&mut self, number: u32) -> bool {
        let (word, bit) = Self::place(number);
        match self.words.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    /// Takes a number out.
    pub(in crate::repository) fn clear(&mut self, number: u32) {
        let (word, bit) = Self::place(number);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    /// The first number from `from` on.
    pub(in crate::repository) fn next(&self, from: u32) -> Option<u32> {
        let (first, bit) = Self::place(from);
        // Bits below `from` are masked in the first word only.
        let mut mask = !(bit - 1);
        for (at, word) in self.words.iter().enumerate().skip(first) {
            let left = word & mask;
            if left != 0 {
                return u32::try_from(at * 64).ok()?.checked_add(left.trailing_zeros());
            }
            mask = u64::MAX;
        }
        None
    }

    /// All numbers, ascending.
    pub(in crate::repository) fn iter(&self) -> impl Iterator<Item = u32> {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let number = self.next(from?)?;
            from = number.checked_add(1);
            Some(number)
        })
    }

    /// Adds all of another set.
    pub(in crate::repository) fn merge(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0u32..300, 0..200), out in 0u32..300) {
            let mut bits = Bits::none(300);
            let mut set = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(bits.set(number), set.insert(number));
            }
            bits.clear(out);
            set.remove(&out);
            prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(bits.next(out), set.range(out..).next().copied());
            prop_assert!((0..310).all(|n| bits.has(n) == set.contains(&n)));
        }
    }
}
