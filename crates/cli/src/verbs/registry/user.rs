//! `kiln registry user`: accounts.

use clap::Subcommand;
use kiln_registry::Command;
use serde_json::Value;

use super::place::Place;
use crate::errors::{Class, Failure, Outcome};
use crate::password::{Purpose, find_on_terminal};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;
use crate::verbs::login::password_from_stdin;

/// Manage the accounts of a registry
///
/// What an account may do is written as PATTERN:ACTIONS, such as
/// `team/**:pull,push`: `*` stands for a part of a name, `**` at the end for
/// everything below; actions are pull, push and delete, or `*` for all.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln registry user add alice --grant 'team/**:pull,push'
  kiln registry user add root --admin --password-stdin < password
  kiln registry user change alice --grant 'team/**:*' --grant 'public/*:pull'
  kiln registry user list")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an account
    Add(Account),
    /// Change an account; what is not named stays
    Change(Account),
    /// Remove an account and its tokens
    Remove {
        #[command(flatten)]
        place: Place,
        /// Name of the account
        name: String,
    },
    /// List the accounts
    List {
        #[command(flatten)]
        place: Place,
        /// Choose the form of the listing
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        format: Format,
    },
}

#[derive(clap::Args, Debug)]
struct Account {
    #[command(flatten)]
    place: Place,

    /// Name of the account
    name: String,

    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,

    /// Ask for no password: the account has tokens only
    #[arg(long, conflicts_with = "password_stdin")]
    no_password: bool,

    /// What the account may do, as PATTERN:ACTIONS; may be said several times
    #[arg(long, value_name = "GRANT")]
    grant: Vec<String>,

    /// The account may do everything
    #[arg(long, value_name = "YES", num_args = 0..=1, default_missing_value = "true")]
    admin: Option<bool>,
}

/// Does it.
pub(crate) fn run(args: Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    match args.verb {
        Verb::Add(account) => put(&account, true, settings, printer),
        Verb::Change(account) => put(&account, false, settings, printer),
        Verb::Remove { place, name } => {
            place.command(settings, &Command::RemoveUser { name: name.clone() })?;
            printer.note(format!("{name} is removed"));
            Ok(())
        }
        Verb::List { place, format } => {
            let users = place.command(settings, &Command::Users)?;
            if format == Format::Json {
                return printer.json(&users);
            }
            let users = users.as_array().cloned().unwrap_or_default();
            let mut rows = vec![
                ["NAME", "ADMIN", "PASSWORD", "GRANTS"]
                    .map(String::from)
                    .to_vec(),
            ];
            rows.extend(users.iter().map(row));
            printer.data(text::table(&rows))
        }
    }
}

fn row(user: &Value) -> Vec<String> {
    let yes = |name: &str| if user[name] == true { "yes" } else { "no" }.to_owned();
    let words = |name: &str| user[name].as_str().unwrap_or_default().to_owned();
    vec![
        words("name"),
        yes("admin"),
        yes("password"),
        words("grants"),
    ]
}

fn put(account: &Account, new: bool, settings: &Settings, printer: &mut Printer) -> Outcome {
    let password = if account.password_stdin {
        Some(password_from_stdin()?)
    } else if new && !account.no_password {
        Some(asked(settings)?)
    } else {
        None
    };
    let command = Command::PutUser {
        name: account.name.clone(),
        password,
        admin: account.admin,
        grants: (new || !account.grant.is_empty()).then(|| account.grant.clone()),
        new,
    };
    let made = account.place.command(settings, &command)?;
    if made["admin"] != true && made["grants"] == "" {
        printer.warning(format!(
            "{} may do nothing yet; say what with `--grant`",
            account.name
        ));
    }
    printer.note(format!(
        "{} is {}",
        account.name,
        if new { "made" } else { "changed" }
    ));
    Ok(())
}

fn asked(settings: &Settings) -> Outcome<String> {
    let typed = find_on_terminal(settings, Purpose::Choose, "password")?;
    let Some(typed) = typed else {
        return Err(Failure::message(
            Class::User,
            "there is no terminal to ask for a password",
            Some("say `--password-stdin`, or `--no-password` for tokens only".to_owned()),
        ));
    };
    String::from_utf8(typed)
        .map_err(|_secret| Failure::message(Class::User, "the password is not text in UTF-8", None))
}
