//! The one order that is the same on every machine: topological, ties by key.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Returns the positions of `keys` so that each comes after all its `needs`, and otherwise the smaller
/// key first. Repeated needs count once; members of a circle are left out.
///
/// For a set that is closed under `needs`, its order alone is this order with the rest left out: whether
/// a member may come depends on members of the set only.
pub(crate) fn stable_order<K: Ord>(keys: &[K], needs: &[Vec<usize>]) -> Vec<usize> {
    let mut waits_for: Vec<usize> = vec![0; keys.len()];
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); keys.len()];
    for (at, needs) in needs.iter().enumerate() {
        let needs: BTreeSet<usize> = needs.iter().copied().collect();
        waits_for[at] = needs.len();
        for need in needs {
            needed_by[need].push(at);
        }
    }
    let mut ready: BinaryHeap<Reverse<(&K, usize)>> = (0..keys.len())
        .filter(|&at| waits_for[at] == 0)
        .map(|at| Reverse((&keys[at], at)))
        .collect();
    let mut order = Vec::with_capacity(keys.len());
    while let Some(Reverse((_, at))) = ready.pop() {
        order.push(at);
        for &next in &needed_by[at] {
            waits_for[next] -= 1;
            if waits_for[next] == 0 {
                ready.push(Reverse((&keys[next], next)));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys in random order, with edges from later to earlier positions only, then shuffled.
    fn graphs() -> impl Strategy<Value = (Vec<u8>, Vec<Vec<usize>>)> {
        (1_usize..12).prop_flat_map(|size| {
            let keys = Just(
                (0..size)
                    .map(|key| u8::try_from(key).unwrap())
                    .collect::<Vec<_>>(),
            );
            let needs: Vec<_> = (0..size)
                .map(|at| prop::collection::vec(0..at.max(1), 0..if at == 0 { 1 } else { 4 }))
                .collect();
            (keys.prop_shuffle(), needs)
        })
    }

    proptest! {
        #[test]
        fn needs_come_first_and_ties_go_by_key((keys, needs) in graphs()) {
            let order = stable_order(&keys, &needs);
            prop_assert_eq!(order.len(), keys.len());
            let place = |at: usize| order.iter().position(|&other| other == at).unwrap();
            for (at, needs) in needs.iter().enumerate() {
                for &need in needs {
                    prop_assert!(place(need) < place(at));
                }
            }
            // A smaller key that comes later must have had to wait for something in between.
            for (place, &at) in order.iter().enumerate() {
                for &later in &order[place + 1..] {
                    let waited = needs[later].iter().any(|need| order[place..].contains(need));
                    prop_assert!(keys[at] < keys[later] || waited);
                }
            }
        }

        #[test]
        fn a_closed_subset_keeps_its_order((keys, needs) in graphs(), pick in 0_usize..12) {
            let order = stable_order(&keys, &needs);
            let mut closed = BTreeSet::from([pick % keys.len()]);
            for at in (0..keys.len()).rev() {
                if closed.contains(&at) {
                    closed.extend(&needs[at]);
                }
            }
            let members: Vec<usize> = closed.iter().copied().collect();
            let inner = |at: &usize| members.iter().position(|member| member == at).unwrap();
            let inner_keys: Vec<u8> = members.iter().map(|&at| keys[at]).collect();
            let inner_needs: Vec<Vec<usize>> =
                members.iter().map(|&at| needs[at].iter().map(inner).collect()).collect();
            let alone: Vec<usize> =
                stable_order(&inner_keys, &inner_needs).into_iter().map(|at| members[at]).collect();
            let left: Vec<usize> = order.into_iter().filter(|at| closed.contains(at)).collect();
            prop_assert_eq!(alone, left);
        }
    }

    #[test]
    fn circles_are_left_out() {
        assert_eq!(
            stable_order(&["a", "b", "c"], &[vec![1], vec![0], vec![]]),
            [2]
        );
    }
}
