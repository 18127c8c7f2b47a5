//! Cuts connections to a database where it hurts.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Passes bytes on to the database, and cuts every third connection that commits: before the
/// commit is passed on, or afterwards and before its answer.
pub(super) struct Proxy {
    pub(super) url: String,
    pub(super) cuts: std::sync::Arc<AtomicU64>,
}

impl Proxy {
    pub(super) fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (before, after) = url.rsplit_once(':').unwrap();
        let (old, name) = after.split_once('/').unwrap();
        let target = format!("127.0.0.1:{old}");
        let cuts = std::sync::Arc::new(AtomicU64::new(0));
        let proxy = Self {
            url: format!("{before}:{port}/{name}"),
            cuts: std::sync::Arc::clone(&cuts),
        };
        let commits = std::sync::Arc::new(AtomicU64::new(0));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&target).unwrap());
                let (mut answers, mut back) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || {
                    if std::io::copy(&mut answers, &mut back).is_err() {
                        // One of the two went away.
                    }
                    drop(back.shutdown(std::net::Shutdown::Both));
                });
                let (cuts, commits) = (cuts.clone(), commits.clone());
                thread::spawn(move || pass_on(client, server, &cuts, &commits));
            }
        });
        proxy
    }
}

pub(super) fn pass_on(
    mut client: TcpStream,
    mut server: TcpStream,
    cuts: &AtomicU64,
    commits: &AtomicU64,
) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read) = client.read(&mut buffer) {
        let bytes = &buffer[..read];
        let commits_now = bytes.windows(6).any(|text| text == b"COMMIT");
        let count = match commits_now {
            true => commits.fetch_add(1, Ordering::Relaxed),
            false => 0,
        };
        let cut_before = commits_now && count % 6 == 2;
        let cut_after = commits_now && count % 6 == 5;
        if cut_after {
            // The answer has nowhere to go.
            drop(client.shutdown(std::net::Shutdown::Both));
        }
        if cut_before || cut_after {
            cuts.fetch_add(1, Ordering::Relaxed);
        }
        if read == 0 || cut_before || server.write_all(bytes).is_err() || cut_after {
            break;
        }
    }
    // What was passed on is done before the server hears of the end.
    drop(server.shutdown(std::net::Shutdown::Write));
    drop(client.shutdown(std::net::Shutdown::Both));
}
