//! Who the machine asks about names: `/etc/resolv.conf`.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// The most servers that are asked; the C library's limit.
const MAX_SERVERS: usize = 3;
/// Where servers listen.
const PORT: u16 = 53;

/// Servers that know names, and how names are completed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// Whom to ask, in this order.
    pub servers: Vec<SocketAddr>,
    /// What is tried behind a name.
    pub search: Vec<String>,
    /// Further options of the C library.
    pub options: Vec<String>,
}

impl Resolvers {
    /// Reads a `resolv.conf`. Lines that make no sense are passed over, as the C library does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolvers = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let key = words.next();
            let words = words.take_while(|word| !word.starts_with(['#', ';']));
            match key {
                Some("nameserver") => resolvers.servers.extend(words.take(1).filter_map(server)),
                // The last one counts.
                Some("search" | "domain") => {
                    resolvers.search = words.map(str::to_owned).collect();
                }
                Some("options") => resolvers.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolvers.servers.truncate(MAX_SERVERS);
        resolvers
    }

    /// The `resolv.conf` of a container that is to ask `server`.
    #[must_use]
    pub fn for_container(&self, server: IpAddr) -> String {
        let mut text = format!("nameserver {server}\n");
        let mut line = |key: &str, words: &[String]| {
            if !words.is_empty() {
                writeln!(text, "{key} {}", words.join(" ")).expect("text takes text");
            }
        };
        line("search", &self.search);
        line("options", &self.options);
        text
    }
}

/// An address; the device of one that is of a link does not matter to who asks through the machine.
fn server(word: &str) -> Option<SocketAddr> {
    let address: IpAddr = word.split('%').next()?.parse().ok()?;
    Some(SocketAddr::new(address, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_asks_is_read_as_the_c_library_does() {
        let text = "# made by hand\ndomain old\nsearch a.example b.example # two\nnameserver 127.0.0.53\n\
                    nameserver fe80::1%eth0\nnameserver nonsense\noptions edns0 trust-ad\n\
                    nameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        let resolvers = Resolvers::parse(text);
        let servers: Vec<String> = resolvers.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[fe80::1]:53", "192.0.2.1:53"]);
        assert_eq!(
            resolvers.for_container([127, 0, 0, 11].into()),
            "nameserver 127.0.0.11\nsearch a.example b.example\noptions edns0 trust-ad\n"
        );
        assert_eq!(Resolvers::parse(""), Resolvers::default());
    }
}
