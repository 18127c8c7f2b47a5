//! Failures as clients see them.

use std::fmt::Display;

use http::StatusCode;
use serde_json::{Value, json};

use crate::blobs::BlobError;
use crate::blobs::upload::UploadError;
use crate::index::IndexError;

/// An answer that is not what was asked for.
#[derive(Debug)]
#[must_use]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    /// Apart, because most answers are no failures and should not be as large as one.
    details: Box<Details>,
}

#[derive(Debug)]
struct Details {
    code: &'static str,
    message: String,
    detail: Option<Value>,
    headers: Vec<(&'static str, String)>,
    cause: Option<String>,
    closes: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let details = Box::new(Details {
            code,
            message: message.into(),
            detail: None,
            headers: Vec::new(),
            cause: None,
            closes: false,
        });
        Self { status, details }
    }

    pub(crate) fn with_detail(mut self, detail: Value) -> Self {
        self.details.detail = Some(detail);
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.headers.push((name, value.into()));
        self
    }

    /// The connection ends with the answer.
    pub(crate) fn closing(mut self) -> Self {
        self.details.closes = true;
        self
    }

    /// Whether the connection ends with the answer.
    pub(crate) fn closes(&self) -> bool {
        self.details.closes
    }

    /// Headers beside the usual ones.
    pub(crate) fn headers(&self) -> &[(&'static str, String)] {
        &self.details.headers
    }

    /// What goes into the log and to nobody else.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.details.cause.as_deref()
    }

    /// The body.
    pub(crate) fn body(&self) -> String {
        let details = &self.details;
        let mut error = json!({ "code": details.code, "message": details.message });
        if let Some(detail) = &details.detail {
            error["detail"] = detail.clone();
        }
        json!({ "errors": [error] }).to_string()
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "UNSUPPORTED",
            "there is nothing at this path",
        )
    }

    pub(crate) fn method(allowed: &str) -> Self {
        let message = format!("this method does not fit the path; these do: {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message)
            .with_header("allow", allowed)
    }

    pub(crate) fn name_invalid(why: &dyn Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", why.to_string())
    }

    pub(crate) fn digest_invalid(why: &dyn Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why.to_string())
    }

    pub(crate) fn blob_unknown(digest: &dyn Display) -> Self {
        let message = format!("the repository has no blob {digest}");
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", message)
    }

    pub(crate) fn manifest_unknown(reference: &dyn Display) -> Self {
        let message = format!("the repository has no manifest {reference}");
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message)
    }

    pub(crate) fn name_unknown(name: &dyn Display) -> Self {
        let message = format!("there is no repository {name}");
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
    }

    pub(crate) fn upload_unknown() -> Self {
        let message =
            "there is no such upload: it ended, was given up, or belongs to somebody else";
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", message)
    }

    pub(crate) fn full() -> Self {
        let message = "the registry has no room left on its disk; deleting still works";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "DENIED", message)
    }

    pub(crate) fn too_large(what: &str, limit_bytes: u64) -> Self {
        let message = format!("{what} has more than {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message).closing()
    }

    pub(crate) fn read_only() -> Self {
        let message = "the registry does not take changes at the moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "DENIED", message)
            .with_header("retry-after", "60")
    }

    pub(crate) fn crowded(what: &str) -> Self {
        let message = format!("too many {what} at once; try again in a moment");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "TOOMANYREQUESTS", message)
            .with_header("retry-after", "10")
    }

    /// Something that is not the client's doing.
    pub(crate) fn internal(cause: &dyn Display) -> Self {
        let message = "the registry could not do that; its log says why";
        let mut error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message);
        error.details.cause = Some(cause.to_string());
        error
    }
}

impl From<IndexError> for ApiError {
    fn from(error: IndexError) -> Self {
        match error {
            IndexError::Full => Self::full(),
            IndexError::Closed => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "UNKNOWN",
                "the registry is stopping",
            )
            .with_header("retry-after", "5"),
            error @ IndexError::Unavailable(_) => {
                let message = "the registry cannot reach its database at the moment";
                let mut answer = Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", message)
                    .with_header("retry-after", "5");
                answer.details.cause = Some(error.to_string());
                answer
            }
            error @ (IndexError::Sqlite(_)
            | IndexError::Postgres(_)
            | IndexError::InUse
            | IndexError::Behind
            | IndexError::Address(_)
            | IndexError::Io { .. }
            | IndexError::Format { .. }
            | IndexError::Row(_)) => Self::internal(&error),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        if error.is_full() {
            Self::full()
        } else if error.is_unavailable() {
            let message = "the registry cannot reach its bytes at the moment";
            let mut answer = Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", message)
                .with_header("retry-after", "5");
            answer.details.cause = Some(error.to_string());
            answer
        } else {
            Self::internal(&error)
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Blob(error) if error.is_gone() => {
                let mut answer = Self::upload_unknown();
                answer.details.cause = Some(error.to_string());
                answer
            }
            UploadError::Blob(error) => error.into(),
            UploadError::Index(error) => error.into(),
            UploadError::TakenOver => {
                let message = "another request goes on with this upload";
                Self::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", message)
            }
            UploadError::Crowded => Self::crowded("uploads"),
        }
    }
}
