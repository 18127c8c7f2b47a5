//! Addresses of hosts, remembered for a while.
//!
//! A host is looked up once, whoever asks: hundreds of small files from one server would else be
//! hundreds of questions, which some name servers answer with silence.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::POLL;

/// How long an answer is good. Short, so that a host that moves is found again by a later request.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// What is known of hosts, by name and port.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<BTreeMap<(String, u16), Entry>>,
    changed: Condvar,
}

#[derive(Debug)]
enum Entry {
    /// Somebody asks.
    Asked,
    Known {
        addresses: Vec<SocketAddr>,
        since: Instant,
    },
}

impl Names {
    /// Returns the addresses of `host`, by `ask` if nobody has asked lately.
    ///
    /// While another thread asks, `check` is called now and then.
    ///
    /// # Errors
    /// Those of `ask`, which are not remembered, and of `check`.
    pub(crate) fn get<E>(
        &self,
        host: &str,
        port: u16,
        check: impl Fn() -> Result<(), E>,
        ask: impl FnOnce() -> Result<Vec<SocketAddr>, E>,
    ) -> Result<Vec<SocketAddr>, E> {
        let key = (host.to_owned(), port);
        let mut known = self.known();
        loop {
            match known.get(&key) {
                Some(Entry::Known { addresses, since }) if since.elapsed() < GOOD_FOR => {
                    return Ok(addresses.clone());
                }
                Some(Entry::Asked) => {
                    check()?;
                    let waited = self.changed.wait_timeout(known, POLL);
                    (known, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
                Some(Entry::Known { .. }) | None => break,
            }
        }
        known.insert(key.clone(), Entry::Asked);
        drop(known);
        let mut asking = Asking {
            names: self,
            key,
            answer: None,
        };
        let addresses = ask()?;
        asking.answer = Some(addresses.clone());
        Ok(addresses)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<(String, u16), Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the others when the question is answered or given up, also by a panic.
struct Asking<'a> {
    names: &'a Names,
    key: (String, u16),
    answer: Option<Vec<SocketAddr>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut known = self.names.known();
        match self.answer.take() {
            Some(addresses) => {
                let since = Instant::now();
                known.insert(self.key.clone(), Entry::Known { addresses, since });
            }
            None => {
                known.remove(&self.key);
            }
        }
        self.names.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn many_threads_ask_once() {
        let names = Names::default();
        let asked = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let found = names.get(
                        "host",
                        80,
                        || Ok::<(), Infallible>(()),
                        || {
                            asked.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            Ok(vec![SocketAddr::from(([127, 0, 0, 1], 80))])
                        },
                    );
                    assert_eq!(found.unwrap().len(), 1);
                });
            }
        });
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_not_remembered_and_another_port_is_another_question() {
        let names = Names::default();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let get = |port, answer| names.get("host", port, || Ok(()), || answer);
        assert_eq!(get(80, Err("silence")), Err("silence"));
        assert_eq!(get(80, Ok(vec![address(80)])), Ok(vec![address(80)]));
        assert_eq!(get(80, Err("not asked")), Ok(vec![address(80)]));
        assert_eq!(get(81, Ok(vec![address(81)])), Ok(vec![address(81)]));
    }

    #[test]
    fn who_waits_can_give_up() {
        let names = Names::default();
        std::thread::scope(|scope| {
            let (asked, hears) = std::sync::mpsc::channel();
            let (answer, waits) = std::sync::mpsc::channel::<()>();
            let names = &names;
            scope.spawn(move || {
                let found = names.get(
                    "host",
                    80,
                    || Ok::<(), &str>(()),
                    || {
                        asked.send(()).unwrap();
                        assert!(waits.recv().is_err());
                        Err("late")
                    },
                );
                assert_eq!(found, Err("late"));
            });
            hears.recv().unwrap();
            let given_up = names.get("host", 80, || Err("cancelled"), || Err("asked twice"));
            assert_eq!(given_up, Err("cancelled"));
            drop(answer);
        });
    }
}
