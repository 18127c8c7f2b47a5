//! What monitoring asks.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use super::error::ApiError;
use super::{Answer, Asked, finish, json, plain};

/// The process runs.
pub(super) fn health(asked: &Asked) -> Answer {
    asked.only_reads()?;
    json(&json!({ "status": "ok" }))
}

/// The registry can do its work.
pub(super) async fn ready(asked: &Asked) -> Answer {
    asked.only_reads()?;
    let registry = &asked.registry;
    registry.index.repositories("", 1).await?;
    registry.blobs.answers().await?;
    let mut state = json!({ "status": "ok", "read-only": asked.is_read_only() });
    if let Some(room) = registry.blobs.room()? {
        state["free-bytes"] = json!(room.free_bytes);
    }
    json(&state)
}

/// Numbers for Prometheus; for administrators where accounts are needed, or from this machine.
pub(super) async fn metrics(asked: &Asked) -> Answer {
    asked.only_reads()?;
    let registry = &asked.registry;
    let proxied = registry.config.access.behind_tls_proxy;
    if registry.access.needs_login && (proxied || !asked.peer.address.is_loopback()) {
        let caller = asked.identify().await?;
        if !caller.is_known() {
            return Err(asked.challenge(None));
        }
        if !caller.admin {
            let message = "the numbers are for administrators";
            return Err(ApiError::new(StatusCode::FORBIDDEN, "DENIED", message));
        }
    }
    let totals = registry.index.totals().await?;
    let text = registry.metrics.render(
        &totals,
        registry.uploads.count(),
        registry.blobs.room()?.map(|room| room.free_bytes),
    );
    let head = plain(StatusCode::OK).header(CONTENT_TYPE, "text/plain; version=0.0.4");
    finish(head, text.into())
}
