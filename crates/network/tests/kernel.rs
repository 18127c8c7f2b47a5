//! Networks on the real kernel, with a namespace in place of the machine's own network.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kiln_network::{
    Attachment, Joining, Membership, NetworkError, Networks, NewNetwork, Outside, Publish,
    Resolvers, SharedNetwork,
};
use kiln_store::{Store, Timestamp};
use kiln_sys::network::NetworkNamespace;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// A machine with nothing on it, and a store.
struct Machine {
    network: Arc<NetworkNamespace>,
    networks: Networks,
    _folder: TempDir,
}

impl Machine {
    fn new() -> Option<Self> {
        let made = NetworkNamespace::make(|| {
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
        });
        let network = match made {
            Err(kiln_sys::Errno::PERM) => {
                println!("SKIP: needs root");
                return None;
            }
            made => Arc::new(made.unwrap().0),
        };
        let again = network
            .run(|| NetworkNamespace::current().unwrap())
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let shared = SharedNetwork::of(again);
        let outside = Outside::Shared(Arc::new(shared));
        let networks = network
            .run(|| Networks::open(&store, outside))
            .unwrap()
            .unwrap();
        Some(Self {
            network,
            networks,
            _folder: folder,
        })
    }

    fn create(&self, new: NewNetwork) -> Result<(), NetworkError> {
        let work = || self.networks.create(&new, NOW).map(|_| ());
        self.network.run(work).unwrap()
    }

    /// Starts a container that does nothing.
    fn join(
        &self,
        name: &str,
        memberships: &[Membership],
        ports: &[&str],
    ) -> Result<Attachment, NetworkError> {
        let ports: Vec<Publish> = ports
            .iter()
            .map(|text| Publish::parse(text).unwrap())
            .collect();
        let resolvers = Resolvers::default();
        let joining = Joining {
            container: &format!("id-of-{name}"),
            name,
            memberships,
            ports: &ports,
            resolvers: &resolvers,
            now: NOW,
        };
        self.network.run(|| self.networks.join(&joining)).unwrap()
    }

    /// Waits until the kernel has cleared away what was of containers.
    fn has_no_devices(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let links = self.output("ip", &["-o", "link"]);
            if links.lines().count() == 1 {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{links}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a program on the machine.
    fn output(&self, program: &str, arguments: &[&str]) -> String {
        let run = || Command::new(program).args(arguments).output().unwrap();
        let output = self.network.run(run).unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn member(network: &str) -> Membership {
    Membership {
        network: network.to_owned(),
        ..Membership::default()
    }
}

fn address(attachment: &Attachment, six: bool) -> IpAddr {
    let mut addresses = attachment.addresses().map(|one| one.addr());
    addresses.find(|one| one.is_ipv6() == six).unwrap()
}

/// Answers one connection in `namespace` with the address it came from.
fn serve(namespace: &NetworkNamespace, at: SocketAddr) -> std::thread::JoinHandle<()> {
    let listener = namespace.run(|| TcpListener::bind(at).unwrap()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(from.ip().to_string().as_bytes()).unwrap();
    })
}

/// What a server says to somebody in `namespace`.
fn ask(namespace: &NetworkNamespace, at: SocketAddr) -> std::io::Result<String> {
    let mut stream = namespace
        .run(|| TcpStream::connect_timeout(&at, Duration::from_millis(700)))
        .unwrap()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn containers_of_a_network_reach_each_other_and_nobody_else_does() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let dual = NewNetwork {
        name: "dual".to_owned(),
        ipv6: true,
        ..NewNetwork::default()
    };
    machine.create(dual).unwrap();
    let one = machine.join("one", &[member("dual")], &[]).unwrap();
    let two = machine.join("two", &[member("dual")], &[]).unwrap();
    let other = machine.join("other", &[member("bridge")], &[]).unwrap();
    assert_eq!((one.warnings(), two.warnings()), (&[][..], &[][..]));
    for six in [false, true] {
        let at = SocketAddr::new(address(&two, six), 80);
        let served = serve(two.namespace(), at);
        let from = ask(one.namespace(), at).unwrap();
        assert_eq!(from, address(&one, six).to_string());
        served.join().unwrap();
    }
    let at = SocketAddr::new(address(&two, false), 81);
    let waiting = two
        .namespace()
        .run(|| TcpListener::bind(at).unwrap())
        .unwrap();
    assert!(ask(other.namespace(), at).is_err());
    // The machine itself does.
    let connects = || TcpStream::connect(at).is_ok();
    assert!(machine.network.run(connects).unwrap());
    let rules = machine.output("nft", &["list", "ruleset"]);
    println!("{rules}");
    assert!(rules.contains("masquerade"), "{rules}");
    // A socket in there keeps a namespace, too.
    drop((waiting, one, two, other));
    machine.networks.prune().unwrap();
    assert_eq!(machine.output("nft", &["list", "ruleset"]), "");
    machine.has_no_devices();
}

/// What the rules say of containers that are gone is taken out later, with that of others; where their ports lead, at once.
#[test]
fn rules_about_the_gone_stay_few_and_their_ports_lead_nowhere() {
    let Some(machine) = Machine::new() else {
        return;
    };
    let rules = || machine.output("nft", &["list", "ruleset"]);
    let cables = || {
        let rules = rules();
        let words = rules.split(|it: char| !it.is_ascii_alphanumeric());
        let cables = words.filter(|word| word.starts_with("kv"));
        cables.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let published = machine.join("published", &[member("bridge")], &["8080:80"]);
    assert!(rules().contains("8080"));
    drop(published.unwrap());
    assert!(!rules().contains("8080"), "{}", rules());
    let stays = machine.join("stays", &[member("bridge")], &[]).unwrap();
    for number in 0..140 {
        let name = format!("passing-{number}");
        drop(machine.join(&name, &[member("bridge")], &[]).unwrap());
        if number % 20 == 0 {
            assert!(cables().len() <= 66, "{}", rules());
        }
    }
    // Those that are there stay in there, and who comes back is let through.
    let (one, two) = (
        stays,
        machine.join("passing-1", &[member("bridge")], &[]).unwrap(),
    );
    let at = SocketAddr::new(address(&one, false), 80);
    let served = serve(one.namespace(), at);
    // The kernel is still busy with so many that are gone.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let from = loop {
        match ask(two.namespace(), at) {
            Err(_) if std::time::Instant::now() < deadline => {}
            answer => break answer.unwrap(),
        }
    };
    assert_eq!(from, address(&two, false).to_string());
    served.join().unwrap();
    drop((one, two));
    machine.networks.prune().unwrap();
    assert_eq!(rules(), "");
    machine.has_no_devices();
}
