//! Assembles system call filters: from a policy as data to the program the kernel runs on each call.
//!
//! The program checks the architecture, then finds the rule for the call's number in a binary tree of ranges:
//! some ten comparisons for the three to four hundred numbers of a usual profile, in some three hundred
//! instructions. That matters twice: each call pays for its path, and loading pays for every number, since the
//! kernel runs the program once for each to learn which it may always allow.
//!
//! ```text
//! arch? ─ other → foreign          x86-64 only: x32 numbers → no such call
//! nr < 157? ─ nr < 56? ─ … ─ allow | errno | argument check → allow | errno
//! ```

mod compare;
mod listener;
mod several;

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::{Errno, raw};

pub use compare::{Case, Comparison, Operator};
pub use listener::{Call, Listener};
pub use several::{Table, TooLong};

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Carries it out.
    Allow,
    /// Leaves it and returns this error; 0 pretends success.
    Errno(u16),
    /// Kills the process.
    Kill,
    /// Kills the thread.
    KillThread,
    /// Sends it `SIGSYS`.
    Trap,
    /// Asks its tracer, with this number; without one the call fails.
    Trace(u16),
    /// Carries it out and logs it.
    Log,
    /// Asks the reader of the filter's descriptor, see [`Program::load_with`].
    Notify,
}

/// What happens to one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Always the same.
    Always(Action),
    /// It depends on the lower 32 bits of an argument. Only these: for the arguments worth checking (`int`s and
    /// flags) the kernel ignores the others too, and a program could set them to slip through.
    Argument {
        /// Which argument, from 0 to 5.
        index: u8,
        /// What it is compared with.
        test: Test,
        /// What if the test holds.
        then: Box<Self>,
        /// What if not.
        otherwise: Box<Self>,
    },
    /// The first case of which every comparison holds, on all 64 bits of an argument.
    FirstMatch {
        /// In order.
        cases: Vec<Case>,
        /// If none fits.
        otherwise: Action,
    },
}

impl Rule {
    /// Always allowed.
    pub const ALLOW: Self = Self::Always(Action::Allow);

    /// One action if an argument passes a test, another rule if not.
    #[must_use]
    pub fn when(index: u8, test: Test, then: Self, otherwise: Self) -> Self {
        Self::Argument {
            index,
            test,
            then: Box::new(then),
            otherwise: Box::new(otherwise),
        }
    }
}

/// A test of a 32-bit value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It is one of these.
    OneOf(Vec<u32>),
    /// It has any of these bits.
    AnyBit(u32),
}

impl Test {
    #[cfg(test)]
    fn holds(&self, value: u32) -> bool {
        match self {
            Self::OneOf(values) => values.contains(&value),
            Self::AnyBit(bits) => value & bits != 0,
        }
    }
}

/// What may be called.
#[derive(Debug, Clone)]
pub struct Policy {
    /// By number.
    pub rules: BTreeMap<u32, Rule>,
    /// For numbers without a rule.
    pub default: Action,
    /// For calls in the convention of another architecture.
    pub foreign: Action,
}

/// A filter, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

/// `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct LoadRequest {
    length: u16,
    filter: *const Instruction,
}

/// The architecture of this program, as `AUDIT_ARCH_*` of the kernel.
#[cfg(target_arch = "x86_64")]
pub const NATIVE: u32 = 0xc000_003e;
/// The architecture of this program, as `AUDIT_ARCH_*` of the kernel.
#[cfg(target_arch = "aarch64")]
pub const NATIVE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Longest program the kernel takes.
const MAX_INSTRUCTIONS: usize = 4096;

impl Program {
    /// Assembles a policy.
    ///
    /// # Panics
    /// If the policy needs more than the 4096 instructions the kernel takes; some thousand rules with arguments.
    #[must_use]
    pub fn assemble(policy: &Policy) -> Self {
        let mut program = vec![
            statement(LOAD, ARCHITECTURE),
            branch(JUMP_EQUAL, NATIVE, 1, 0),
            policy.foreign.instruction(),
            statement(LOAD, NUMBER),
        ];
        if cfg!(target_arch = "x86_64") {
            // The x32 numbers are 64-bit ones with a bit set, in the same architecture.
            program.push(branch(JUMP_AT_LEAST, 0x4000_0000, 0, 1));
            program.push(Action::Errno(errno(Errno::NOSYS)).instruction());
        }
        program.extend(tree(&ranges(policy)));
        assert!(
            program.len() <= MAX_INSTRUCTIONS,
            "a policy of {} instructions",
            program.len()
        );
        Self(program)
    }

    /// Loads the filter for the calling thread, for good. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// What `seccomp(2)` says.
    pub fn load(&self) -> Result<(), Errno> {
        self.load_raw(0).map(|_| ())
    }

    /// As [`Self::load`], with `SECCOMP_FILTER_FLAG_*`. Returns the descriptor of a filter that was loaded with
    /// the flag for a listener.
    ///
    /// # Errors
    /// What `seccomp(2)` says.
    pub fn load_with(&self, flags: u32) -> Result<Option<OwnedFd>, Errno> {
        const NEW_LISTENER: u32 = 1 << 3;
        let number = self.load_raw(flags)?;
        if flags & NEW_LISTENER == 0 {
            return Ok(None);
        }
        let number = RawFd::try_from(number).unwrap_or(-1);
        // SAFETY: with this flag the kernel returns a new descriptor.
        Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    fn load_raw(&self, flags: u32) -> Result<usize, Errno> {
        const SET_MODE_FILTER: usize = 1;
        // The length was checked when it was assembled.
        let length = u16::try_from(self.0.len()).unwrap_or(0);
        let request = LoadRequest {
            length,
            filter: self.0.as_ptr(),
        };
        // SAFETY: the request and the instructions live through the call.
        unsafe {
            raw::syscall5(
                libc::SYS_seccomp,
                SET_MODE_FILTER,
                flags as usize,
                (&raw const request) as usize,
                0,
                0,
            )
        }
    }

    /// How many instructions it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no instruction, which no assembled program has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Action {
    const fn instruction(self) -> Instruction {
        statement(
            RETURN,
            match self {
                Self::Allow => 0x7fff_0000,
                Self::Errno(number) => 0x0005_0000 | number as u32,
                Self::Kill => 0x8000_0000,
                Self::KillThread => 0,
                Self::Trap => 0x0003_0000,
                Self::Trace(number) => 0x7ff0_0000 | number as u32,
                Self::Log => 0x7ffc_0000,
                Self::Notify => 0x7fc0_0000,
            },
        )
    }
}

fn errno(error: Errno) -> u16 {
    u16::try_from(error.raw_os_error()).expect("error numbers are small")
}

const fn statement(code: u16, operand: u32) -> Instruction {
    Instruction {
        code,
        if_true: 0,
        if_false: 0,
        operand,
    }
}

const fn branch(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction {
        code,
        if_true,
        if_false,
        operand,
    }
}

/// The rules as ranges that cover every number: each begins at its number and ends before the next one.
fn ranges(policy: &Policy) -> Vec<(u32, Rule)> {
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut add = |start: u32, rule: Rule| match ranges.last() {
        Some((_, last)) if *last == rule => {}
        _ => ranges.push((start, rule)),
    };
    let mut next = 0;
    for (number, rule) in &policy.rules {
        if *number > next {
            add(next, Rule::Always(policy.default));
        }
        add(*number, rule.clone());
        next = number + 1;
    }
    add(next, Rule::Always(policy.default));
    ranges
}

fn tree(ranges: &[(u32, Rule)]) -> Vec<Instruction> {
    let [only] = ranges else {
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let boundary = high[0].0;
        let (low, high) = (tree(low), tree(high));
        // The lower half follows directly; the upper half may be further away than a branch reaches.
        let mut program = match u8::try_from(low.len()) {
            Ok(distance) => vec![branch(JUMP_AT_LEAST, boundary, distance, 0)],
            Err(_) => vec![
                branch(JUMP_AT_LEAST, boundary, 0, 1),
                statement(JUMP, u32::try_from(low.len()).expect("programs are short")),
            ],
        };
        program.extend(low);
        program.extend(high);
        return program;
    };
    block(&only.1)
}

/// The instructions of one rule; they all end in a return.
fn block(rule: &Rule) -> Vec<Instruction> {
    let (index, test, then, otherwise) = match rule {
        Rule::Always(action) => return vec![action.instruction()],
        Rule::Argument {
            index,
            test,
            then,
            otherwise,
        } => (index, test, block(then), block(otherwise)),
        Rule::FirstMatch { cases, otherwise } => return compare::cases(cases, *otherwise),
    };
    // The lower half of a 64-bit argument; both architectures are little-endian.
    let mut program = vec![statement(LOAD, ARGUMENTS + 8 * u32::from(*index))];
    let reach = |length: usize| u8::try_from(length).expect("rules are short");
    match test {
        Test::OneOf(values) => {
            for (position, value) in values.iter().enumerate() {
                let rest = values.len() - position - 1 + otherwise.len();
                program.push(branch(JUMP_EQUAL, *value, reach(rest), 0));
            }
        }
        Test::AnyBit(bits) => program.push(branch(JUMP_ANY_BIT, *bits, reach(otherwise.len()), 0)),
    }
    program.extend(otherwise);
    program.extend(then);
    program
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn low(argument: u64) -> u32 {
        u32::try_from(argument & 0xffff_ffff).unwrap()
    }

    /// Runs a program as the kernel would; returns the value it returns and how many instructions that took.
    pub(super) fn interpret(
        program: &Program,
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> (u32, usize) {
        let (mut accumulator, mut position, mut steps) = (0_u32, 0, 0);
        loop {
            let Instruction {
                code,
                if_true,
                if_false,
                operand,
            } = program.0[position];
            position += 1;
            steps += 1;
            let mut jump = |condition: bool| {
                position += usize::from(if condition { if_true } else { if_false });
            };
            match code {
                LOAD => {
                    accumulator = match operand {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        _ if operand % 8 == 4 => low(arguments[(operand as usize - 16) / 8] >> 32),
                        _ => low(arguments[(operand as usize - 16) / 8]),
                    }
                }
                JUMP => position += operand as usize,
                JUMP_EQUAL => jump(accumulator == operand),
                JUMP_AT_LEAST => jump(accumulator >= operand),
                JUMP_ANY_BIT => jump(accumulator & operand != 0),
                0x25 => jump(accumulator > operand),
                0x54 => accumulator &= operand,
                RETURN => return (operand, steps),
                _ => panic!("no such instruction"),
            }
        }
    }

    fn expected(policy: &Policy, number: u32, arguments: [u64; 6]) -> u32 {
        let default = Rule::Always(policy.default);
        let mut rule = policy.rules.get(&number).unwrap_or(&default);
        loop {
            match rule {
                Rule::Always(action) => return action.instruction().operand,
                Rule::FirstMatch { .. } => panic!("these rules have none"),
                Rule::Argument {
                    index,
                    test,
                    then,
                    otherwise,
                } => {
                    rule = if test.holds(low(arguments[usize::from(*index)])) {
                        then
                    } else {
                        otherwise
                    };
                }
            }
        }
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Allow),
            (0_u16..100).prop_map(Action::Errno),
            Just(Action::Kill)
        ]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let leaf = action().prop_map(Rule::Always);
        leaf.prop_recursive(3, 8, 2, |inner| {
            let test = prop_oneof![
                proptest::collection::vec(0_u32..8, 1..4).prop_map(Test::OneOf),
                (0_u32..8).prop_map(Test::AnyBit)
            ];
            (0_u8..6, test, inner.clone(), inner)
                .prop_map(|(index, test, then, otherwise)| Rule::when(index, test, then, otherwise))
        })
    }

    proptest! {
        #[test]
        fn the_program_does_what_the_policy_says(
            rules in proptest::collection::btree_map(0_u32..600, rule(), 0..500),
            default in action(),
            number in 0_u32..700,
            arguments in proptest::array::uniform6(0_u64..10),
        ) {
            let policy = Policy { rules, default, foreign: Action::Kill };
            let program = Program::assemble(&policy);
            for number in [number, 0, 599, 600, u32::from(u16::MAX)] {
                let (value, _) = interpret(&program, NATIVE, number, arguments);
                prop_assert_eq!(value, expected(&policy, number, arguments));
            }
        }
    }

    #[test]
    fn other_conventions_are_caught_and_paths_are_short() {
        let rules = (0..400)
            .filter(|number| number % 3 != 0)
            .map(|number| (number, Rule::Always(Action::Allow)));
        let policy = Policy {
            rules: rules.collect(),
            default: Action::Errno(1),
            foreign: Action::Kill,
        };
        let program = Program::assemble(&policy);
        assert_eq!(
            interpret(&program, 0x4000_0003, 1, [0; 6]).0,
            Action::Kill.instruction().operand
        );
        if cfg!(target_arch = "x86_64") {
            let no_such_call = Action::Errno(errno(Errno::NOSYS)).instruction().operand;
            assert_eq!(
                interpret(&program, NATIVE, 0x4000_0001, [0; 6]).0,
                no_such_call
            );
        }
        let longest = (0..500)
            .map(|number| interpret(&program, NATIVE, number, [0; 6]).1)
            .max();
        assert!(longest.unwrap() <= 24, "{longest:?}");
    }

    #[test]
    fn upper_bits_of_an_argument_do_not_slip_through() {
        let refuse = Rule::Always(Action::Errno(1));
        let rule = Rule::when(1, Test::OneOf(vec![0x5412]), refuse, Rule::ALLOW);
        let policy = Policy {
            rules: BTreeMap::from([(16, rule)]),
            default: Action::Kill,
            foreign: Action::Kill,
        };
        let program = Program::assemble(&policy);
        let refused = Action::Errno(1).instruction().operand;
        assert_eq!(
            interpret(&program, NATIVE, 16, [0, 0x5412, 0, 0, 0, 0]).0,
            refused
        );
        assert_eq!(
            interpret(&program, NATIVE, 16, [0, 0xdead_0000_0000_5412, 0, 0, 0, 0]).0,
            refused
        );
        assert_eq!(
            interpret(&program, NATIVE, 16, [0x5412, 0x5413, 0, 0, 0, 0]).0,
            Action::Allow.instruction().operand
        );
    }
}
