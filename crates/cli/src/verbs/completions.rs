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
            script.extend(fish_arguments(verb).into_bytes());
        }
    }
    script
}

/// Completes arguments that have only some values, which clap's script for fish does for flags alone.
fn fish_arguments(verb: &clap::Command) -> String {
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
            lines.push_str(&format!(
                "complete -c kiln -n \"__fish_kiln_using_subcommand {}\" -f -a \"{}\"\n",
                verb.get_name(),
                values.join("\n")
            ));
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
        for line in [
            "complete -c kiln -n \"__fish_kiln_using_subcommand schema\" -f -a \"manifest\\t'kiln.toml'\n",
            "complete -c kiln -n \"__fish_kiln_using_subcommand completions\" -f -a \"bash\\t''\n",
        ] {
            assert!(script.contains(line), "{line}");
        }
        // Only verbs of the first level are looked at.
        let deep = app::command()
            .get_subcommands()
            .flat_map(clap::Command::get_subcommands)
            .flat_map(clap::Command::get_positionals)
            .filter(|argument| !argument.get_possible_values().is_empty())
            .map(|argument| argument.get_id().to_string())
            .collect::<Vec<String>>();
        assert_eq!(deep, Vec::<String>::new());
    }
}
