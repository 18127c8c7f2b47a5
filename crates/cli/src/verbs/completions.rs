//! `kiln completions`: scripts that complete kiln's command line.

use clap_complete::Shell;

use crate::app;
use crate::errors::Outcome;
use crate::printer::Printer;

/// Print the completion script of a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln completions bash > /etc/bash_completion.d/kiln
  kiln completions fish > ~/.config/fish/completions/kiln.fish")]
pub(crate) struct Args {
    /// Shell to write for
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &Args, printer: &mut Printer) -> Outcome {
    printer.data(script(args.shell))
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut app::command(), "kiln", &mut script);
    if shell == Shell::Fish {
        for verb in app::command().get_subcommands() {
            let called = format!("__fish_kiln_using_subcommand {}", verb.get_name());
            script.extend(fish_arguments(verb, &called).into_bytes());
            for below in verb.get_subcommands() {
                let called = format!(
                    "{called}; and __fish_seen_subcommand_from {}",
                    below.get_name()
                );
                script.extend(fish_arguments(below, &called).into_bytes());
            }
        }
    }
    script
}

/// Completes arguments that have only some values, which clap's script for fish does for flags alone; `called` is the
/// condition that the verb is there.
fn fish_arguments(verb: &clap::Command, called: &str) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut lines = String::new();
    for argument in verb.get_positionals() {
        let values: Vec<String> = argument
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| {
                let help = value.get_help().map(ToString::to_string);
                let help = help.unwrap_or_default();
                format!("{}\\t'{}'", value.get_name(), quoted(&help))
            })
            .collect();
        if !values.is_empty() {
            lines.push_str("complete -c kiln -n \"");
            lines.push_str(called);
            lines.push_str("\" -f -a \"");
            lines.push_str(&values.join("\n"));
            lines.push_str("\"\n");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fish_completes_arguments_of_few_values() {
        let script = String::from_utf8(script(Shell::Fish)).unwrap();
        for (called, first) in [
            ("using_subcommand schema", "manifest\\t'kiln.toml'\n"),
            ("using_subcommand completions", "bash\\t''\n"),
            (
                "using_subcommand registry; and __fish_seen_subcommand_from read-only",
                "on\\t",
            ),
        ] {
            let line = format!("complete -c kiln -n \"__fish_kiln_{called}\" -f -a \"{first}");
            assert!(script.contains(&line), "{line}");
        }
    }
}
