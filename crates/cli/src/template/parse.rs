//! From the text of a template to what is to be done.

use serde_json::Value;

use super::{Node, Operand, Pipeline};

/// How deep blocks and parentheses may be in one another.
const DEPTH: usize = 40;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// `.a.b`, `$x.a`, or the fields behind a parenthesis.
    Path(Option<String>, Vec<String>),
    Literal(Value),
    Word(String),
    Open,
    Close,
    Bar,
    Comma,
    Define,
}

/// A piece of the text: as it is, or the inside of an action.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// Reads a template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, String> {
    let pieces = pieces(text)?;
    let mut pieces = pieces.into_iter();
    let (nodes, end) = block(&mut pieces, DEPTH)?;
    match end {
        Closing::Text => Ok(nodes),
        Closing::End => Err("there is an `end` without a beginning".to_owned()),
        Closing::Else(_) => Err("there is an `else` without an `if`".to_owned()),
    }
}

fn pieces(mut text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    while let Some((before, rest)) = text.split_once("{{") {
        let (inside, rest) = split_action(rest)?;
        let trims = |inside: &str, open: bool| {
            let blank = |it: Option<char>| it.is_some_and(char::is_whitespace);
            if open {
                inside.starts_with('-') && blank(inside.chars().nth(1))
            } else {
                inside.ends_with('-') && blank(inside.chars().rev().nth(1))
            }
        };
        let (left, right) = (trims(inside, true), trims(inside, false));
        let before = if left { before.trim_end() } else { before };
        pieces.push(Piece::Text(before.to_owned()));
        let inside = inside.get(usize::from(left)..inside.len() - usize::from(right));
        let inside = inside.unwrap_or_default().trim();
        if !(inside.starts_with("/*") && inside.ends_with("*/")) {
            pieces.push(Piece::Action(tokens(inside)?));
        }
        text = if right { rest.trim_start() } else { rest };
    }
    pieces.push(Piece::Text(text.to_owned()));
    Ok(pieces)
}

/// Splits at the end of an action, which is not in quotes.
fn split_action(text: &str) -> Result<(&str, &str), String> {
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match (character, quote) {
            ('\\', Some('"')) => drop(characters.next()),
            (it, Some(open)) if it == open => quote = None,
            (it @ ('"' | '`'), None) => quote = Some(it),
            ('}', None) if text[place..].starts_with("}}") => {
                return Ok((&text[..place], &text[place + 2..]));
            }
            _ => {}
        }
    }
    Err("there is a `{{` without `}}`".to_owned())
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    let is_name = |it: char| it.is_alphanumeric() || it == '_';
    let word = |rest: &str| rest.len() - rest.trim_start_matches(is_name).len();
    while let Some(first) = rest.chars().next() {
        let mut used = first.len_utf8();
        match first {
            _ if first.is_whitespace() => {}
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            '|' => tokens.push(Token::Bar),
            ',' => tokens.push(Token::Comma),
            ':' if rest.starts_with(":=") => {
                used = 2;
                tokens.push(Token::Define);
            }
            '.' | '$' => {
                let variable = (first == '$').then(|| rest[1..1 + word(&rest[1..])].to_owned());
                used = variable.as_ref().map_or(0, |name| 1 + name.len());
                let mut names = Vec::new();
                while rest[used..].starts_with('.') {
                    let length = word(&rest[used + 1..]);
                    if length > 0 {
                        names.push(rest[used + 1..used + 1 + length].to_owned());
                    }
                    used += 1 + length;
                    if length == 0 {
                        break;
                    }
                }
                tokens.push(Token::Path(variable, names));
            }
            '"' | '`' => {
                let (literal, length) = quoted(rest, first)?;
                used = length;
                tokens.push(Token::Literal(Value::from(literal)));
            }
            _ if first.is_ascii_digit() || first == '-' => {
                used = 1 + word(&rest[1..]);
                let number: i64 = rest[..used]
                    .parse()
                    .map_err(|_not_a_number| format!("`{}` is no number", &rest[..used]))?;
                tokens.push(Token::Literal(Value::from(number)));
            }
            _ if is_name(first) => {
                used = word(rest);
                tokens.push(match &rest[..used] {
                    "true" => Token::Literal(Value::from(true)),
                    "false" => Token::Literal(Value::from(false)),
                    "nil" => Token::Literal(Value::Null),
                    name => Token::Word(name.to_owned()),
                });
            }
            _ => return Err(format!("`{first}` means nothing there")),
        }
        rest = &rest[used..];
    }
    Ok(tokens)
}

/// A text in quotes at the beginning, and its length with them.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((place, character)) = characters.next() {
        match character {
            it if it == quote => return Ok((value, place + 1)),
            '\\' if quote == '"' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            other => value.push(other),
        }
    }
    Err("there is a quote without an end".to_owned())
}

/// How a block ends.
enum Closing {
    Text,
    End,
    /// With what stands behind the `else`.
    Else(Vec<Token>),
}

fn block(
    pieces: &mut dyn Iterator<Item = Piece>,
    depth: usize,
) -> Result<(Vec<Node>, Closing), String> {
    let depth = deeper(depth)?;
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let word = match tokens.first() {
            Some(Token::Word(word)) => word.clone(),
            _ => String::new(),
        };
        match word.as_str() {
            "end" if tokens.len() == 1 => return Ok((nodes, Closing::End)),
            "else" => return Ok((nodes, Closing::Else(tokens[1..].to_vec()))),
            "if" | "with" | "range" => nodes.push(branch(&word, &tokens[1..], pieces, depth)?),
            _ => nodes.push(Node::Show(pipeline(&tokens, depth)?)),
        }
    }
    Ok((nodes, Closing::Text))
}

/// What begins with `if`, `with` or `range`, to its end.
fn branch(
    word: &str,
    condition: &[Token],
    pieces: &mut dyn Iterator<Item = Piece>,
    depth: usize,
) -> Result<Node, String> {
    let depth = deeper(depth)?;
    let (names, condition) = match (word, condition) {
        (
            "range",
            [
                Token::Path(Some(key), none),
                Token::Comma,
                Token::Path(Some(value), no),
                Token::Define,
                rest @ ..,
            ],
        ) if none.is_empty() && no.is_empty() => ([Some(key.clone()), Some(value.clone())], rest),
        ("range", [Token::Path(Some(value), none), Token::Define, rest @ ..])
            if none.is_empty() =>
        {
            ([None, Some(value.clone())], rest)
        }
        (_, rest) => ([None, None], rest),
    };
    let condition = pipeline(condition, depth)?;
    let (then, end) = block(pieces, depth)?;
    let otherwise = match end {
        Closing::End => Vec::new(),
        Closing::Text => return Err(format!("there is no `end` for a `{word}`")),
        Closing::Else(rest) => match rest.as_slice() {
            [] => match block(pieces, depth)? {
                (nodes, Closing::End) => nodes,
                (_, Closing::Text | Closing::Else(_)) => {
                    return Err(format!("there is no `end` for the `else` of a `{word}`"));
                }
            },
            // One `end` ends all of them.
            [Token::Word(inner), rest @ ..] if matches!(inner.as_str(), "if" | "with") => {
                vec![branch(inner, rest, pieces, depth)?]
            }
            _ => return Err("behind an `else` there is something else than `if`".to_owned()),
        },
    };
    Ok(match word {
        "if" => Node::If(condition, then, otherwise),
        "with" => Node::With(condition, then, otherwise),
        _ => Node::Range(names, condition, then, otherwise),
    })
}

fn deeper(depth: usize) -> Result<usize, String> {
    depth
        .checked_sub(1)
        .ok_or_else(|| "it is nested too deeply".to_owned())
}

fn pipeline(tokens: &[Token], depth: usize) -> Result<Pipeline, String> {
    let depth = deeper(depth)?;
    let (mut commands, mut command) = (Vec::new(), Vec::new());
    let mut tokens = tokens;
    while let Some((first, mut rest)) = tokens.split_first() {
        match first {
            Token::Bar => commands.push(std::mem::take(&mut command)),
            Token::Path(variable, names) => {
                command.push(Operand::Path(variable.clone(), names.clone()));
            }
            Token::Literal(value) => command.push(Operand::Literal(value.clone())),
            Token::Word(name) => command.push(Operand::Call(name.clone())),
            Token::Open => {
                let length = to_close(rest)?;
                let nested = pipeline(&rest[..length], depth)?;
                rest = &rest[length + 1..];
                // Fields of what is in parentheses.
                command.push(match rest.split_first() {
                    Some((Token::Path(None, names), behind)) if !names.is_empty() => {
                        rest = behind;
                        field_of(nested, names)
                    }
                    _ => Operand::Nested(nested),
                });
            }
            Token::Close | Token::Comma | Token::Define => {
                return Err("there is a sign where a value is expected".to_owned());
            }
        }
        tokens = rest;
    }
    commands.push(command);
    if commands.iter().any(Vec::is_empty) {
        return Err("there is an empty action".to_owned());
    }
    Ok(commands)
}

/// `(…).a.b` as `index (…) "a" "b"`.
fn field_of(nested: Pipeline, names: &[String]) -> Operand {
    let names = names
        .iter()
        .map(|name| Operand::Literal(Value::from(name.as_str())));
    let index = [Operand::Call("index".to_owned()), Operand::Nested(nested)];
    Operand::Nested(vec![index.into_iter().chain(names).collect()])
}

fn to_close(tokens: &[Token]) -> Result<usize, String> {
    let mut open = 1_usize;
    for (place, token) in tokens.iter().enumerate() {
        match token {
            Token::Open => open += 1,
            Token::Close => open -= 1,
            Token::Path(..)
            | Token::Literal(_)
            | Token::Word(_)
            | Token::Bar
            | Token::Comma
            | Token::Define => {}
        }
        if open == 0 {
            return Ok(place);
        }
    }
    Err("there is a parenthesis without an end".to_owned())
}
