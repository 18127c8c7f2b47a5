//! Comparisons of whole arguments, for filters that others describe.

use super::{ARGUMENTS, Action, Instruction, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, branch, statement};

const JUMP_GREATER: u16 = 0x25;
const AND: u16 = 0x54;

/// What happens if all comparisons hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// All must hold; at most 6, one for each argument.
    pub when: Vec<Comparison>,
    /// What then happens.
    pub then: Action,
}

/// A test of one argument, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// Which argument, from 0 to 5.
    pub index: u8,
    /// How.
    pub operator: Operator,
    /// With what.
    pub value: u64,
}

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// After the bits that are not in the mask were cleared.
    MaskedEqual {
        mask: u64,
    },
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    Holds,
    Fails,
}

pub(super) fn cases(cases: &[Case], otherwise: Action) -> Vec<Instruction> {
    let mut program = Vec::new();
    for Case { when, then } in cases {
        let mut tests: Vec<Instruction> = Vec::new();
        // From the last to the first: how far it is to the next case is then known.
        for comparison in when.iter().rev() {
            let rest = tests.len();
            let mut one = compare(*comparison, rest + 1);
            one.append(&mut tests);
            tests = one;
        }
        program.extend(tests);
        program.push(then.instruction());
    }
    program.push(otherwise.instruction());
    program
}

/// The instructions of a comparison: past its last one if it holds, `after` more if it does not.
fn compare(comparison: Comparison, after: usize) -> Vec<Instruction> {
    use To::{Fails, Holds, Next};
    let Comparison {
        index,
        operator,
        value,
    } = comparison;
    let (high, low) = (upper(value), lower(value));
    let offset = ARGUMENTS + 8 * u32::from(index);
    let load_low = (statement(LOAD, offset), Next, Next);
    let load_high = (statement(LOAD, offset + 4), Next, Next);
    let jump = |code, operand, yes: To, no: To| (branch(code, operand, 0, 0), yes, no);
    let steps = match operator {
        Operator::Equal => vec![
            load_high,
            jump(JUMP_EQUAL, high, Next, Fails),
            load_low,
            jump(JUMP_EQUAL, low, Holds, Fails),
        ],
        Operator::NotEqual => vec![
            load_high,
            jump(JUMP_EQUAL, high, Next, Holds),
            load_low,
            jump(JUMP_EQUAL, low, Fails, Holds),
        ],
        Operator::Greater | Operator::GreaterOrEqual => vec![
            load_high,
            jump(JUMP_GREATER, high, Holds, Next),
            jump(JUMP_EQUAL, high, Next, Fails),
            load_low,
            if operator == Operator::Greater {
                jump(JUMP_GREATER, low, Holds, Fails)
            } else {
                jump(JUMP_AT_LEAST, low, Holds, Fails)
            },
        ],
        Operator::Less | Operator::LessOrEqual => vec![
            load_high,
            jump(JUMP_GREATER, high, Fails, Next),
            jump(JUMP_EQUAL, high, Next, Holds),
            load_low,
            if operator == Operator::Less {
                jump(JUMP_AT_LEAST, low, Fails, Holds)
            } else {
                jump(JUMP_GREATER, low, Fails, Holds)
            },
        ],
        Operator::MaskedEqual { mask } => vec![
            load_high,
            (statement(AND, upper(mask)), Next, Next),
            jump(JUMP_EQUAL, high, Next, Fails),
            load_low,
            (statement(AND, lower(mask)), Next, Next),
            jump(JUMP_EQUAL, low, Holds, Fails),
        ],
    };
    let length = steps.len();
    let distance = |position: usize, to: To| {
        let rest = length - position - 1;
        let far = match to {
            Next => 0,
            Holds => rest,
            Fails => rest + after,
        };
        u8::try_from(far).expect("six comparisons of six instructions")
    };
    let place = |(position, (mut instruction, yes, no)): (usize, (Instruction, To, To))| {
        instruction.if_true = distance(position, yes);
        instruction.if_false = distance(position, no);
        instruction
    };
    steps.into_iter().enumerate().map(place).collect()
}

const fn upper(value: u64) -> u32 {
    (value >> 32) as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is asked for"
)]
const fn lower(value: u64) -> u32 {
    value as u32
}
