//! Clients that send or take next to nothing, of what is in an object store: what they hold is bounded.

use std::io::Read as _;
use std::net::TcpStream;

use super::hostile::memory;
use super::object_store::{bytes, pull};
use crate::fixtures::ObjectStore;
use crate::fixtures::http;
use crate::fixtures::own_registry::{OwnRegistry, sha256};
use crate::space::TestSpace;

#[test]
fn uploads_that_stand_still_give_their_memory_to_others() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    // Nobody is let go for being slow.
    let settings = format!("{}[limits]\nleast-rate = 0\n", store.settings());
    let registry = OwnRegistry::start(&space, &settings);
    let blob = bytes(60 << 20, 11);
    let length = blob.len().to_string();
    // Each could fill what a tenth of the memory is set aside for, and does not.
    let slow: Vec<_> = (0..25)
        .map(|_| {
            let place = registry.begin("slow");
            let mut stream = http::connect(&registry.host()).expect("a connection");
            let headers = [("Content-Length", length.as_str())];
            http::send(
                &mut stream,
                &registry.host(),
                "PATCH",
                &place,
                &headers,
                &blob[..100_000],
            )
            .expect("a part of a body");
            (place, stream)
        })
        .collect();
    let large = bytes(20 << 20, 12);
    let digest = registry.blob("a", &large);
    assert_eq!(pull(&registry, "a", &digest), large);
    // One that was slow goes on where it was, in the same request.
    let (place, mut stream) = slow.into_iter().next().expect("one");
    std::io::Write::write_all(&mut stream, &blob[100_000..]).expect("the rest");
    let reply = http::read_reply(&mut stream, "PATCH").expect("an answer");
    assert_eq!(reply.status, 202, "{}", reply.shown());
    let digest = sha256(&blob);
    registry
        .ask("PUT", &format!("{place}?digest={digest}"), &[], b"")
        .expect(201);
    assert_eq!(pull(&registry, "slow", &digest), blob);
    registry.admin(&space, &["check"]).assert_code(0);
}

#[test]
fn readers_that_stand_still_give_their_memory_to_others() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let registry = OwnRegistry::start(&space, &store.settings());
    let blob = bytes(12 << 20, 13);
    let digest = registry.blob("a", &blob);
    let path = format!("/v2/a/blobs/{digest}");
    // More than can have an object open, and each could hold some MiB of it.
    let ask = |_| {
        let mut stream = http::connect(&registry.host()).expect("a connection");
        http::send(&mut stream, &registry.host(), "GET", &path, &[], b"").expect("a request");
        stream
    };
    let mut slow: Vec<TcpStream> = (0..300).map(ask).collect();
    // Each of them has its turn, and then does not take what it could have.
    for stream in &slow {
        assert_eq!(stream.peek(&mut [0]).expect("an answer"), 1);
    }
    let used = memory(&registry);
    assert!(used < 120 << 20, "{} MiB", used >> 20);
    assert_eq!(pull(&registry, "a", &digest), blob);
    // One that was slow gets the rest, and all of it is right.
    let mut late = slow.swap_remove(7);
    let reply = http::read_reply(&mut late, "GET").expect("an answer");
    assert!(reply.status == 200 && reply.body == blob, "other bytes");
    // So does one that never takes much at a time.
    let mut slowly = slow.swap_remove(8);
    let (mut all, mut piece) = (Vec::new(), vec![0; 700_000]);
    loop {
        let count = slowly.read(&mut piece).expect("more of it");
        if count == 0 {
            break;
        }
        all.extend_from_slice(&piece[..count]);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(all.ends_with(&blob), "{} bytes", all.len());
    let metrics = String::from_utf8(registry.get("/metrics").expect(200).body).expect("text");
    assert!(metrics.contains("damaged_reads_total 0\n"), "{metrics}");
}
