//! Failures as the user meets them: a class, a report, an exit code.

use std::io;

use kiln_build::BuildError;
use kiln_image::ImageError;
use kiln_sandbox::EnterError;
use kiln_store::StoreError;
use miette::{Diagnostic, Report};
use thiserror::Error;

use crate::shortage;

/// What a verb returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Who can do something about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The manifest, the lock, an argument or the user's own command.
    User,
    /// The kernel, the disk or the network.
    Environment,
    /// Standard output was closed by its reader: nothing to say to anyone.
    BrokenPipe,
    /// Whoever started kiln asked it to stop.
    Interrupted,
    /// kiln itself.
    Bug,
}

impl Class {
    /// The exit code of the class (design, section 10).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Environment => 3,
            Self::BrokenPipe => 0,
            Self::Bug => 70,
            Self::Interrupted => crate::signals::exit_code(),
        }
    }
}

/// Why a verb did not do what it was asked to.
#[derive(Debug)]
#[must_use]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) report: Report,
    /// The exit code, where it is not that of the class.
    pub(crate) code: Option<u8>,
    /// What is to be read before the report, such as the last lines of a step.
    pub(crate) preface: String,
}

impl Failure {
    /// A report in a class.
    pub(crate) fn new(class: Class, report: Report) -> Self {
        Self {
            class,
            report,
            code: None,
            preface: String::new(),
        }
    }

    /// The same failure with something to read before it.
    pub(crate) fn with_preface(mut self, preface: String) -> Self {
        self.preface = preface;
        self
    }

    /// Something the user can put right.
    pub(crate) fn user(error: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self::new(Class::User, Report::new(error))
    }

    /// Something the machine does not give.
    pub(crate) fn environment(error: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self::new(Class::Environment, Report::new(error))
    }

    /// A build that could not be done at all.
    pub(crate) fn of_build(error: BuildError) -> Self {
        match error {
            BuildError::Files(_) | BuildError::TooManySteps { .. } => Self::user(error),
            BuildError::Store(_)
            | BuildError::Image(_)
            | BuildError::Lock(_)
            | BuildError::Project(_)
            | BuildError::Layers(_)
            | BuildError::Emulation(_)
            | BuildError::Thread(_) => Self::environment(error),
        }
    }

    /// A message and what to do about it, which for a shortage is known.
    pub(crate) fn message(class: Class, message: impl Into<String>, help: Option<String>) -> Self {
        let message = message.into();
        let help = help.or_else(|| shortage::help(&message).map(str::to_owned));
        Self::new(class, Report::new(Message { message, help }))
    }

    /// Any error of a library with its causes, in the class the caller knows it belongs to.
    pub(crate) fn from_error(
        class: Class,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::message(class, kiln_build::chain(&error), None)
    }

    /// The same failure with an exit code of its own.
    pub(crate) fn with_code(mut self, code: i32) -> Self {
        self.code = u8::try_from(code).ok();
        self
    }

    /// A failure to write what was asked for, to standard output or where it goes instead.
    pub(crate) fn output(error: io::Error) -> Self {
        let class = if error.kind() == io::ErrorKind::BrokenPipe {
            Class::BrokenPipe
        } else {
            Class::Environment
        };
        let message = format!("cannot write the output: {error}");
        Self::new(
            class,
            Report::new(Message {
                message,
                help: None,
            }),
        )
    }
}

/// Errors of libraries that say by themselves who can do something about them.
pub(crate) trait Classify {
    /// The class.
    fn class(&self) -> Class;
}

impl<E: Classify + std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::from_error(error.class(), error)
    }
}

impl Classify for StoreError {
    fn class(&self) -> Class {
        match self {
            Self::NotAStore { .. }
            | Self::Missing { .. }
            | Self::Exists { .. }
            | Self::Ambiguous { .. }
            | Self::VolumeOf { .. }
            | Self::InUse { .. }
            | Self::NotText(_)
            | Self::Name(_) => Class::User,
            Self::Io { .. }
            | Self::DiskFull { .. }
            | Self::Foreign { .. }
            | Self::NewerFormat { .. }
            | Self::Damaged { .. }
            | Self::Verify { .. }
            | Self::TooLarge { .. }
            | Self::Source(_)
            | Self::Document { .. } => Class::Environment,
            Self::Cancelled { .. } => Class::Interrupted,
        }
    }
}

impl Classify for ImageError {
    fn class(&self) -> Class {
        match self {
            // Bytes that are checked on their way in come from the user's archive.
            Self::Store(StoreError::Verify { .. } | StoreError::TooLarge { .. })
            | Self::NotFound(_)
            | Self::Ambiguous { .. }
            | Self::NoPlatform { .. }
            | Self::TooManyLayers { .. }
            | Self::Archive { .. }
            | Self::Unpack { .. }
            | Self::DiffId { .. }
            | Self::NotALayer { .. }
            | Self::Read { .. } => Class::User,
            Self::Document { .. }
            | Self::NotAnImage { .. }
            | Self::TooDeep { .. }
            | Self::LayerCount { .. }
            | Self::MissingLayer(_)
            | Self::MissingBlob { .. }
            | Self::DamagedLayer { .. }
            | Self::OtherTar { .. }
            | Self::Flatten(_)
            | Self::Tree(_)
            | Self::Scratch { .. }
            | Self::Write(_) => Class::Environment,
            Self::Store(error) => error.class(),
        }
    }
}

impl Classify for kiln_client::Error {
    fn class(&self) -> Class {
        if self.is_cancelled() {
            Class::Interrupted
        } else if self.is_askers() {
            Class::User
        } else {
            Class::Environment
        }
    }
}

impl Classify for kiln_client::CredentialsError {
    fn class(&self) -> Class {
        match self {
            Self::File { .. } | Self::NoHelper { .. } => Class::User,
            Self::Write { .. } | Self::Helper { .. } => Class::Environment,
            Self::Cancelled(_) => Class::Interrupted,
        }
    }
}

impl Classify for kiln_client::LoginError {
    fn class(&self) -> Class {
        match self {
            Self::Name { .. }
            | Self::UserName
            | Self::Refused { .. }
            | Self::NotARegistry { .. }
            | Self::Scheme { .. } => Class::User,
            Self::Http { .. } => Class::Environment,
            Self::Cancelled(_) => Class::Interrupted,
        }
    }
}

impl Classify for kiln_registry::RegistryError {
    fn class(&self) -> Class {
        match self {
            Self::InUse { .. } | Self::Missing { .. } | Self::Refused(_) => Class::User,
            Self::Io { .. } | Self::Index(_) | Self::Network(_) => Class::Environment,
        }
    }
}

impl Classify for kiln_registry::ConfigError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Classify for EnterError {
    fn class(&self) -> Class {
        Class::Environment
    }
}

/// An error that is its message.
#[derive(Debug, Diagnostic, Error)]
#[error("{message}")]
struct Message {
    message: String,
    #[help]
    help: Option<String>,
}
