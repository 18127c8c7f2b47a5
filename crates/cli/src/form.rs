//! The form of what is listed: for people, for programs, or as a template of docker's says.

use serde_json::{Map, Value};

use crate::errors::{Class, Failure, Outcome};
use crate::printer::Printer;
use crate::template::Template;
use crate::text;

/// The form of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// For people
    Text,
    /// For programs
    Json,
    /// As a template says
    Filled(Filling),
}

/// What a template makes of the rows of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Filling {
    template: Template,
    has_head: bool,
}

impl Form {
    /// Reads the value of `--format`.
    ///
    /// # Errors
    /// A word that there is not; what is wrong with a template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let filled = |text: &str, has_head| {
            let template = Template::typed(text)?;
            Ok(Self::Filled(Filling { template, has_head }))
        };
        match text {
            "text" | "table" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => match text.strip_prefix("table ") {
                Some(rest) => filled(rest, true),
                None if text.contains("{{") => filled(text, false),
                None => Err("there are text, json, and templates such as '{{.ID}}'".to_owned()),
            },
        }
    }
}

impl Form {
    /// Reads the value of `--format` of what comes line by line, so that no column can be aligned.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and a head.
    pub(crate) fn parse_line(text: &str) -> Result<Self, String> {
        let form = Self::parse(text)?;
        if matches!(&form, Self::Filled(filling) if filling.has_head) {
            return Err("leave out `table`: there is one line after the other".to_owned());
        }
        Ok(form)
    }
}

impl Filling {
    /// What the template says of one row.
    ///
    /// # Errors
    /// What the template asks for is not there.
    pub(crate) fn line(&self, row: &Value) -> Outcome<String> {
        self.template.render(row).map_err(unfilled)
    }

    /// What the template says of each row. `heads` are the fields that rows have, each with its column's head.
    ///
    /// # Errors
    /// What the template asks for is not there.
    pub(crate) fn fill(&self, heads: &[(&str, &str)], rows: Vec<Value>) -> Outcome<String> {
        let head = heads.iter();
        let head = head.map(|(name, head)| ((*name).to_owned(), Value::from(*head)));
        let head = self.has_head.then(|| Value::Object(Map::from_iter(head)));
        let lines = head.into_iter().chain(rows);
        let lines: Vec<String> = lines.map(|row| self.line(&row)).collect::<Outcome<_>>()?;
        if !self.has_head {
            return Ok(lines.iter().map(|line| format!("{line}\n")).collect());
        }
        let cells = lines
            .iter()
            .map(|line| line.split('\t').map(str::to_owned).collect());
        Ok(text::table(&cells.collect::<Vec<_>>()))
    }
}

/// The form of documents about what was named: JSON, or as a template says of each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DocumentForm(Option<Template>);

impl DocumentForm {
    /// Reads the value of `--format`.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self(None)),
            template => Template::typed(template).map(|template| Self(Some(template))),
        }
    }

    /// Whether a template says what is shown.
    pub(crate) fn is_template(&self) -> bool {
        self.0.is_some()
    }

    /// Prints what was found: one document or a list of them.
    ///
    /// # Errors
    /// What the template asks for is not there.
    pub(crate) fn print(&self, found: Value, printer: &mut Printer) -> Outcome {
        let Some(template) = &self.0 else {
            return printer.json(&found);
        };
        let each = if let Value::Array(each) = found {
            each
        } else {
            vec![found]
        };
        for one in &each {
            let line = template.render(one).map_err(unfilled)?;
            printer.data(line + "\n")?;
        }
        Ok(())
    }
}

fn unfilled(message: String) -> Failure {
    let message = format!("the template cannot be filled in: {message}");
    Failure::message(Class::User, message, None)
}

/// Labels as one text, as templates of docker's see them.
pub(crate) fn labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let labels = labels.into_iter();
    let labels = labels.map(|(name, value)| format!("{name}={value}"));
    labels.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_filled_in_with_a_head_if_it_is_asked_for() {
        let heads = [("ID", "THE ID"), ("Name", "NAME")];
        let rows = || vec![json!({ "ID": "7", "Name": "seven" })];
        let filled = |text: &str| match Form::parse(text) {
            Ok(Form::Filled(filling)) => filling.fill(&heads, rows()).ok(),
            _ => None,
        };
        assert_eq!(filled("{{.ID}}/{{.Name}}").as_deref(), Some("7/seven\n"));
        let table = filled("table {{.ID}}\\t{{.Name}}");
        assert_eq!(table.as_deref(), Some("THE ID  NAME\n7       seven\n"));
        assert_eq!(filled("{{.Nosuch}}"), None);
        assert_eq!(Form::parse("table"), Ok(Form::Text));
        assert_eq!(Form::parse("json"), Ok(Form::Json));
        for wrong in ["yaml", "{{", ""] {
            assert!(Form::parse(wrong).is_err(), "{wrong}");
        }
    }
}
