//! Instructions of a Dockerfile that only change an image's settings.

use kiln_image::ConfigChanges;
use kiln_manifest::value::Signal;

use crate::container::wrong;
use crate::errors::{Failure, Outcome};

/// Reads instructions; later ones win.
///
/// # Errors
/// One that is none, or makes something in the file system.
pub(super) fn read_all(instructions: &[String]) -> Outcome<ConfigChanges> {
    let mut changes = ConfigChanges::default();
    for instruction in instructions {
        apply(instruction, &mut changes)?;
    }
    Ok(changes)
}

fn apply(instruction: &str, changes: &mut ConfigChanges) -> Outcome {
    let text = instruction.trim();
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let refuse = |why: &str| refused(instruction, why);
    if rest.is_empty() {
        return Err(refuse("says nothing"));
    }
    match name.to_ascii_uppercase().as_str() {
        "CMD" => changes.cmd = Some(program(rest)),
        "ENTRYPOINT" => changes.entrypoint = Some(program(rest)),
        "ENV" => {
            for (name, value) in pairs(rest).map_err(refuse)? {
                changes.env.insert(name, value);
            }
        }
        "LABEL" => changes.labels.extend(pairs(rest).map_err(refuse)?),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                changes
                    .exposed_ports
                    .push(exposed(port).ok_or_else(|| refuse("names no port"))?);
            }
        }
        "USER" => changes.user = Some(rest.to_owned()),
        "WORKDIR" if rest.starts_with('/') => changes.working_dir = Some(rest.to_owned()),
        "WORKDIR" => return Err(refuse("names no absolute path")),
        "STOPSIGNAL" => {
            if Signal::parse(rest).is_err() {
                return Err(refuse("names no signal"));
            }
            changes.stop_signal = Some(rest.to_owned());
        }
        "VOLUME" => {
            let paths = list(rest);
            let paths =
                paths.unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect());
            if !paths.iter().all(|path| path.starts_with('/')) {
                return Err(refuse("names no absolute path"));
            }
            changes.volumes.extend(paths);
        }
        _ => return Err(refuse("is none that changes settings")),
    }
    Ok(())
}

fn refused(instruction: &str, why: &str) -> Failure {
    wrong(
        format!("the instruction `{instruction}` {why}"),
        "there are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR",
    )
}

/// `["a", "b"]`; `None` if it is not a list.
fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// A list of words, or a script for the shell.
fn program(text: &str) -> Vec<String> {
    list(text).unwrap_or_else(|| kiln_runtime::shell(text))
}

fn exposed(text: &str) -> Option<String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    matches!(protocol, "tcp" | "udp" | "sctp").then(|| format!("{port}/{protocol}"))
}

/// `A=b C="d e"`, or one pair with a blank in between.
fn pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let words = words(text)?;
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = text.split_once(char::is_whitespace).ok_or("has no value")?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("has a word without a name and `=`"),
    };
    words.iter().map(pair).collect()
}

/// Splits text at blanks that are not in quotes or behind a backslash.
fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let (mut words, mut word, mut is_word) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                word.push(characters.next().ok_or("ends in a backslash")?);
                is_word = true;
            }
            (it, Some(open)) if it == open => quote = None,
            (it, Some(_)) => word.push(it),
            (it @ ('"' | '\''), None) => {
                quote = Some(it);
                is_word = true;
            }
            (it, None) if it.is_whitespace() => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            (it, None) => {
                word.push(it);
                is_word = true;
            }
        }
    }
    if quote.is_some() {
        return Err("has a quote without an end");
    }
    if is_word {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(instructions: &[&str]) -> Option<ConfigChanges> {
        let instructions: Vec<String> = instructions.iter().map(|&it| it.to_owned()).collect();
        read_all(&instructions).ok()
    }

    #[test]
    fn instructions_are_understood_as_docker_does() {
        let changes = read(&[
            r#"CMD ["serve", "-v"]"#,
            "entrypoint exec app",
            r#"ENV A=1 B="two words" C=\ x D='"'"#,
            "ENV E some text",
            "EXPOSE 80 53/udp",
            "LABEL team=web",
            "USER 1000:1000",
            "WORKDIR /srv",
            r#"VOLUME ["/data"]"#,
            "VOLUME /a /b",
            "STOPSIGNAL SIGINT",
        ])
        .expect("instructions");
        assert_eq!(changes.cmd.expect("a command"), ["serve", "-v"]);
        assert_eq!(
            changes.entrypoint.expect("one"),
            ["/bin/sh", "-c", "exec app"]
        );
        let env: Vec<_> = changes
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(env, ["A=1", "B=two words", "C= x", "D=\"", "E=some text"]);
        assert_eq!(changes.exposed_ports, ["80/tcp", "53/udp"]);
        assert_eq!(changes.labels["team"], "web");
        assert_eq!(changes.volumes, ["/data", "/a", "/b"]);
        let texts = [changes.user, changes.working_dir, changes.stop_signal];
        assert_eq!(
            texts.map(Option::unwrap_or_default),
            ["1000:1000", "/srv", "SIGINT"]
        );
    }

    #[test]
    fn others_are_refused() {
        for text in [
            "",
            "CMD",
            "RUN make",
            "COPY a b",
            "ENV A",
            "ENV A=1 B",
            "ENV =x",
            "ENV A='",
            "ENV A=\\",
            "EXPOSE x",
            "EXPOSE 0",
            "WORKDIR srv",
            "VOLUME data",
            "STOPSIGNAL never",
        ] {
            assert_eq!(read(&[text]), None, "{text}");
        }
    }
}
