//! A proxy below HTTP that cuts connections in the middle of what the client sends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The proxy; it stops taking connections when it is dropped.
pub(crate) struct CuttingProxy {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    /// How many connections were cut.
    pub(crate) cuts: Arc<AtomicUsize>,
}

impl CuttingProxy {
    /// Starts one before `target`; each entry of `plan` cuts one connection after so many bytes of the
    /// client's, if it sends so many.
    pub(crate) fn start(target: SocketAddr, plan: Vec<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, cuts) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&cuts));
        let plan = Arc::new(Mutex::new(plan));
        thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (plan, cuts) = (Arc::clone(&plan), Arc::clone(&counted));
                // A connection that breaks is what this is about.
                thread::spawn(move || forward(client?, target, &plan, &cuts));
            }
        });
        Self {
            address,
            stop,
            cuts,
        }
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        drop(TcpStream::connect(self.address));
    }
}

fn forward(
    client: TcpStream,
    target: SocketAddr,
    plan: &Mutex<Vec<u64>>,
    cuts: &AtomicUsize,
) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    let (mut back, mut to) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let copied = io::copy(&mut back, &mut to);
        to.shutdown(Shutdown::Both).and(copied)
    });
    let (mut client, mut server) = (client, server);
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    loop {
        let read = client.read(&mut buffer)?;
        if read == 0 {
            return server.shutdown(Shutdown::Write);
        }
        server.write_all(&buffer[..read])?;
        passed += read as u64;
        let mut plan = plan.lock().unwrap();
        if plan.first().is_some_and(|limit| passed >= *limit) {
            plan.remove(0);
            cuts.fetch_add(1, Ordering::SeqCst);
            server.shutdown(Shutdown::Both)?;
            return client.shutdown(Shutdown::Both);
        }
    }
}
