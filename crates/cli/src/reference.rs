//! `docs/cli.md`, written from the same definitions that parse the command line.

use std::fmt::Write;

/// Renders every verb with its flags as Markdown.
pub(crate) fn command_line(mut command: clap::Command) -> String {
    // Fills in what clap derives late: help texts of global flags, value names.
    command.build();
    let mut text = String::from(
        "# Command line\n\nWritten by `cargo xtask gen` from the program itself; `kiln <verb> --help` says the same.\n",
    );
    section(&mut text, "kiln", &command);
    verbs(&mut text, "kiln", &command);
    text
}

/// The verbs of a command, each followed by its own.
fn verbs(text: &mut String, name: &str, command: &clap::Command) {
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    for verb in verbs.filter(|verb| verb.get_name() != "help") {
        let name = format!("{name} {}", verb.get_name());
        section(text, &name, verb);
        self::verbs(text, &name, verb);
    }
}

fn section(text: &mut String, name: &str, command: &clap::Command) {
    add(text, format_args!("\n## {name}\n\n"));
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        // The first line has no full stop, further ones are sentences.
        let about = about.to_string();
        add(text, format_args!("{}.\n", about.trim_end_matches('.')));
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    add(text, format_args!("\n```text\n{usage}\n```\n"));

    let is_top = name == "kiln";
    let arguments: Vec<&clap::Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        // The global flags are told once, at the top.
        .filter(|argument| is_top || !argument.is_global_set())
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        .collect();
    if !arguments.is_empty() {
        text.push_str("\n| argument | meaning |\n| --- | --- |\n");
        for argument in arguments {
            add(
                text,
                format_args!("| {} | {} |\n", shown(argument), meaning(argument)),
            );
        }
    }
    if let Some(after) = command.get_after_help() {
        add(text, format_args!("\n```text\n{after}\n```\n"));
    }
}

/// The argument as one types it.
fn shown(argument: &clap::Arg) -> String {
    let values = argument
        .get_value_names()
        .filter(|_| argument.get_action().takes_values())
        .map(|names| {
            names
                .iter()
                .map(|name| name.as_str())
                .collect::<Vec<_>>()
                .join(" ")
        });
    let mut forms = Vec::new();
    if let Some(short) = argument.get_short() {
        forms.push(format!("-{short}"));
    }
    if let Some(long) = argument.get_long() {
        forms.push(format!("--{long}"));
    }
    let value = values.unwrap_or_else(|| argument.get_id().as_str().to_uppercase());
    if forms.is_empty() {
        return format!("`{value}`");
    }
    let mut text = forms.join(", ");
    if argument.get_action().takes_values() {
        text = format!("{text} {value}");
    }
    format!("`{text}`")
}

fn meaning(argument: &clap::Arg) -> String {
    let mut text = argument
        .get_long_help()
        .or_else(|| argument.get_help())
        .map(ToString::to_string)
        .unwrap_or_default()
        .replace('\n', " ")
        .replace('|', "\\|");
    let choices: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if argument.get_action().takes_values() && !choices.is_empty() {
        add(&mut text, format_args!(": {}", choices.join(", ")));
    }
    let defaults: Vec<String> = argument
        .get_default_values()
        .iter()
        .map(|value| format!("`{}`", value.to_string_lossy()))
        .collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        add(
            &mut text,
            format_args!(" (default {})", defaults.join(", ")),
        );
    }
    text
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments)
        .expect("a string takes all that is written");
}
