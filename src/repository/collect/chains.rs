//! Which copies of blobs to keep, so that each blob that is needed has a chain that ends in a whole copy.
//!
//! Copies cannot be chosen blob by blob: A as a delta of B and B as a delta of A would keep nothing. Each blob is therefore kept by a
//! copy whose chain is as short as any: a whole copy if there is one, else a delta of a blob with a shorter chain. Chains that are
//! chosen so cannot meet themselves, and none is longer than the blob's shortest, so that none grows over the limit of the format.

use crate::context::mutant::mutated;
use crate::format::limits::CHAIN_MAX;
use crate::repository::bits::Bits;
use crate::repository::index::{Copy, Index, PackNumber};

/// The depth of a blob without a chain.
const UNUSABLE: u8 = u8::MAX;

/// Of each blob, by its number, how many deltas its shortest chain has.
pub(super) struct Depths(Vec<u8>);

impl Depths {
    /// The shortest chains out of copies in `packs`. The least fixed point: a cycle of deltas makes nothing usable.
    pub(super) fn of(index: &Index, packs: &Bits) -> Self {
        let mut depths = vec![UNUSABLE; index.all_copies().len()];
        for (number, copy) in numbered(index) {
            let is_whole = !copy.is_delta() || mutated!(MarkIgnoresBases) || mutated!(DeltasOnly);
            if is_whole && lies_in(index, packs, copy) {
                set(&mut depths, number, 0);
            }
        }
        let limit = u8::try_from(CHAIN_MAX).unwrap_or(u8::MAX - 1);
        for depth in 1..=limit {
            let mut found = false;
            for (number, copy) in numbered(index).filter(|(_, copy)| copy.is_delta()) {
                if at(&depths, number) != UNUSABLE || !lies_in(index, packs, copy) {
                    continue;
                }
                let base = index.base_number(copy);
                if base.is_some_and(|base| at(&depths, base) == depth - 1) {
                    set(&mut depths, number, depth);
                    found = true;
                }
            }
            if !found {
                break;
            }
        }
        Self(depths)
    }

    /// Whether a blob has a chain.
    pub(super) fn is_usable(&self, number: u32) -> bool {
        at(&self.0, number) != UNUSABLE
    }
}

fn at(depths: &[u8], number: u32) -> u8 {
    depths.get(number as usize).copied().unwrap_or(UNUSABLE)
}

fn set(depths: &mut [u8], number: u32, depth: u8) {
    if let Some(place) = depths.get_mut(number as usize) {
        *place = depth;
    }
}

/// Every copy with the number of its blob.
fn numbered(index: &Index) -> impl Iterator<Item = (u32, &Copy)> {
    let mut last = None;
    (0u32..).zip(index.all_copies()).map(move |(at, copy)| {
        let number = match last {
            Some((number, id)) if id == copy.id => number,
            _ => at,
        };
        last = Some((number, copy.id));
        (number, copy)
    })
}

/// The pack that a copy lies in.
pub(super) fn pack_of(index: &Index, copy: &Copy) -> Option<PackNumber> {
    index.block(copy).map(|block| block.pack)
}

fn lies_in(index: &Index, packs: &Bits, copy: &Copy) -> bool {
    pack_of(index, copy).is_some_and(|pack| packs.has(pack.0))
}

/// Copies to keep, by their place in the index.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) copies: Bits,
    /// The first blob without a chain anywhere.
    pub(super) lost: Option<u32>,
}

/// Chooses copies of all blobs of `needed`, bases included. Each blob is kept by the first of the sets of packs in which it has a
/// chain, with all of that chain; of its bases those copies are taken that lie in an earlier set, so that nothing is kept twice.
pub(super) fn keep(index: &Index, needed: &Bits, tiers: &[Bits]) -> Kept {
    let len = index.all_copies().len();
    let mut copies = Bits::none(len);
    let mut left = needed.clone();
    for (at, packs) in tiers.iter().enumerate() {
        if left.next(0).is_none() {
            break;
        }
        let depths = Depths::of(index, packs);
        let here = Bits::of(len, |number| left.has(number) && depths.is_usable(number));
        here.iter().for_each(|number| left.clear(number));
        let earlier = tiers.get(..at).unwrap_or_default();
        choose(index, (&depths, packs, earlier), here, &mut copies);
    }
    Kept {
        copies,
        lost: left.next(0),
    }
}

/// Chooses a copy of the shortest chain for each blob of `wanted`, and for their bases.
fn choose(
    index: &Index,
    (depths, packs, earlier): (&Depths, &Bits, &[Bits]),
    mut wanted: Bits,
    chosen: &mut Bits,
) {
    #[cfg(feature = "testkit")]
    if mutated!(DeltasOnly) {
        return choose_deltas(index, packs, wanted, chosen);
    }
    let weights = weights(index, packs, &wanted);
    let weight = |pack: PackNumber| {
        let is_kept_anyway = earlier.iter().any(|tier| tier.has(pack.0));
        (is_kept_anyway, weights.get(pack.0 as usize).copied().unwrap_or(0))
    };
    // Bases have shorter chains than what rests on them, so one way down meets them all.
    for depth in (0..=CHAIN_MAX).rev() {
        let mut from = Some(0);
        while let Some(number) = from.and_then(|from| wanted.next(from)) {
            from = number.checked_add(1);
            if usize::from(at(&depths.0, number)) != depth {
                continue;
            }
            let fits = |copy: &&(u32, &Copy, Option<u32>)| match copy.2 {
                None => depth == 0,
                Some(_) if mutated!(MarkIgnoresBases) => true,
                Some(base) => depth > 0 && usize::from(at(&depths.0, base)) == depth - 1,
            };
            let copies = copies_of(index, packs, number);
            let best = copies
                .iter()
                .filter(fits)
                .max_by_key(|(at, copy, _)| (pack_of(index, copy).map(weight), std::cmp::Reverse(*at)));
            if let Some((at, _, base)) = best {
                chosen.set(*at);
                base.filter(|_| !mutated!(MarkIgnoresBases))
                    .map(|base| wanted.set(base));
            }
        }
    }
}

/// What the mutant `DeltasOnly` chooses: a delta where there is one.
#[cfg(feature = "testkit")]
fn choose_deltas(index: &Index, packs: &Bits, mut wanted: Bits, chosen: &mut Bits) {
    let mut done = Bits::none(index.all_copies().len());
    loop {
        let next = wanted.iter().find(|number| !done.has(*number));
        let Some(number) = next else { return };
        done.set(number);
        let copies = copies_of(index, packs, number);
        let best = copies
            .iter()
            .max_by_key(|(at, _, base)| (base.is_some(), std::cmp::Reverse(*at)));
        if let Some((at, _, base)) = best {
            chosen.set(*at);
            base.map(|base| wanted.set(base));
        }
    }
}

/// The copies of a blob in `packs`: place, copy, and the base of deltas. Deltas of blobs that no run lists are left out.
fn copies_of<'a>(index: &'a Index, packs: &Bits, number: u32) -> Vec<(u32, &'a Copy, Option<u32>)> {
    let Some(id) = index.all_copies().get(number as usize).map(|copy| copy.id) else {
        return Vec::new();
    };
    let copies = (number..).zip(index.copies(&id));
    let copies = copies.filter(|(_, copy)| lies_in(index, packs, copy));
    copies
        .filter_map(|(at, copy)| {
            if copy.is_delta() {
                index.base_number(copy).map(|base| (at, copy, Some(base)))
            } else {
                Some((at, copy, None))
            }
        })
        .collect()
}

/// Of each pack, the bytes of blobs that nothing else holds: where a blob has several copies, the one among most of these is kept.
fn weights(index: &Index, packs: &Bits, wanted: &Bits) -> Vec<u64> {
    let mut weights = vec![0u64; index.packs().len()];
    for number in wanted.iter() {
        if let [(_, copy, _)] = copies_of(index, packs, number).as_slice()
            && let Some(weight) = pack_of(index, copy).and_then(|pack| weights.get_mut(pack.0 as usize))
        {
            *weight += u64::from(copy.encoded);
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::HEADER_LEN;
    use crate::format::id::{BlobId, ObjectId};
    use crate::format::index::{BlobKind, BlockRow, Codec, EntryRow, PackRow, Tables};
    use crate::repository::index::IndexBuilder;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashSet};

    /// A pack of copies: blob, and its base if it is a delta.
    fn pack(id: u8, copies: &[(u8, Option<u8>)]) -> Tables {
        let mut copies = copies.to_vec();
        copies.sort_unstable();
        let mut tables = Tables {
            packs: vec![PackRow {
                id: ObjectId([id; 32]),
                header: [0; HEADER_LEN],
                size: 100_000,
            }],
            blocks: vec![BlockRow {
                pack: 0,
                record: 0,
                offset: 104,
                sealed: 10_016,
                plain: 10_000,
                codec: Codec::Raw,
            }],
            ..Tables::default()
        };
        for (at, (id, base)) in (0u32..).zip(copies) {
            tables.bases.extend(base.map(|base| (at, BlobId([base; 32]))));
            tables.entries.push(EntryRow {
                id: BlobId([id; 32]),
                kind: BlobKind::Data,
                delta: base.is_some(),
                block: 0,
                offset: at * 10,
                encoded: 10,
                plain: 10,
            });
        }
        tables
    }

    fn index(packs: &[Vec<(u8, Option<u8>)>]) -> Index {
        let mut builder = IndexBuilder::new(HashSet::new());
        for (id, copies) in (1u8..).zip(packs) {
            builder.add(&pack(id, copies), false);
        }
        builder.finish()
    }

    fn all(index: &Index) -> Bits {
        Bits::of(index.packs().len(), |_| true)
    }

    fn numbers(index: &Index, blobs: &[u8]) -> Bits {
        let mut bits = Bits::none(index.all_copies().len());
        for blob in blobs {
            bits.set(index.number(&BlobId([*blob; 32])).unwrap());
        }
        bits
    }

    /// What is kept, as blob and base.
    fn kept(index: &Index, kept: &Kept) -> Vec<(u8, Option<u8>)> {
        let copies = kept.copies.iter().map(|at| &index.all_copies()[at as usize]);
        copies
            .map(|copy| (copy.id.0[0], index.base(copy).map(|base| base.0[0])))
            .collect()
    }

    #[test]
    fn two_deltas_of_each_other_are_not_chosen_both() {
        // Each of the two has a whole copy and a delta of the other.
        let index = index(&[vec![(1, Some(2)), (2, Some(1))], vec![(1, None)], vec![(2, None)]]);
        let found = keep(&index, &numbers(&index, &[1, 2]), &[all(&index)]);
        assert_eq!(kept(&index, &found), [(1, None), (2, None)]);
        // Where one whole copy goes, the other is kept, and the delta that ends in it.
        let without = Bits::of(3, |pack| pack != 2);
        let found = keep(&index, &numbers(&index, &[1, 2]), &[without]);
        assert_eq!(kept(&index, &found), [(1, None), (2, Some(1))]);
        let without = Bits::of(3, |pack| pack == 0);
        assert!(keep(&index, &numbers(&index, &[1, 2]), &[without]).lost.is_some());
    }

    #[test]
    fn a_chain_that_would_be_too_long_without_a_whole_copy_keeps_that_copy() {
        // 1 whole, 2 to 18 deltas of the one before; 10 is stored whole too, elsewhere.
        let chain = (2..=18).map(|id| (id, Some(id - 1)));
        let index = index(&[vec![(1, None)], chain.collect(), vec![(10, None)]]);
        let surviving = Bits::of(3, |pack| pack != 2);
        assert!(!Depths::of(&index, &surviving).is_usable(index.number(&BlobId([18; 32])).unwrap()));
        let found = keep(&index, &numbers(&index, &[18]), &[surviving, all(&index)]);
        assert_eq!(found.lost, None);
        let copies = kept(&index, &found);
        assert_eq!(copies[0], (10, None));
        assert_eq!(copies.len(), 9);
        // 17, which has a chain without it, is kept by its own.
        let surviving = Bits::of(3, |pack| pack != 2);
        let found = keep(&index, &numbers(&index, &[17]), &[surviving]);
        assert_eq!(kept(&index, &found).len(), 17);
    }

    #[test]
    fn a_copy_in_the_fuller_pack_is_kept() {
        let index = index(&[vec![(1, None)], vec![(1, None), (2, None)], vec![(1, None)]]);
        let found = keep(&index, &numbers(&index, &[1, 2]), &[all(&index)]);
        let packs: Vec<_> = found
            .copies
            .iter()
            .map(|at| pack_of(&index, &index.all_copies()[at as usize]).unwrap().0)
            .collect();
        assert_eq!(packs, [1, 1]);
    }

    #[test]
    fn a_base_that_survives_is_not_kept_once_more_for_a_delta_that_does_not() {
        let index = index(&[vec![(1, None), (2, Some(1))], vec![(1, None)]]);
        let surviving = Bits::of(2, |pack| pack == 1);
        let found = keep(&index, &numbers(&index, &[1, 2]), &[surviving, all(&index)]);
        assert_eq!(kept(&index, &found), [(1, None), (2, Some(1))]);
        let base = &index.all_copies()[found.copies.next(0).unwrap() as usize];
        assert_eq!(pack_of(&index, base).unwrap().0, 1);
    }

    /// Whether each blob has a chain of at most 16 deltas in `copies`, by taking whatever follows from what is known.
    fn usable(copies: &[(u8, Option<u8>)]) -> BTreeMap<u8, usize> {
        let mut depth: BTreeMap<u8, usize> = BTreeMap::new();
        loop {
            let before = depth.clone();
            for (blob, base) in copies {
                let found = match base {
                    None => Some(0),
                    Some(base) => before.get(base).map(|d| d + 1).filter(|d| *d <= CHAIN_MAX),
                };
                if let Some(found) = found {
                    let best = depth.entry(*blob).or_insert(found);
                    *best = found.min(*best);
                }
            }
            if depth == before {
                return depth;
            }
        }
    }

    fn copies() -> impl Strategy<Value = Vec<Vec<(u8, Option<u8>)>>> {
        let copy = (1u8..24, proptest::option::weighted(0.8, 1u8..24));
        let copy = copy.prop_filter("a delta of itself", |(id, base)| Some(*id) != *base);
        let pack = proptest::collection::btree_map(1u8..24, copy, 1..8)
            .prop_map(|copies| copies.into_values().collect::<Vec<_>>());
        proptest::collection::vec(pack, 1..9)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn what_has_a_chain_is_kept_with_one_and_nothing_else_counts(packs in copies(), dead in any::<u16>(), wanted in any::<u32>()) {
            let index = index(&packs);
            let alive = Bits::of(packs.len(), |n| dead >> n & 1 == 0);
            let in_packs = |set: &Bits| {
                let packs = (0u32..).zip(&packs).filter(|(n, _)| set.has(*n));
                packs.flat_map(|(_, copies)| copies.iter().copied()).collect::<Vec<_>>()
            };
            let everything = usable(&in_packs(&all(&index)));
            let blobs: Vec<u8> = everything.keys().copied().filter(|blob| wanted >> blob & 1 == 1).collect();
            let found = keep(&index, &numbers(&index, &blobs), &[alive.clone(), all(&index)]);
            prop_assert_eq!(found.lost, None);
            let kept = kept(&index, &found);
            let now = usable(&kept);
            prop_assert!(blobs.iter().all(|blob| now.contains_key(blob)), "{:?} of {:?}", now, kept);
            // A blob that survives by itself takes nothing from packs that do not.
            let surviving = usable(&in_packs(&alive));
            if blobs.iter().all(|blob| surviving.contains_key(blob)) {
                let places = found.copies.iter();
                let mut packs = places.map(|at| pack_of(&index, &index.all_copies()[at as usize]).unwrap());
                prop_assert!(packs.all(|pack| alive.has(pack.0)));
            }
            let depths = Depths::of(&index, &alive);
            for blob in everything.keys() {
                let number = index.number(&BlobId([*blob; 32])).unwrap();
                prop_assert_eq!(depths.is_usable(number), surviving.contains_key(blob));
            }
        }
    }
}
