//! What is fuzzed here: whatever reads what containers, their callers and the machine say about networks, each with what must hold.
//!
//! Each function takes any bytes and panics if something does not hold. They are targets in `fuzz/containers`, and run as
//! property tests here, so that they mean something without a fuzzer too.

use simple_dns::Packet;

use crate::Resolvers;
use crate::names::answer::{Carrier, Reaction, failure, react};
use crate::names::zone::View;
use crate::netlink;
use crate::port::Publish;

/// Questions about names: an answer is one, belongs to the question, and is no longer than may be sent.
pub fn question(bytes: &[u8]) {
    for asks_outside in [false, true] {
        let view = View::example(asks_outside);
        for carrier in [Carrier::Datagram, Carrier::Connection] {
            let Reaction::Reply(answer) = react(bytes, &view, carrier) else {
                continue;
            };
            assert!(answer.len() <= usize::from(u16::MAX));
            assert_eq!(
                answer.get(..2),
                bytes.get(..2),
                "it is about another question"
            );
            assert!(Packet::parse(&answer).is_ok());
        }
    }
    if let Some(answer) = failure(bytes) {
        assert!(Packet::parse(&answer).is_ok());
    }
}

/// `resolv.conf`: what a container is told is read as it was meant.
pub fn resolvers(bytes: &[u8]) {
    let read = Resolvers::parse(&String::from_utf8_lossy(bytes));
    let server = [127, 0, 0, 11].into();
    let again = Resolvers::parse(&read.for_container(server));
    assert_eq!(again.servers, [(server, 53).into()]);
    assert_eq!((again.search, again.options), (read.search, read.options));
}

/// Ports as they are typed: as many here as there.
pub fn publish(bytes: &[u8]) {
    if let Ok(publish) = Publish::parse(&String::from_utf8_lossy(bytes)) {
        let (first, last) = publish.container;
        assert!(0 < first && first <= last);
        if let Some((from, to)) = publish.host {
            assert!(from <= to);
        }
    }
}

/// What the kernel says over netlink.
pub fn kernel(bytes: &[u8]) {
    netlink::examine(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::{CLASS, Name, QCLASS, QTYPE, Question, TYPE};

    use super::*;

    fn asked(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = Name::new(name).expect("a name");
        let question = Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false);
        packet.questions.push(question);
        packet.build_bytes_vec().expect("a packet")
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            question(&bytes);
            resolvers(&bytes);
            publish(&bytes);
            kernel(&bytes);
        }

        #[test]
        fn almost_questions_will_do(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
            cut in any::<prop::sample::Index>(),
        ) {
            for (name, kind) in [("db", TYPE::A), ("2.0.90.10.in-addr.arpa", TYPE::PTR), ("example.com", TYPE::AAAA)] {
                let mut bytes = asked(name, kind);
                for (place, new) in &edits {
                    let at = place.index(bytes.len());
                    bytes[at] = *new;
                }
                question(&bytes);
                question(&bytes[..cut.index(bytes.len())]);
            }
        }

        #[test]
        fn almost_settings_will_do(text in "((nameserver|search|options|domain|#|;)[ \t]{0,2}[a-z0-9.:%# ]{0,12}\n){0,6}") {
            resolvers(text.as_bytes());
        }

        #[test]
        fn almost_ports_will_do(text in "([0-9.\\[\\]:]{0,12}:)?[0-9]{0,6}(-[0-9]{0,6})?:?[0-9]{0,6}(-[0-9]{0,6})?(/(tcp|udp|x))?") {
            publish(text.as_bytes());
        }
    }

    #[test]
    fn names_of_containers_are_answered() {
        let view = View::example(false);
        assert!(matches!(
            react(&asked("db", TYPE::A), &view, Carrier::Datagram),
            Reaction::Reply(_)
        ));
    }
}
