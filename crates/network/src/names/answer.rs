//! From a question about a name to an answer, as far as containers are concerned.
//!
//! Pure: bytes in, bytes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::{A, AAAA, PTR, RData};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE,
};

use super::zone::View;

/// How long an answer may be remembered, in seconds. Containers come and go.
const REMEMBERED: u32 = 5;
/// The most bytes of an answer to a datagram whose sender did not say more (RFC 1035, section 4.2.1).
const DATAGRAM: usize = 512;

/// What to do about a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask somebody else.
    Forward,
    /// It was no question.
    Ignore,
}

/// How the question came, which limits the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// In a datagram.
    Datagram,
    /// In a connection.
    Connection,
}

/// Decides about a question.
pub(crate) fn react(question: &[u8], view: &View, carrier: Carrier) -> Reaction {
    let Ok(packet) = Packet::parse(question) else {
        return malformed(question);
    };
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Reaction::Ignore;
    }
    if packet.opcode() != OPCODE::StandardQuery {
        return refuse(&packet, RCODE::NotImplemented);
    }
    let [asked] = packet.questions.as_slice() else {
        return refuse(&packet, RCODE::FormatError);
    };
    let known = matches!(asked.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY)
        .then(|| answers(&asked.qname.to_string(), asked.qtype, view))
        .flatten();
    match known {
        Some(Known::Answers(records)) => {
            let mut reply = reply(&packet);
            reply.answers = records
                .into_iter()
                .map(|data| ResourceRecord::new(asked.qname.clone(), CLASS::IN, REMEMBERED, data))
                .collect();
            pack(reply, packet.opt().map(|opt| opt.udp_packet_size), carrier)
        }
        Some(Known::Nobody) => refuse(&packet, RCODE::NameError),
        None if view.asks_outside => Reaction::Forward,
        None => refuse(&packet, RCODE::NameError),
    }
}

/// An answer that says that nobody could be asked.
pub(crate) fn failure(question: &[u8]) -> Option<Vec<u8>> {
    let packet = Packet::parse(question).ok()?;
    match refuse(&packet, RCODE::ServerFailure) {
        Reaction::Reply(bytes) => Some(bytes),
        Reaction::Forward | Reaction::Ignore => None,
    }
}

/// What is known about a name.
enum Known {
    /// These; none if it has nothing of the kind that was asked for.
    Answers(Vec<RData<'static>>),
    /// Nobody can have it.
    Nobody,
}

fn answers(name: &str, kind: QTYPE, view: &View) -> Option<Known> {
    if let Some(address) = reverse(name) {
        return match view.name(address) {
            Some(name) => {
                let name = Name::new(name).ok()?.into_owned();
                let wanted = matches!(kind, QTYPE::TYPE(TYPE::PTR) | QTYPE::ANY);
                let record = wanted.then_some(RData::PTR(PTR(name)));
                Some(Known::Answers(record.into_iter().collect()))
            }
            None => view.is_ours(address).then_some(Known::Nobody),
        };
    }
    let addresses = view.addresses(name)?;
    let wanted = |six: bool| {
        let own = if six { TYPE::AAAA } else { TYPE::A };
        kind == QTYPE::ANY || kind == QTYPE::TYPE(own)
    };
    let addresses = addresses.into_iter();
    let records =
        addresses
            .filter(|address| wanted(address.is_ipv6()))
            .map(|address| match address {
                IpAddr::V4(address) => RData::A(A {
                    address: address.into(),
                }),
                IpAddr::V6(address) => RData::AAAA(AAAA {
                    address: address.into(),
                }),
            });
    Some(Known::Answers(records.collect()))
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` is about.
fn reverse(name: &str) -> Option<IpAddr> {
    let name = name.to_ascii_lowercase();
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut octets: Vec<u8> = labels
            .split('.')
            .map(|label| label.parse().ok())
            .collect::<Option<_>>()?;
        octets.reverse();
        let octets: [u8; 4] = octets.try_into().ok()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let mut number = 0_u128;
    let mut count = 0;
    for label in labels.split('.').rev() {
        let digit = u128::from_str_radix(label, 16)
            .ok()
            .filter(|_| label.len() == 1)?;
        number = number << 4 | digit;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(number).into())
}

fn reply<'a>(packet: &Packet<'a>) -> Packet<'a> {
    let mut reply = Packet::new_reply(packet.id());
    reply.questions.clone_from(&packet.questions);
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if packet.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    reply
}

fn refuse(packet: &Packet<'_>, code: RCODE) -> Reaction {
    let mut reply = reply(packet);
    *reply.rcode_mut() = code;
    pack(reply, None, Carrier::Connection)
}

fn pack(mut reply: Packet<'_>, accepted: Option<u16>, carrier: Carrier) -> Reaction {
    let Ok(bytes) = reply.build_bytes_vec_compressed() else {
        return Reaction::Ignore;
    };
    let limit = accepted.map_or(DATAGRAM, |size| usize::from(size).max(DATAGRAM));
    if carrier == Carrier::Connection || bytes.len() <= limit {
        return Reaction::Reply(bytes);
    }
    // Whoever asked asks again in a connection.
    reply.answers.clear();
    reply.set_flags(PacketFlag::TRUNCATION);
    reply
        .build_bytes_vec_compressed()
        .map_or(Reaction::Ignore, Reaction::Reply)
}

/// Something that is not even a header gets no answer.
fn malformed(question: &[u8]) -> Reaction {
    const IS_ANSWER: u8 = 0x80;
    match question {
        [high, low, flags, ..] if question.len() >= 12 && flags & IS_ANSWER == 0 => {
            let mut reply = Packet::new_reply(u16::from_be_bytes([*high, *low]));
            *reply.rcode_mut() = RCODE::FormatError;
            pack(reply, None, Carrier::Connection)
        }
        _ => Reaction::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use simple_dns::Question;

    use super::*;
    use crate::endpoint::Endpoint;

    fn endpoint(name: &str, addresses: &[&str], aliases: &[&str]) -> Endpoint {
        Endpoint {
            container: "0123456789abcdef".to_owned(),
            name: name.to_owned(),
            device: String::new(),
            inside: String::new(),
            mac: [0; 6],
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            ports: Vec::new(),
        }
    }

    fn view(asks_outside: bool) -> View {
        let endpoints = vec![
            endpoint("one", &["10.1.0.2/24", "fd00::2/64"], &["web"]),
            endpoint("two", &["10.1.0.3/24"], &["web", "db.internal"]),
        ];
        View::new(endpoints, &["10.1.0.0/24", "fd00::/64"], asks_outside)
    }

    fn question(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let class = QCLASS::CLASS(CLASS::IN);
        let name = Name::new(name).unwrap();
        packet
            .questions
            .push(Question::new(name, QTYPE::TYPE(kind), class, false));
        packet.build_bytes_vec().unwrap()
    }

    /// Code and records of the answer, or what else happens.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library knows forty kinds"
    )]
    fn ask(name: &str, kind: TYPE, view: &View) -> (String, Vec<String>) {
        match react(&question(name, kind), view, Carrier::Datagram) {
            Reaction::Reply(bytes) => {
                let packet = Packet::parse(&bytes).unwrap();
                assert_eq!(packet.id(), 7);
                assert!(packet.has_flags(
                    PacketFlag::RESPONSE
                        | PacketFlag::RECURSION_AVAILABLE
                        | PacketFlag::RECURSION_DESIRED
                ));
                let records = packet.answers.iter().map(|record| match &record.rdata {
                    RData::A(a) => Ipv4Addr::from(a.address).to_string(),
                    RData::AAAA(a) => Ipv6Addr::from(a.address).to_string(),
                    RData::PTR(PTR(name)) => name.to_string(),
                    other => format!("{other:?}"),
                });
                (format!("{:?}", packet.rcode()), records.collect())
            }
            other @ (Reaction::Forward | Reaction::Ignore) => (format!("{other:?}"), Vec::new()),
        }
    }

    #[test]
    fn names_and_aliases_of_containers_are_known() {
        let view = view(true);
        let ok = |records: &[&str]| {
            let records = records.iter().map(|&record| record.to_owned()).collect();
            ("NoError".to_owned(), records)
        };
        assert_eq!(ask("one", TYPE::A, &view), ok(&["10.1.0.2"]));
        assert_eq!(ask("ONE", TYPE::AAAA, &view), ok(&["fd00::2"]));
        assert_eq!(ask("web", TYPE::A, &view), ok(&["10.1.0.2", "10.1.0.3"]));
        assert_eq!(ask("db.internal", TYPE::A, &view), ok(&["10.1.0.3"]));
        // It exists, but has none of these.
        assert_eq!(ask("two", TYPE::AAAA, &view), ok(&[]));
        assert_eq!(ask("two", TYPE::MX, &view), ok(&[]));
        assert_eq!(ask("2.0.1.10.in-addr.arpa", TYPE::PTR, &view), ok(&["one"]));
        let nibbles = format!("2.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(ask(&nibbles, TYPE::PTR, &view), ok(&["one"]));
    }

    #[test]
    fn others_are_asked_about_what_nobody_here_has() {
        let outcome = |name, kind, asks| ask(name, kind, &view(asks)).0;
        assert_eq!(outcome("example.com", TYPE::A, true), "Forward");
        assert_eq!(outcome("three", TYPE::A, true), "Forward");
        assert_eq!(outcome("9.9.9.9.in-addr.arpa", TYPE::PTR, true), "Forward");
        assert_eq!(
            outcome("9.0.1.10.in-addr.arpa", TYPE::PTR, true),
            "NameError"
        );
        assert_eq!(outcome("example.com", TYPE::A, false), "NameError");
    }

    #[test]
    fn what_is_no_question_gets_no_answer_or_a_refusal() {
        let view = view(true);
        let react = |bytes: &[u8]| react(bytes, &view, Carrier::Datagram);
        assert_eq!(react(b""), Reaction::Ignore);
        assert_eq!(react(&[0xff; 11]), Reaction::Ignore);
        let mut answer = question("one", TYPE::A);
        answer[2] |= 0x80;
        assert_eq!(react(&answer), Reaction::Ignore);
        let mut cut = question("one", TYPE::A);
        cut.truncate(14);
        let code = |reaction| match reaction {
            Reaction::Reply(bytes) => Packet::parse(&bytes).unwrap().rcode(),
            other @ (Reaction::Forward | Reaction::Ignore) => panic!("{other:?}"),
        };
        assert_eq!(code(react(&cut)), RCODE::FormatError);
        let mut update = question("one", TYPE::A);
        update[2] |= 5 << 3;
        assert_eq!(code(react(&update)), RCODE::NotImplemented);
        assert_eq!(
            code(Reaction::Reply(failure(&question("x", TYPE::A)).unwrap())),
            RCODE::ServerFailure
        );
    }

    #[test]
    fn an_answer_that_does_not_fit_says_so() {
        let many = (1..100).map(|number| {
            let address = format!("10.1.0.{number}/24");
            endpoint(&format!("c{number}"), &[&address], &["all"])
        });
        let view = View::new(many.collect(), &["10.1.0.0/24"], true);
        let question = question("all", TYPE::A);
        let Reaction::Reply(short) = react(&question, &view, Carrier::Datagram) else {
            panic!("no reply");
        };
        assert!(short.len() <= DATAGRAM);
        let short = Packet::parse(&short).unwrap();
        assert!(short.has_flags(PacketFlag::TRUNCATION) && short.answers.is_empty());
        let Reaction::Reply(whole) = react(&question, &view, Carrier::Connection) else {
            panic!("no reply");
        };
        assert_eq!(Packet::parse(&whole).unwrap().answers.len(), 99);
    }
}
