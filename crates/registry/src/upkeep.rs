//! Work beside serving: collecting, checking, copying.

pub(crate) mod accounts;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod gc;
pub(crate) mod layout;
pub(crate) mod rebuild;

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use crate::log::Log;
use crate::registry::Registry;

/// How often files that nothing knows are looked for: that reads every name.
const ORPHANS_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Collects garbage from time to time until the registry stops.
pub(crate) async fn in_the_background(
    registry: Arc<Registry>,
    log: Arc<Log>,
    mut stop: watch::Receiver<bool>,
) {
    let interval = registry.config.gc.interval.0;
    let mut since_orphans = Duration::ZERO;
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        since_orphans += interval;
        let with_orphans = since_orphans >= ORPHANS_EVERY;
        if with_orphans {
            since_orphans = Duration::ZERO;
        }
        if registry.is_read_only() {
            continue;
        }
        let shared = Arc::clone(&registry);
        let outcome =
            tokio::task::spawn_blocking(move || gc::collect_in_turn(&shared, with_orphans)).await;
        match outcome {
            Ok(Ok(report)) if report == gc::Collected::default() => {}
            Ok(Ok(report)) => log.event(&registry, "collected", json!(report)),
            Ok(Err(error)) => log.event(&registry, "collection failed", json!(error.to_string())),
            Err(stopped) => log.event(&registry, "collection failed", json!(stopped.to_string())),
        }
    }
}

/// Waits for something that is usually awaited. For threads that may block.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    struct Bell(Mutex<bool>, Condvar);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.1.notify_one();
        }
    }
    let bell = Arc::new(Bell(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(Arc::clone(&bell));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut rung = bell.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            rung = bell.1.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
        *rung = false;
    }
}
