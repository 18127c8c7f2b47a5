//! System call filters as a bundle describes them, for the assembler in `kiln-sys`.

mod numbers;

use std::collections::BTreeMap;

use kiln_sys::seccomp::{Action, Case, Comparison, Operator, Program, Rule, Table, TooLong};

use crate::error::BundleError;
use crate::spec::{Seccomp, SeccompArgument, SeccompRule};
use numbers::Convention;

/// First number of the x32 convention, which is in the architecture of x86-64.
const X32: u32 = 0x4000_0000;

/// What happens to calls in the convention of an architecture that a filter does not name.
pub(crate) const FOREIGN: Action = kiln_sandbox::FOREIGN_CALLS;

/// A filter with how it is loaded.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) program: Program,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
    /// Whether calls are asked about.
    pub(crate) notifies: bool,
}

/// The name of a call of this architecture; `None` for one that is too new to have one here.
pub(crate) fn name_of(number: u32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    syscalls::Sysno::new(number).map(|call| call.name())
}

/// Assembles a filter; `None` if everything is allowed anyway.
pub(crate) fn filter(seccomp: &Seccomp) -> Result<Option<Filter>, BundleError> {
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    if default == Action::Allow && seccomp.syscalls.is_empty() {
        return Ok(None);
    }
    let mut flags = 0;
    for flag in &seccomp.flags {
        flags |= match flag.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => 1,
            "SECCOMP_FILTER_FLAG_LOG" => 1 << 1,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 1 << 2,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 1 << 5,
            other => {
                let problem = format!("linux.seccomp.flags: `{other}` is not a flag of a filter");
                return Err(BundleError::invalid(problem));
            }
        };
    }
    let notifies = seccomp.syscalls.iter().any(|rule| is_notify(&rule.action));
    if is_notify(&seccomp.default_action) {
        return Err(BundleError::invalid(
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be for every call",
        ));
    }
    if notifies {
        if seccomp.listener_path.is_empty() {
            return Err(BundleError::invalid(
                "linux.seccomp: SCMP_ACT_NOTIFY needs a listenerPath",
            ));
        }
        flags |= 1 << 3;
    }
    let tables = tables(seccomp)?;
    let program = Program::assemble_several(&tables, FOREIGN).map_err(too_long)?;
    Ok(Some(Filter {
        program,
        flags,
        notifies,
    }))
}

/// The rules for each architecture whose calls are let through to them.
pub(crate) fn tables(seccomp: &Seccomp) -> Result<Vec<Table>, BundleError> {
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    let mut tables = BTreeMap::new();
    let native = [Convention::native()];
    let named: Vec<Convention> = seccomp
        .architectures
        .iter()
        .map(|name| Convention::named(name).ok_or_else(|| unknown_architecture(name)))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect();
    for convention in native.into_iter().chain(named) {
        add(&mut tables, convention, seccomp, default)?;
    }
    Ok(tables.into_values().collect())
}

/// Says how much too long a filter is.
pub(crate) fn too_long(too_long: TooLong) -> BundleError {
    let problem = format!(
        "linux.seccomp: the filter has {} instructions, the kernel takes 4096",
        too_long.instructions
    );
    BundleError::Invalid { problem }
}

/// Looks at a rule by itself.
pub(crate) fn check_rule(rule: &SeccompRule) -> Result<(), BundleError> {
    cases(rule, action(&rule.action, rule.errno_ret)?).map(|_| ())
}

/// Whether any architecture that is understood has a call of this name.
pub(crate) fn is_call(name: &str) -> bool {
    let all = numbers::UNDERSTOOD.iter();
    let mut conventions = all.filter_map(|name| Convention::named(name).flatten());
    conventions.any(|convention| convention.number(name).is_some())
}

/// Whether a program of this architecture is never let through to a call.
pub(crate) fn refuses(tables: &[Table], name: &str) -> bool {
    let native = Convention::native();
    let mut own = tables.iter().filter(|it| it.architecture == native.audit());
    let action = own.find_map(|table| {
        let rule = table.rules.get(&native.number(name)?);
        Some(rule.cloned().unwrap_or(Rule::Always(table.default)))
    });
    !matches!(
        action,
        Some(
            Rule::Always(Action::Allow | Action::Log)
                | Rule::FirstMatch { .. }
                | Rule::Argument { .. }
        )
    )
}

/// This architecture, as filters name it.
pub(crate) const fn native_name() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "SCMP_ARCH_AARCH64"
    } else {
        "SCMP_ARCH_X86_64"
    }
}

fn unknown_architecture(name: &str) -> BundleError {
    BundleError::invalid(format!(
        "linux.seccomp.architectures: `{name}` is not an architecture"
    ))
}

fn is_notify(action: &str) -> bool {
    action == "SCMP_ACT_NOTIFY"
}

/// Adds the rules for one calling convention.
fn add(
    tables: &mut BTreeMap<u32, Table>,
    convention: Convention,
    seccomp: &Seccomp,
    default: Action,
) -> Result<(), BundleError> {
    let offset = if convention == Convention::X32 {
        X32
    } else {
        0
    };
    let mut rules: BTreeMap<u32, (Vec<Case>, Option<Action>)> = BTreeMap::new();
    for rule in &seccomp.syscalls {
        let then = action(&rule.action, rule.errno_ret)?;
        let cases = cases(rule, then)?;
        for number in rule.names.iter().filter_map(|name| convention.number(name)) {
            let (known, always) = rules.entry(offset + number).or_default();
            if rule.args.is_empty() {
                // Of two rules for a call, the one without conditions is wider and swallows the other.
                always.get_or_insert(then);
            } else {
                known.extend(cases.iter().cloned());
            }
        }
    }
    let last = rules.keys().next_back().copied();
    let rules = rules.into_iter().map(|(number, (cases, always))| {
        let rule = match always {
            Some(action) => Rule::Always(action),
            None => Rule::FirstMatch {
                cases,
                otherwise: default,
            },
        };
        (number, rule)
    });
    let table = tables.entry(convention.audit()).or_insert_with(|| Table {
        architecture: convention.audit(),
        rules: BTreeMap::new(),
        default,
        unknown: Vec::new(),
    });
    table.rules.extend(rules);
    // Who wrote the rules did not know what came later. Programs take `ENOSYS` for a kernel without the call and do
    // without it, where any other error is final.
    let end = if convention == Convention::X86_64 {
        X32
    } else {
        u32::MAX
    };
    let refuses = matches!(
        default,
        Action::Errno(_) | Action::Kill | Action::KillThread | Action::Trap
    );
    if let (Some(last), true) = (last, refuses)
        && last + 1 < end
    {
        table
            .unknown
            .push((last + 1..end, Action::Errno(NO_SUCH_CALL)));
    }
    if convention == Convention::X86_64
        && !seccomp
            .architectures
            .iter()
            .any(|name| name == "SCMP_ARCH_X32")
    {
        table
            .unknown
            .push((X32..u32::MAX, Action::Errno(NO_SUCH_CALL)));
    }
    Ok(())
}

/// `ENOSYS`.
const NO_SUCH_CALL: u16 = 38;
/// `EPERM`, which an action has that does not say which error.
const NOT_PERMITTED: u16 = 1;

fn action(name: &str, errno: Option<u32>) -> Result<Action, BundleError> {
    let number = u16::try_from(errno.unwrap_or(u32::from(NOT_PERMITTED)))
        .ok()
        .filter(|number| *number < 4096)
        .ok_or_else(|| BundleError::invalid("linux.seccomp: an error number is at most 4095"))?;
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::Kill,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(number),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_NOTIFY" => Action::Notify,
        other => {
            let problem = format!("linux.seccomp: `{other}` is not an action");
            return Err(BundleError::Invalid { problem });
        }
    })
}

/// The cases of a rule: one, or one for each test if an argument is tested twice, as others have always done it.
fn cases(rule: &SeccompRule, then: Action) -> Result<Vec<Case>, BundleError> {
    let tests: Vec<Comparison> = rule.args.iter().map(comparison).collect::<Result<_, _>>()?;
    let twice = (0..6).any(|index| tests.iter().filter(|test| test.index == index).count() > 1);
    if twice {
        let one = |test| Case {
            when: vec![test],
            then,
        };
        return Ok(tests.into_iter().map(one).collect());
    }
    Ok(vec![Case { when: tests, then }])
}

fn comparison(argument: &SeccompArgument) -> Result<Comparison, BundleError> {
    let SeccompArgument {
        index,
        value,
        value_two,
        op,
    } = argument;
    let index = u8::try_from(*index)
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| BundleError::invalid("linux.seccomp: a call has arguments 0 to 5"))?;
    let (operator, value) = match op.as_str() {
        "SCMP_CMP_NE" => (Operator::NotEqual, *value),
        "SCMP_CMP_LT" => (Operator::Less, *value),
        "SCMP_CMP_LE" => (Operator::LessOrEqual, *value),
        "SCMP_CMP_EQ" => (Operator::Equal, *value),
        "SCMP_CMP_GE" => (Operator::GreaterOrEqual, *value),
        "SCMP_CMP_GT" => (Operator::Greater, *value),
        "SCMP_CMP_MASKED_EQ" => (Operator::MaskedEqual { mask: *value }, *value_two),
        other => {
            let problem = format!("linux.seccomp: `{other}` is not a comparison");
            return Err(BundleError::Invalid { problem });
        }
    };
    Ok(Comparison {
        index,
        operator,
        value,
    })
}

/// Names of the actions, comparisons and architectures that are understood.
pub(crate) fn known() -> serde_json::Value {
    serde_json::json!({
        "enabled": true,
        "actions": [
            "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
        ],
        "operators": [
            "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ",
            "SCMP_CMP_NE",
        ],
        "archs": numbers::UNDERSTOOD,
        "knownFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
        "supportedFlags": [
            "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ],
    })
}
