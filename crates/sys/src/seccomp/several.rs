//! Filters for calls in the conventions of several architectures.

use std::collections::BTreeMap;

use super::{
    ARCHITECTURE, Action, JUMP, JUMP_EQUAL, LOAD, MAX_INSTRUCTIONS, NUMBER, Policy, Program, Rule,
    branch, ranges, statement, tree,
};

/// What may be called in one convention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The architecture, as `AUDIT_ARCH_*` of the kernel.
    pub architecture: u32,
    /// By number.
    pub rules: BTreeMap<u32, Rule>,
    /// For numbers without a rule.
    pub default: Action,
    /// From these numbers on, instead of the default: calls that nobody knew when the rules were written.
    pub unknown: Vec<(std::ops::Range<u32>, Action)>,
}

/// A filter would be longer than the kernel takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// How many instructions it would need.
    pub instructions: usize,
}

impl Program {
    /// Assembles a filter from one table for each architecture; calls of others get `foreign`.
    ///
    /// # Errors
    /// If the kernel would not take it for its length.
    pub fn assemble_several(tables: &[Table], foreign: Action) -> Result<Self, TooLong> {
        let mut program = vec![statement(LOAD, ARCHITECTURE)];
        for table in tables {
            let mut part = vec![statement(LOAD, NUMBER)];
            part.extend(tree(&with_unknown(table)));
            program.push(branch(JUMP_EQUAL, table.architecture, 1, 0));
            program.push(statement(
                JUMP,
                u32::try_from(part.len()).unwrap_or(u32::MAX),
            ));
            program.extend(part);
        }
        program.push(foreign.instruction());
        if program.len() > MAX_INSTRUCTIONS {
            return Err(TooLong {
                instructions: program.len(),
            });
        }
        Ok(Self(program))
    }
}

fn with_unknown(table: &Table) -> Vec<(u32, Rule)> {
    let policy = Policy {
        rules: table.rules.clone(),
        default: table.default,
        foreign: table.default,
    };
    let mut all = ranges(&policy);
    for (range, action) in &table.unknown {
        let rule_at = |all: &[(u32, Rule)], number| {
            let found = all.iter().rev().find(|(start, _)| *start <= number);
            found.map_or(Rule::Always(table.default), |(_, rule)| rule.clone())
        };
        let after = rule_at(&all, range.end);
        all.retain(|(start, _)| !range.contains(start) && *start != range.end);
        all.push((range.start, Rule::Always(*action)));
        all.push((range.end, after));
        all.sort_by_key(|(start, _)| *start);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::tests::interpret;
    use super::super::{Case, Comparison, NATIVE, Operator};
    use super::*;
    use proptest::prelude::*;

    fn holds(comparison: &Comparison, arguments: [u64; 6]) -> bool {
        let (found, value) = (arguments[usize::from(comparison.index)], comparison.value);
        match comparison.operator {
            Operator::Equal => found == value,
            Operator::NotEqual => found != value,
            Operator::Less => found < value,
            Operator::LessOrEqual => found <= value,
            Operator::Greater => found > value,
            Operator::GreaterOrEqual => found >= value,
            Operator::MaskedEqual { mask } => found & mask == value,
        }
    }

    /// Values whose halves matter.
    fn value() -> impl Strategy<Value = u64> {
        (0_u64..3, 0_u64..3).prop_map(|(high, low)| high << 32 | low)
    }

    fn comparison() -> impl Strategy<Value = Comparison> {
        let operator = prop_oneof![
            Just(Operator::Equal),
            Just(Operator::NotEqual),
            Just(Operator::Less),
            Just(Operator::LessOrEqual),
            Just(Operator::Greater),
            Just(Operator::GreaterOrEqual),
            value().prop_map(|mask| Operator::MaskedEqual { mask }),
        ];
        (0_u8..6, operator, value()).prop_map(|(index, operator, value)| Comparison {
            index,
            operator,
            value,
        })
    }

    proptest! {
        #[test]
        fn the_first_case_that_fits_is_taken(
            cases in proptest::collection::vec(proptest::collection::vec(comparison(), 0..6), 0..60),
            arguments in proptest::array::uniform6(value()),
        ) {
            let action = |index: usize| Action::Errno(u16::try_from(index).unwrap() + 1);
            let fits = |when: &Vec<Comparison>| when.iter().all(|one| holds(one, arguments));
            let expected = cases.iter().position(fits).map_or(Action::Allow, action);
            let cases = cases.into_iter().enumerate().map(|(index, when)| Case { when, then: action(index) });
            let rule = Rule::FirstMatch { cases: cases.collect(), otherwise: Action::Allow };
            let table = |architecture, number| Table {
                architecture,
                rules: BTreeMap::from([(number, rule.clone()), (number + 9, Rule::Always(Action::Log))]),
                default: Action::Trap,
                unknown: vec![(number + 10..500, Action::Errno(38))],
            };
            let tables = [table(7, 20), table(NATIVE, 100)];
            let program = Program::assemble_several(&tables, Action::Kill);
            prop_assume!(program.is_ok());
            let program = program.unwrap();
            for (architecture, number, expected) in [
                (7, 20, expected), (7, 100, Action::Errno(38)), (7, 500, Action::Trap), (NATIVE, 100, expected),
                (NATIVE, 109, Action::Log), (NATIVE, 20, Action::Trap), (8, 20, Action::Kill),
            ] {
                let (found, _) = interpret(&program, architecture, number, arguments);
                prop_assert_eq!(found, expected.instruction().operand, "{} {}", architecture, number);
            }
        }
    }
}
