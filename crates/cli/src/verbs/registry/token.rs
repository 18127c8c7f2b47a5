//! `kiln registry token`: passwords for programs.

use clap::Subcommand;
use kiln_registry::{Command, Span};
use serde_json::Value;

use super::place::Place;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;

/// Manage the tokens of a registry's accounts
///
/// A token is a password for a program. It is shown once, can be good for less
/// than its account, and for a time only.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln registry token add alice ci --expires 90d --grant 'team/notes:pull,push'
  kiln registry token list
  kiln registry token remove 4f0c21d39a5be872")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token, and print its secret
    Add(Token),
    /// Make a token good for nothing
    Remove {
        #[command(flatten)]
        place: Place,
        /// Id of the token
        id: String,
    },
    /// List the tokens
    List {
        #[command(flatten)]
        place: Place,
        /// Choose the form of the listing
        #[arg(long, value_name = "FORMAT", default_value = "text")]
        format: Format,
    },
}

#[derive(clap::Args, Debug)]
struct Token {
    #[command(flatten)]
    place: Place,

    /// Account the token is for; also the user name to log in with
    user: String,

    /// What the token is for
    name: String,

    /// What it is good for at most, as PATTERN:ACTIONS; may be said several times
    #[arg(long, value_name = "GRANT")]
    grant: Vec<String>,

    /// How long it is good
    #[arg(long, value_name = "TIME", value_parser = Span::parse)]
    expires: Option<Span>,
}

/// Does it.
pub(crate) fn run(args: Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    match args.verb {
        Verb::Add(token) => {
            let command = Command::NewToken {
                user: token.user,
                name: token.name,
                grants: token.grant,
                life: token.expires.map(|span| span.0.as_secs()),
            };
            let made = token.place.command(settings, &command)?;
            let id = made["id"].as_str().unwrap_or_default();
            printer.note(format!("token {id}; its secret is not shown again:"));
            printer.line(made["secret"].as_str().unwrap_or_default())
        }
        Verb::Remove { place, id } => {
            place.command(settings, &Command::RemoveToken { id: id.clone() })?;
            printer.note(format!("token {id} is removed"));
            Ok(())
        }
        Verb::List { place, format } => {
            let tokens = place.command(settings, &Command::Tokens)?;
            if format == Format::Json {
                return printer.json(&tokens);
            }
            let tokens = tokens.as_array().cloned().unwrap_or_default();
            let mut rows = vec![["ID", "USER", "NAME", "GRANTS"].map(String::from).to_vec()];
            rows.extend(tokens.iter().map(row));
            printer.data(text::table(&rows))
        }
    }
}

fn row(token: &Value) -> Vec<String> {
    let words = |name: &str| token[name].as_str().unwrap_or_default().to_owned();
    vec![words("id"), words("user"), words("name"), words("grants")]
}
