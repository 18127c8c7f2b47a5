//! A policy of system calls in the words of the specification.
//!
//! The specification has only lists of rules that must not contradict each other, and each compares an argument once.
//! So "not one of these values" becomes all blocks of values that have none of them, by a mask and what is left under
//! it, as routers write "all addresses but these".

use std::collections::BTreeMap;

use kiln_sys::seccomp::{Action, Comparison, Operator, Policy, Rule, Test};

use crate::seccomp::{name_of, native_name};
use crate::spec::{Seccomp, SeccompArgument, SeccompRule};

/// A condition: under the mask, the lower half of an argument is this.
type Block = (u8, u32, u32);

/// The filter that does what `policy` says.
pub(super) fn seccomp(policy: &Policy) -> Seccomp {
    let mut plain: BTreeMap<(String, Option<u32>), Vec<String>> = BTreeMap::new();
    let mut rules = Vec::new();
    for (number, rule) in &policy.rules {
        // A call that has no name yet is none that a library could be told of.
        let Some(name) = name_of(*number) else {
            continue;
        };
        match rule {
            // Libraries take it for a mistake to say what holds anyway.
            Rule::Always(action) if *action == policy.default => {}
            Rule::Always(action) => plain
                .entry(words(*action))
                .or_default()
                .push(name.to_owned()),
            Rule::Argument { .. } => {
                let mut leaves = Vec::new();
                walk(rule, &[], &mut leaves);
                leaves.retain(|(_, action)| *action != policy.default);
                rules.extend(leaves.into_iter().map(|(blocks, action)| {
                    let arguments = blocks.into_iter().map(argument);
                    one(name, action, arguments.collect())
                }));
            }
            Rule::FirstMatch { cases, otherwise } => {
                rules.extend(cases.iter().map(|case| {
                    let compared = case.when.iter().map(compared);
                    one(name, case.then, compared.collect())
                }));
                rules.push(one(name, *otherwise, Vec::new()));
            }
        }
    }
    let plain = plain
        .into_iter()
        .map(|((action, errno_ret), names)| SeccompRule {
            names,
            action,
            errno_ret,
            args: Vec::new(),
        });
    let (default_action, default_errno_ret) = words(policy.default);
    Seccomp {
        default_action,
        default_errno_ret,
        architectures: vec![native_name().to_owned()],
        syscalls: plain.chain(rules).collect(),
        ..Seccomp::default()
    }
}

/// Has a filter of somebody else say of `calls`, which it allows, that they succeed without being made.
pub fn pretend(filter: &mut Seccomp, calls: &[u32]) {
    let names: Vec<&str> = calls.iter().filter_map(|call| name_of(*call)).collect();
    for rule in &mut filter.syscalls {
        rule.names.retain(|name| !names.contains(&name.as_str()));
    }
    filter.syscalls.retain(|rule| !rule.names.is_empty());
    let pretended = names
        .into_iter()
        .map(|name| one(name, Action::Errno(0), Vec::new()));
    filter.syscalls.extend(pretended);
}

fn one(name: &str, action: Action, args: Vec<SeccompArgument>) -> SeccompRule {
    let (action, errno_ret) = words(action);
    SeccompRule {
        names: vec![name.to_owned()],
        action,
        errno_ret,
        args,
    }
}

fn words(action: Action) -> (String, Option<u32>) {
    let (word, number) = match action {
        Action::Allow => ("SCMP_ACT_ALLOW", None),
        Action::Errno(number) => ("SCMP_ACT_ERRNO", Some(u32::from(number))),
        Action::Kill => ("SCMP_ACT_KILL_PROCESS", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::Trace(number) => ("SCMP_ACT_TRACE", Some(u32::from(number))),
        Action::Log => ("SCMP_ACT_LOG", None),
        Action::Notify => ("SCMP_ACT_NOTIFY", None),
    };
    (word.to_owned(), number)
}

/// Finds every way through a rule: the conditions on it and the action at its end.
fn walk(rule: &Rule, before: &[Block], leaves: &mut Vec<(Vec<Block>, Action)>) {
    match rule {
        Rule::Always(action) => leaves.push((before.to_vec(), *action)),
        Rule::Argument {
            index,
            test,
            then,
            otherwise,
        } => {
            let (yes, no) = match test {
                Test::OneOf(values) => (exactly(values), all_but(values)),
                Test::AnyBit(bits) => (with_a_bit(*bits), vec![(*bits, 0)]),
            };
            for (blocks, next) in [(yes, then), (no, otherwise)] {
                for (mask, value) in blocks {
                    if let Some(conditions) = with(before, (*index, mask, value)) {
                        walk(next, &conditions, leaves);
                    }
                }
            }
        }
        // Not among the rules of arguments.
        Rule::FirstMatch { otherwise, .. } => leaves.push((before.to_vec(), *otherwise)),
    }
}

/// Conditions and one more, each argument once; `None` if they cannot hold together.
fn with(before: &[Block], (index, mask, value): Block) -> Option<Vec<Block>> {
    let mut conditions = before.to_vec();
    match conditions.iter_mut().find(|(other, ..)| *other == index) {
        Some((_, other_mask, other_value)) => {
            if (*other_value ^ value) & *other_mask & mask != 0 {
                return None;
            }
            *other_mask |= mask;
            *other_value |= value;
        }
        None => conditions.push((index, mask, value)),
    }
    Some(conditions)
}

fn exactly(values: &[u32]) -> Vec<(u32, u32)> {
    values.iter().map(|value| (u32::MAX, *value)).collect()
}

/// One block for each bit; the values with several are in the first of them.
fn with_a_bit(bits: u32) -> Vec<(u32, u32)> {
    let mut blocks = Vec::new();
    let mut earlier = 0;
    for bit in (0..32)
        .map(|shift| 1 << shift)
        .filter(|bit| bits & bit != 0)
    {
        blocks.push((earlier | bit, bit));
        earlier |= bit;
    }
    blocks
}

/// Blocks that together have every value but these.
fn all_but(values: &[u32]) -> Vec<(u32, u32)> {
    let mut blocks = Vec::new();
    split(values, 0, 0, &mut blocks);
    blocks
}

/// Halves the block of all values that begin with `prefix` of so many bits, until a half has none of `values`.
fn split(values: &[u32], length: u32, prefix: u32, blocks: &mut Vec<(u32, u32)>) {
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    let inside: Vec<u32> = values
        .iter()
        .copied()
        .filter(|value| value & mask == prefix)
        .collect();
    if inside.is_empty() {
        blocks.push((mask, prefix));
    } else if length < 32 {
        split(&inside, length + 1, prefix, blocks);
        split(&inside, length + 1, prefix | 1 << (31 - length), blocks);
    }
}

fn argument((index, mask, value): Block) -> SeccompArgument {
    SeccompArgument {
        index: u32::from(index),
        value: u64::from(mask),
        value_two: u64::from(value),
        op: "SCMP_CMP_MASKED_EQ".to_owned(),
    }
}

fn compared(comparison: &Comparison) -> SeccompArgument {
    let (op, value, value_two) = match comparison.operator {
        Operator::Equal => ("SCMP_CMP_EQ", comparison.value, 0),
        Operator::NotEqual => ("SCMP_CMP_NE", comparison.value, 0),
        Operator::Less => ("SCMP_CMP_LT", comparison.value, 0),
        Operator::LessOrEqual => ("SCMP_CMP_LE", comparison.value, 0),
        Operator::Greater => ("SCMP_CMP_GT", comparison.value, 0),
        Operator::GreaterOrEqual => ("SCMP_CMP_GE", comparison.value, 0),
        Operator::MaskedEqual { mask } => ("SCMP_CMP_MASKED_EQ", mask, comparison.value),
    };
    SeccompArgument {
        index: u32::from(comparison.index),
        value,
        value_two,
        op: op.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(blocks: &[(u32, u32)], value: u32) -> usize {
        let fits = |(mask, wanted): &&(u32, u32)| value & mask == *wanted;
        blocks.iter().filter(fits).count()
    }

    #[test]
    fn blocks_have_every_value_once_but_the_ones_left_out() {
        let left_out = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];
        let blocks = all_but(&left_out);
        for value in left_out {
            assert_eq!(has(&blocks, value), 0, "{value}");
        }
        for value in [1, 7, 9, 0x1_ffff, 0x2_0001, 0x8000_0000, u32::MAX - 1] {
            assert_eq!(has(&blocks, value), 1, "{value}");
        }
        assert_eq!(all_but(&[]), [(0, 0)]);
    }

    #[test]
    fn any_of_some_bits_is_one_block_for_each() {
        let blocks = with_a_bit(0b1010);
        for (value, count) in [(0, 0), (5, 0), (2, 1), (8, 1), (10, 1), (15, 1)] {
            assert_eq!(has(&blocks, value), count, "{value}");
        }
    }

    #[test]
    fn nested_tests_become_rules_that_do_not_overlap() {
        let refuse = Rule::Always(Action::Errno(22));
        let audit = Rule::when(2, Test::OneOf(vec![9]), refuse, Rule::ALLOW);
        let socket = Rule::when(0, Test::OneOf(vec![16]), audit, Rule::ALLOW);
        let closed = Rule::Always(Action::Errno(97));
        let socket = Rule::when(0, Test::OneOf(vec![38, 40]), closed, socket);
        let mut leaves = Vec::new();
        walk(&socket, &[], &mut leaves);
        let action = |arguments: [u32; 3]| {
            let fits = |blocks: &[Block]| {
                let mut blocks = blocks.iter();
                blocks.all(|(index, mask, value)| arguments[usize::from(*index)] & mask == *value)
            };
            let mut found = leaves.iter().filter(|(blocks, _)| fits(blocks));
            let action = found.next().map(|(_, action)| *action);
            assert!(found.next().is_none(), "{arguments:?}");
            action
        };
        for (blocks, _) in &leaves {
            let mut indices: Vec<u8> = blocks.iter().map(|(index, ..)| *index).collect();
            indices.dedup();
            assert_eq!(indices.len(), blocks.len(), "{blocks:?}");
        }
        assert_eq!(action([16, 3, 9]), Some(Action::Errno(22)));
        assert_eq!(action([16, 3, 0]), Some(Action::Allow));
        assert_eq!(action([2, 1, 9]), Some(Action::Allow));
        assert_eq!(action([38, 1, 9]), Some(Action::Errno(97)));
    }
}
