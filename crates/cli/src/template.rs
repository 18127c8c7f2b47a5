//! Templates of docker's `--format`: as much of Go's text templates as people type.
//!
//! ```text
//! {{.State.Status}}  {{json .Mounts}}  {{.Names | upper}}  {{index .Labels "a.b"}}  {{len .Mounts}}
//! {{range .Mounts}}{{.Source}} {{end}}  {{range $k, $v := .Labels}}…{{end}}  {{if .X}}…{{else}}…{{end}}  {{with .X}}…{{end}}
//! ```

mod parse;

use serde_json::Value;

/// A template that was understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Show(Pipeline),
    If(Pipeline, Vec<Self>, Vec<Self>),
    With(Pipeline, Vec<Self>, Vec<Self>),
    /// Names of the key and of the value, if they have some.
    Range([Option<String>; 2], Pipeline, Vec<Self>, Vec<Self>),
}

/// Commands, each of which gets the result of the one before as its last argument.
type Pipeline = Vec<Vec<Operand>>;

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// What the dot is, or a variable, and the names behind it.
    Path(Option<String>, Vec<String>),
    Literal(Value),
    Call(String),
    Nested(Pipeline),
}

/// What the dot and the variables are.
struct Scope<'a> {
    dot: &'a Value,
    variables: Vec<(String, Value)>,
}

/// What there is no value for.
const NOTHING: &str = "<no value>";

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::template(text).map(Self)
    }

    /// Reads what is typed for `--format`, where a tab may be written `\\t` and a line feed `\\n`.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn typed(text: &str) -> Result<Self, String> {
        Self::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))
    }

    /// Fills it in.
    ///
    /// # Errors
    /// A function that cannot take what it is given, or a field that there is not.
    pub(crate) fn render(&self, value: &Value) -> Result<String, String> {
        let mut text = String::new();
        let variables = vec![(String::new(), value.clone())];
        let mut scope = Scope {
            dot: value,
            variables,
        };
        scope.nodes(&self.0, &mut text)?;
        Ok(text)
    }
}

impl Scope<'_> {
    fn nodes(&mut self, nodes: &[Node], text: &mut String) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(more) => text.push_str(more),
                Node::Show(pipeline) => text.push_str(&shown(&self.pipeline(pipeline)?)),
                Node::If(condition, then, otherwise) => {
                    let holds = is_true(&self.pipeline(condition)?);
                    self.nodes(if holds { then } else { otherwise }, text)?;
                }
                Node::With(pipeline, then, otherwise) => {
                    let value = self.pipeline(pipeline)?;
                    if is_true(&value) {
                        self.inside(&value, Vec::new()).nodes(then, text)?;
                    } else {
                        self.nodes(otherwise, text)?;
                    }
                }
                Node::Range(names, pipeline, each, otherwise) => {
                    let value = self.pipeline(pipeline)?;
                    let pairs = pairs(value)?;
                    if pairs.is_empty() {
                        self.nodes(otherwise, text)?;
                    }
                    for (key, value) in pairs {
                        let named = names.iter().zip([&key, &value]);
                        let named =
                            named.filter_map(|(name, it)| Some((name.clone()?, it.clone())));
                        self.inside(&value, named.collect()).nodes(each, text)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn inside<'b>(&self, dot: &'b Value, more: Vec<(String, Value)>) -> Scope<'b> {
        let variables = self.variables.iter().cloned().chain(more).collect();
        Scope { dot, variables }
    }

    fn pipeline(&self, pipeline: &Pipeline) -> Result<Value, String> {
        let mut last = None;
        for command in pipeline {
            let (first, rest) = command.split_first().ok_or("there is an empty command")?;
            let mut arguments: Vec<Value> = rest
                .iter()
                .map(|operand| self.operand(operand))
                .collect::<Result<_, _>>()?;
            arguments.extend(last.take());
            last = Some(match first {
                Operand::Call(name) => call(name, &arguments)?,
                // Docker's way to ask for one label.
                Operand::Path(None, names) if names == &["Label"] && arguments.len() == 1 => {
                    label(self.dot.get("Labels"), &shown(&arguments.remove(0)))
                }
                _ if !arguments.is_empty() => return Err("a value is not a function".to_owned()),
                value @ (Operand::Path(..) | Operand::Literal(_) | Operand::Nested(_)) => {
                    self.operand(value)?
                }
            });
        }
        last.ok_or_else(|| "there is an empty action".to_owned())
    }

    fn operand(&self, operand: &Operand) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Nested(pipeline) => self.pipeline(pipeline),
            Operand::Call(name) => call(name, &[]),
            Operand::Path(variable, names) => {
                let start = match variable {
                    None => self.dot,
                    Some(name) => {
                        let mut known = self.variables.iter().rev();
                        let found = known.find(|(known, _)| known == name);
                        &found
                            .ok_or_else(|| format!("there is no variable `${name}`"))?
                            .1
                    }
                };
                let mut value = start;
                for name in names {
                    value = match value {
                        Value::Object(fields) => fields.get(name).ok_or_else(|| {
                            format!("there is no field `{name}`; {}", among(fields))
                        })?,
                        Value::Null => &Value::Null,
                        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                            return Err(format!("`{name}` is asked of what has no fields"));
                        }
                    };
                }
                Ok(value.clone())
            }
        }
    }
}

fn among(fields: &serde_json::Map<String, Value>) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    format!("there are {}", names.join(", "))
}

/// One of the labels, which may be a text such as `a=b,c=d`.
fn label(labels: Option<&Value>, name: &str) -> Value {
    let found = match labels {
        Some(Value::String(text)) => text.split(',').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key == name).then(|| value.to_owned())
        }),
        Some(Value::Object(labels)) => labels.get(name).map(shown),
        _ => None,
    };
    Value::from(found.unwrap_or_default())
}

fn pairs(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Array(values) => Ok((0_u64..).map(Value::from).zip(values).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            Ok(fields
                .map(|(name, value)| (Value::from(name), value))
                .collect())
        }
        Value::Null => Ok(Vec::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            Err("`range` needs a list or a map".to_owned())
        }
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(shown).collect();
            format!("[{}]", values.join(" "))
        }
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", shown(value)));
            format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
        }
    }
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |value: &Value| Value::from(shown(value));
    match (name, arguments) {
        ("json", [value]) => Ok(Value::from(value.to_string())),
        ("len", [Value::String(text)]) => Ok(Value::from(text.len())),
        ("len", [Value::Array(values)]) => Ok(Value::from(values.len())),
        ("len", [Value::Object(fields)]) => Ok(Value::from(fields.len())),
        ("len", [Value::Null]) => Ok(Value::from(0)),
        ("upper", [value]) => Ok(Value::from(shown(value).to_uppercase())),
        ("lower", [value]) => Ok(Value::from(shown(value).to_lowercase())),
        ("print", [value]) => Ok(text(value)),
        ("println", values) => {
            let words: Vec<String> = values.iter().map(shown).collect();
            Ok(Value::from(words.join(" ") + "\n"))
        }
        ("join", [Value::Array(values), Value::String(between)]) => {
            let words: Vec<String> = values.iter().map(shown).collect();
            Ok(Value::from(words.join(between)))
        }
        ("split", [Value::String(text), Value::String(at)]) => {
            Ok(text.split(at.as_str()).map(Value::from).collect())
        }
        ("truncate", [value, Value::Number(count)]) => {
            let count = count.as_u64().and_then(|count| usize::try_from(count).ok());
            let count = count.ok_or("`truncate` needs a number of letters")?;
            Ok(Value::from(
                shown(value).chars().take(count).collect::<String>(),
            ))
        }
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| {
            let found = match (&value, key) {
                (Value::Null, _) => None,
                (Value::Object(fields), Value::String(name)) => fields.get(name),
                (Value::Array(values), Value::Number(place)) => {
                    let place = place.as_u64().and_then(|place| usize::try_from(place).ok());
                    let found = place.and_then(|place| values.get(place));
                    Some(found.ok_or_else(|| {
                        format!("there is no number {key} in a list of {}", values.len())
                    })?)
                }
                _ => return Err(format!("`index` cannot look for {key} there")),
            };
            Ok(found.cloned().unwrap_or_default())
        }),
        ("not", [value]) => Ok(Value::from(!is_true(value))),
        ("and", [first, second]) => Ok(if is_true(first) {
            second.clone()
        } else {
            first.clone()
        }),
        ("or", [first, second]) => Ok(if is_true(first) {
            first.clone()
        } else {
            second.clone()
        }),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Ok(Value::from(rest.contains(first))),
        ("ne", [first, second]) => Ok(Value::from(first != second)),
        ("gt" | "lt" | "ge" | "le", [first, second]) => compare(name, first, second),
        (_, _) => Err(format!(
            "`{name}` is no function here, or takes something else; there are json, index, len, upper, lower, join, split, \
             truncate, println, eq, ne, lt, le, gt, ge, and, or, not"
        )),
    }
}

fn compare(name: &str, first: &Value, second: &Value) -> Result<Value, String> {
    let order = match (first, second) {
        (Value::Number(first), Value::Number(second)) => {
            first.as_f64().partial_cmp(&second.as_f64())
        }
        (Value::String(first), Value::String(second)) => Some(first.cmp(second)),
        _ => None,
    };
    let order = order.ok_or_else(|| format!("`{name}` needs two numbers or two texts"))?;
    Ok(Value::from(match name {
        "gt" => order.is_gt(),
        "lt" => order.is_lt(),
        "ge" => order.is_ge(),
        _ => order.is_le(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(text: &str) -> Result<String, String> {
        let value = json!({
            "Name": "web", "State": { "Status": "running", "Pid": 7, "Error": "" },
            "Labels": { "a.b": "c", "team": "web" }, "Args": ["x", "y z"], "Empty": null,
            "Mounts": [{ "Source": "/a", "RW": true }, { "Source": "/b", "RW": false }],
        });
        Template::parse(text)?.render(&value)
    }

    #[test]
    fn what_people_type_is_filled_in() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.Name}}", "web"),
            ("{{ .State.Status }}/{{.State.Pid}}", "running/7"),
            (
                "{{json .State}}",
                r#"{"Error":"","Pid":7,"Status":"running"}"#,
            ),
            ("{{.Args}} {{.Labels}}", "[x y z] map[a.b:c team:web]"),
            (
                "{{index .Labels \"a.b\"}}{{index .Labels `none`}}",
                "c<no value>",
            ),
            ("{{(index .Mounts 1).Source}}", "/b"),
            ("{{index .Args 0 | upper}}", "X"),
            ("{{len .Mounts}}{{.Label \"team\"}}", "2web"),
            ("{{range .Mounts}}{{.Source}};{{end}}", "/a;/b;"),
            (
                "{{range $i, $m := .Mounts}}{{$i}}{{$m.RW}}{{$.Name}} {{end}}",
                "0trueweb 1falseweb ",
            ),
            (
                "{{range $k, $v := .Labels}}{{$k}}={{$v}},{{end}}",
                "a.b=c,team=web,",
            ),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            (
                "{{if .State.Error}}bad{{else if eq .Name \"web\"}}good{{else}}other{{end}}",
                "good",
            ),
            ("{{with .State}}{{.Pid}}{{end}}{{with .Empty}}x{{end}}", "7"),
            (
                "{{join .Args \",\"}} {{split .Name \"e\"}} {{truncate .Name 2}}",
                "x,y z [w b] we",
            ),
            ("{{if and (gt .State.Pid 5) (not .Empty)}}y{{end}}", "y"),
            ("a {{- .Name -}} b{{/* a remark */}}", "awebb"),
            ("{{.Empty}} {{.Empty.More}}", "<no value> <no value>"),
            ("{{println .Name}}{{\"te\\\"xt\"}}", "web\nte\"xt"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for template in [
            "{{.Name",
            "{{}}",
            "{{.Nothing}}",
            "{{.Name.More}}",
            "{{end}}",
            "{{if .Name}}",
            "{{else}}",
            "{{range .Name}}{{end}}",
            "{{nope .Name}}",
            "{{index .Args 9}}",
            "{{index .Name 1}}",
            "{{.Name .Args}}",
            "{{$x}}",
            "{{\"open}}",
            "{{(.Name}}",
            "{{.Name | }}",
            "{{len 3}}",
            "{{if .Name}}{{else}}{{else}}{{end}}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
    }
}
