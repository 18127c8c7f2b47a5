//! The network namespace that the bridges are in.
//!
//! For root that is the machine's own. An ordinary user has no right to change that one, and gets one that all
//! containers of a store share; see [`rootless`](crate::rootless).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::error::NetworkError;
use crate::rootless::SharedNetwork;

/// Where bridges are.
#[derive(Debug, Clone)]
pub enum Outside {
    /// In the network of the machine.
    Machine,
    /// In one that is connected to it by another program.
    Shared(Arc<SharedNetwork>),
    /// Nowhere: there are no bridges, and none can be made.
    Nowhere,
}

impl Outside {
    /// Does something in there.
    pub(crate) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, NetworkError> + Send,
    ) -> Result<T, NetworkError> {
        match self {
            Self::Machine => work(),
            Self::Shared(shared) => shared
                .network()
                .run(work)
                .map_err(|errno| NetworkError::kernel("entering the shared network", errno))?,
            Self::Nowhere => Err(nowhere()),
        }
    }

    /// Moves the calling thread there, for good.
    pub(crate) fn enter(&self) -> Result<(), NetworkError> {
        match self {
            Self::Machine => Ok(()),
            Self::Shared(shared) => shared
                .network()
                .enter()
                .map_err(|errno| NetworkError::kernel("entering the shared network", errno)),
            Self::Nowhere => Err(nowhere()),
        }
    }

    /// Whether there can be anything of a network in the kernel.
    pub(crate) const fn exists(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }
}

fn nowhere() -> NetworkError {
    NetworkError::Rootless("no container of this user has a network".to_owned())
}

/// Where the settings of the network namespace are that the calling thread is in.
const SETTINGS: &str = "/proc/sys/net";

/// Changes a setting of the network that the calling thread is in.
pub(crate) fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new(SETTINGS).join(name);
    fs::write(&path, value).map_err(|source| NetworkError::Io {
        doing: "write",
        path,
        source,
    })
}

/// Reads a setting of the network that the calling thread is in; `None` if there is none.
pub(crate) fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(SETTINGS).join(name)).ok()?;
    Some(text.trim().to_owned())
}

/// Lets packets through that are for neither end. Returns why not, in words.
pub(crate) fn forward_packets(ipv6: bool) -> Result<(), String> {
    if setting("ipv4/ip_forward").as_deref() != Some("1") {
        set("ipv4/ip_forward", "1").map_err(|error| error.to_string())?;
    }
    if ipv6 && setting("ipv6/conf/all/forwarding").as_deref() != Some("1") {
        keep_advertised_routes();
        set("ipv6/conf/all/forwarding", "1").map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A machine that forwards takes no more routes from its router, unless it is told to.
fn keep_advertised_routes() {
    let devices = fs::read_dir(Path::new(SETTINGS).join("ipv6/conf"));
    for device in devices.into_iter().flatten().flatten() {
        let name = format!("ipv6/conf/{}/accept_ra", device.file_name().display());
        if setting(&name).as_deref() == Some("1") {
            crate::error::best_effort("keeping the routes of a router", set(&name, "2"));
        }
    }
}
