//! Everything kiln can say about a manifest.
//!
//! One variant is one diagnostic: a message (what is wrong), labels (where) and help
//! (what to do). Errors and warnings are the same type and differ in severity. Each
//! code has a rendered example under `tests/manifests/`.

use miette::{Diagnostic, Severity, SourceSpan};
use thiserror::Error;

/// One thing that is wrong, or looks wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[must_use]
pub enum Problem {
    /// The text is not TOML.
    #[error("the file is not valid TOML: {reason}")]
    #[diagnostic(code(manifest::syntax))]
    Syntax {
        /// What the TOML parser says.
        reason: String,
        /// Where it stopped understanding.
        #[label("here")]
        at: SourceSpan,
        /// What to do.
        #[help]
        help: String,
    },

    /// The file is larger than kiln reads.
    #[error("the file has {size_bytes} bytes; a manifest has at most {limit_bytes}")]
    #[diagnostic(
        code(manifest::too_large),
        help("move long texts to files and take them in with `copy`")
    )]
    TooLarge {
        /// What it has.
        size_bytes: usize,
        /// What is read.
        limit_bytes: usize,
    },

    /// More problems than anyone wants to see at once.
    #[error("there are {more} more problems")]
    #[diagnostic(
        code(manifest::too_many),
        help("correct the ones above, then look again")
    )]
    TooMany {
        /// How many are not shown.
        more: usize,
    },

    /// A key that its table does not have.
    #[error("unknown key `{key}` in {table}")]
    #[diagnostic(code(manifest::unknown_key))]
    UnknownKey {
        /// The key.
        key: String,
        /// What the table is.
        table: &'static str,
        /// The key.
        #[label("not a key of {table}")]
        at: SourceSpan,
        /// The nearest key, or all of them.
        #[help]
        help: String,
    },

    /// A key that a later version will have.
    #[error("`{key}` is not supported yet by this version of kiln")]
    #[diagnostic(code(manifest::not_supported_yet))]
    NotSupportedYet {
        /// The key.
        key: String,
        /// The key.
        #[label("not supported yet")]
        at: SourceSpan,
        /// What to do until then.
        #[help]
        help: String,
    },

    /// A value of another type than the key takes.
    #[error("expected {expected}, found {found}")]
    #[diagnostic(code(manifest::wrong_type))]
    WrongType {
        /// What the key takes.
        expected: &'static str,
        /// What is there.
        found: &'static str,
        /// The value.
        #[label("{found}")]
        at: SourceSpan,
        /// What to write.
        #[help]
        help: String,
    },

    /// A key without which its table says nothing.
    #[error("the key `{key}` is missing in {table}")]
    #[diagnostic(code(manifest::missing_key))]
    MissingKey {
        /// The key.
        key: String,
        /// What the table is.
        table: &'static str,
        /// The table.
        #[label("`{key}` belongs here")]
        at: SourceSpan,
        /// What to add.
        #[help]
        help: String,
    },

    /// A value that is none.
    #[error("`{value}` {reason}")]
    #[diagnostic(code(manifest::invalid_value))]
    InvalidValue {
        /// The value, cut to a length that fits.
        value: String,
        /// What is wrong with it.
        reason: String,
        /// The value.
        #[label("{origin}")]
        at: SourceSpan,
        /// Says if variables were applied.
        origin: &'static str,
        /// What to write.
        #[help]
        help: String,
    },

    /// A schema that this version does not read.
    #[error("schema {found} is not known to this version of kiln, which reads schema 1")]
    #[diagnostic(
        code(manifest::unknown_schema),
        help("write `schema = 1`, or use the kiln this file was written for")
    )]
    UnknownSchema {
        /// What the file says.
        found: String,
        /// The number.
        #[label("here")]
        at: SourceSpan,
    },

    /// A list or table that must say something.
    #[error("{what} is empty")]
    #[diagnostic(code(manifest::empty))]
    Empty {
        /// What it is.
        what: String,
        /// The empty value.
        #[label("nothing in here")]
        at: SourceSpan,
        /// What to do.
        #[help]
        help: String,
    },

    /// A step that does nothing.
    #[error("the step `{step}` has no action")]
    #[diagnostic(code(manifest::no_action))]
    NoAction {
        /// The step.
        step: String,
        /// Its table.
        #[label("does nothing")]
        at: SourceSpan,
        /// The actions.
        #[help]
        help: String,
    },

    /// A step that does two things.
    #[error("the step `{step}` has two actions, `{first}` and `{second}`")]
    #[diagnostic(
        code(manifest::two_actions),
        help(
            "make a second step of one of them; if it has to come after this one, give it `needs = [\"{step}\"]`"
        )
    )]
    TwoActions {
        /// The step.
        step: String,
        /// The action that comes first in the file.
        first: String,
        /// The other.
        second: String,
        /// Key of the first.
        #[label("one action")]
        first_at: SourceSpan,
        /// Key of the second.
        #[label("another one")]
        second_at: SourceSpan,
    },

    /// A key that belongs to `run` in a step that does something else.
    #[error("`{key}` has no meaning for `{action}`")]
    #[diagnostic(
        code(manifest::misplaced_key),
        help("remove `{key}`: it says how a `run` step runs")
    )]
    MisplacedKey {
        /// The key.
        key: String,
        /// The step's action.
        action: String,
        /// The key.
        #[label("belongs to `run`")]
        at: SourceSpan,
        /// The action.
        #[label("but this step is a `{action}`")]
        action_at: SourceSpan,
    },

    /// Two keys of which only one can stand.
    #[error("`{first}` and `{second}` exclude each other")]
    #[diagnostic(code(manifest::exclusive_keys), help("remove one of them"))]
    ExclusiveKeys {
        /// The key that comes first in the file.
        first: String,
        /// The other.
        second: String,
        /// Key of the first.
        #[label("this")]
        first_at: SourceSpan,
        /// Key of the second.
        #[label("and this")]
        second_at: SourceSpan,
    },

    /// None of the keys of which one must stand.
    #[error("{table} needs one of {choices}")]
    #[diagnostic(code(manifest::missing_choice))]
    MissingChoice {
        /// What the table is.
        table: &'static str,
        /// The keys.
        choices: String,
        /// The table.
        #[label("none of them is here")]
        at: SourceSpan,
        /// What to add.
        #[help]
        help: String,
    },

    /// A key that says nothing without another one.
    #[error("`{key}` needs `{other}` beside it")]
    #[diagnostic(code(manifest::key_needs_key))]
    KeyNeedsKey {
        /// The key.
        key: &'static str,
        /// The one that is missing.
        other: &'static str,
        /// The key that is there.
        #[label("needs `{other}`")]
        at: SourceSpan,
        /// What to do.
        #[help]
        help: String,
    },

    /// A name that nothing in the file has.
    #[error("there is no {kind} `{name}`")]
    #[diagnostic(code(manifest::unknown_name))]
    UnknownName {
        /// What is named.
        kind: &'static str,
        /// The name.
        name: String,
        /// The name.
        #[label("no such {kind} in this file")]
        at: SourceSpan,
        /// The nearest name, or the table to add.
        #[help]
        help: String,
    },

    /// A name that is both a step and an image.
    #[error("`{name}` is a step of this image and also an image")]
    #[diagnostic(
        code(manifest::ambiguous_name),
        help("write `{image}.{name}` for the step, or rename the step to mean the image")
    )]
    AmbiguousName {
        /// The name.
        name: String,
        /// The image the name is used in.
        image: String,
        /// The name where it is used.
        #[label("which one?")]
        at: SourceSpan,
        /// The step.
        #[label("the step")]
        step_at: SourceSpan,
        /// The image.
        #[label("the image")]
        image_at: SourceSpan,
    },

    /// `needs` with something that is not a sibling.
    #[error("`needs` names `{name}`, which is not a step of the image `{image}`")]
    #[diagnostic(code(manifest::needs_no_sibling))]
    NeedsNoSibling {
        /// What is named.
        name: String,
        /// The image of the step.
        image: String,
        /// The name.
        #[label("not a step beside this one")]
        at: SourceSpan,
        /// What to write.
        #[help]
        help: String,
    },

    /// Something that is made of itself.
    #[error("the {kind} `{name}` {verb} itself")]
    #[diagnostic(code(manifest::self_reference))]
    SelfReference {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What it does with itself.
        verb: &'static str,
        /// The reference.
        #[label("this is the {kind} itself")]
        at: SourceSpan,
        /// What to do.
        #[help]
        help: String,
    },

    /// The same thing twice in a list.
    #[error("`{value}` is given twice in `{key}`")]
    #[diagnostic(code(manifest::duplicate), help("remove one of them"))]
    Duplicate {
        /// What is there twice.
        value: String,
        /// The key it is in.
        key: &'static str,
        /// The first.
        #[label("first here")]
        first_at: SourceSpan,
        /// The second.
        #[label("and again here")]
        second_at: SourceSpan,
    },

    /// Two things at the same place in a container.
    #[error("two {what} at `{target}`")]
    #[diagnostic(code(manifest::same_target), help("give one of them another path"))]
    SameTarget {
        /// What they are.
        what: &'static str,
        /// The place.
        target: String,
        /// The first.
        #[label("one here")]
        first_at: SourceSpan,
        /// The second.
        #[label("another one here")]
        second_at: SourceSpan,
    },

    /// `${arg.…` that is not a variable.
    #[error("`{text}` is not a variable")]
    #[diagnostic(
        code(manifest::invalid_variable),
        help("write `${{arg.NAME}}` or `${{target.NAME}}`; a literal `${{` is written `$${{`")
    )]
    InvalidVariable {
        /// What is there.
        text: String,
        /// Where.
        #[label("starts like a variable")]
        at: SourceSpan,
    },

    /// A variable in a key.
    #[error("variables cannot be used in keys")]
    #[diagnostic(
        code(manifest::variable_in_key),
        help("write the key literally; variables are applied in string values only")
    )]
    VariableInKey {
        /// The key.
        #[label("this is a key")]
        at: SourceSpan,
    },

    /// A variable in the declaration of a variable.
    #[error("variables cannot be used in `[args]`")]
    #[diagnostic(
        code(manifest::variable_in_args),
        help("write the value literally; a literal `${{` is written `$${{`")
    )]
    VariableInArgs {
        /// The value.
        #[label("uses a variable")]
        at: SourceSpan,
    },

    /// A variable of the target where nothing is built for one.
    #[error(
        "variables of the target can only be used in `from`, the steps and the `config` of an image"
    )]
    #[diagnostic(
        code(manifest::misplaced_target),
        help("write the value literally: what stands here is the same for every platform")
    )]
    MisplacedTarget {
        /// The value.
        #[label("uses a variable of the target")]
        at: SourceSpan,
    },

    /// A variable that nobody gave a value.
    #[error("the arg `{name}` has no value")]
    #[diagnostic(
        code(manifest::arg_without_value),
        help(
            "pass `--set {name}=VALUE`, set the environment variable `{variable}`, or give it a `default`"
        )
    )]
    ArgWithoutValue {
        /// The arg.
        name: String,
        /// The environment variable that sets it.
        variable: String,
        /// Its declaration.
        #[label("declared without a default")]
        at: SourceSpan,
    },

    /// `--set` of a variable that is not declared.
    #[error("`--set {name}=…` sets an arg that the manifest does not declare")]
    #[diagnostic(code(manifest::unknown_set))]
    UnknownSet {
        /// The arg.
        name: String,
        /// The nearest arg, or the table to add.
        #[help]
        help: String,
    },

    /// `--profile` that is not in the file.
    #[error("there is no profile `{name}`")]
    #[diagnostic(code(manifest::unknown_profile))]
    UnknownProfile {
        /// The profile.
        name: String,
        /// The nearest profile, or all of them.
        #[help]
        help: String,
    },

    /// A key that a profile cannot change.
    #[error("a profile cannot change `{key}`")]
    #[diagnostic(
        code(manifest::not_in_profile),
        help("move `{key}` out of the profile: it is the same for all of them")
    )]
    NotInProfile {
        /// The key.
        key: String,
        /// The key.
        #[label("not here")]
        at: SourceSpan,
    },

    /// A value that looks secret where it will be kept in the open.
    #[error("`{name}` looks like a secret, and {place}")]
    #[diagnostic(
        code(manifest::secret_in_the_open),
        severity(Warning),
        help(
            "declare a `[secret.NAME]` and name it in `secrets`; its value then never reaches a layer, a log or a cache key"
        )
    )]
    SecretInTheOpen {
        /// The name.
        name: String,
        /// Why that is bad.
        place: &'static str,
        /// The name.
        #[label("looks like a secret")]
        at: SourceSpan,
    },

    /// A pattern that takes the file of a secret.
    #[error("`files` takes `{path}`, which holds the secret `{secret}`")]
    #[diagnostic(
        code(manifest::secret_file_taken),
        severity(Warning),
        help("add `\"!{pattern}\"` to `files`, or keep the secret outside of this folder")
    )]
    SecretFileTaken {
        /// The secret.
        secret: String,
        /// Its file.
        path: String,
        /// Its file as the set's patterns see it.
        pattern: String,
        /// The pattern.
        #[label("takes it")]
        at: SourceSpan,
        /// The secret's `file`.
        #[label("the secret's file")]
        secret_at: SourceSpan,
    },

    /// A declaration that nothing uses.
    #[error("the {kind} `{name}` is never used")]
    #[diagnostic(
        code(manifest::unused),
        severity(Warning),
        help("use it or remove the table")
    )]
    Unused {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Its declaration.
        #[label("nothing refers to this")]
        at: SourceSpan,
    },

    /// A text that was probably meant to be a variable.
    #[error("`{text}` is not a variable of kiln and stays as it is")]
    #[diagnostic(
        code(manifest::looks_like_variable),
        severity(Warning),
        help("write `{meant}` for the arg, or `$${{…}}` if it is meant literally")
    )]
    LooksLikeVariable {
        /// What is there.
        text: String,
        /// What was probably meant.
        meant: String,
        /// Where.
        #[label("stays as it is")]
        at: SourceSpan,
    },

    /// A file name given twice, once as a folder.
    #[error("this makes a folder `{to}` with `{file}` in it")]
    #[diagnostic(
        code(manifest::folder_like_file),
        severity(Warning),
        help(
            "`to` is always a folder for `files`: to get `{to}` itself, write the folder above it; to mean this, end `to` with `/`"
        )
    )]
    FolderLikeFile {
        /// The destination.
        to: String,
        /// The file.
        file: String,
        /// The destination.
        #[label("has the name of the file")]
        at: SourceSpan,
    },

    /// An environment variable for a variable that is not declared.
    #[error("the environment variable `{variable}` sets no arg of this manifest")]
    #[diagnostic(code(manifest::unknown_environment), severity(Warning))]
    UnknownEnvironment {
        /// The environment variable.
        variable: String,
        /// The nearest arg, or what to do.
        #[help]
        help: String,
    },
}

impl Problem {
    /// Whether the manifest cannot be used because of this.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity()
            .is_none_or(|severity| severity == Severity::Error)
    }

    /// Where its first label points; `None` if it is not about a place in the text.
    #[must_use]
    pub fn place(&self) -> Option<SourceSpan> {
        self.places().first().copied()
    }

    /// Where its labels point.
    #[must_use]
    pub fn places(&self) -> Vec<SourceSpan> {
        let labels = self.labels().into_iter().flatten();
        labels.map(|label| *label.inner()).collect()
    }
}
