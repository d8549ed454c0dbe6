//! Who has the UDP port and the TAPs now, from `/proc`: a switch that runs with these settings is no hindrance, only what is
//! checked. Programs of other users are seen by root alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::settings::{InterfaceName, Listen, Settings};

/// A program that has something open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Holder {
    pub(super) process: u32,
    /// Its name, as the kernel has it.
    pub(super) name: String,
}

/// The processes that have the UDP port and the TAPs open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Holders {
    pub(super) port: Option<Holder>,
    /// In the order of the settings.
    pub(super) taps: Vec<Option<Holder>>,
}

/// How this program is called.
const SWITCH: &str = "ipop-switch";

impl Holder {
    pub(super) fn is_switch(&self) -> bool {
        self.name == SWITCH
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, process } = self;
        let another = if self.is_switch() { "another " } else { "" };
        write!(f, "{another}{name} (process {process})")
    }
}

impl Holders {
    pub(super) fn find(settings: &Settings) -> Self {
        let port = match settings.listen {
            Listen::Any { port } => port,
            Listen::At(address) => address.port(),
        };
        let mut wanted = Wanted {
            sockets: sockets_of(port),
            taps: &settings.taps,
            found: Self { port: None, taps: vec![None; settings.taps.len()] },
        };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            wanted.look_at(process);
        }
        wanted.found
    }

    /// The switch that runs with these settings: it has the port, and a TAP unless none is named; by the TAP alone where
    /// any port will do.
    pub(super) fn running(&self, settings: &Settings) -> Option<u32> {
        let of_tap = |holder: &Holder| self.taps.iter().flatten().any(|other| other == holder);
        let any_port = matches!(settings.listen, Listen::Any { port: 0 })
            || matches!(settings.listen, Listen::At(address) if address.port() == 0);
        let running = match &self.port {
            Some(holder) => Some(holder).filter(|holder| self.taps.is_empty() || of_tap(holder)),
            None if any_port => self.taps.iter().flatten().next(),
            None => None,
        };
        running.filter(|holder| holder.is_switch()).map(|holder| holder.process)
    }
}

struct Wanted<'a> {
    /// What links to the port's sockets say.
    sockets: Vec<String>,
    taps: &'a [InterfaceName],
    found: Holders,
}

impl Wanted<'_> {
    fn look_at(&mut self, process: u32) {
        let directory = PathBuf::from(format!("/proc/{process}"));
        let mut holder = None;
        let mut is_here = None;
        let files = fs::read_dir(directory.join("fd")).into_iter().flatten().flatten();
        for file in files {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let mut holder = || {
                holder.get_or_insert_with(|| Holder { process, name: name_of(&directory) }).clone()
            };
            if target.to_str().is_some_and(|target| self.sockets.iter().any(|s| s == target)) {
                self.found.port = Some(holder());
            }
            // Names of TAPs are those of a network namespace.
            if target == Path::new("/dev/net/tun")
                && *is_here.get_or_insert_with(|| is_of_this_network(&directory))
                && let Some(name) = tap_of(&directory.join("fdinfo").join(file.file_name()))
                && let Some(at) = self.taps.iter().position(|tap| tap.as_str() == name)
            {
                self.found.taps[at] = Some(holder());
            }
        }
    }
}

fn name_of(process: &Path) -> String {
    let program = |process: &Path| fs::read_link(process.join("exe")).ok();
    if program(process).is_some_and(|it| program(Path::new("/proc/self")) == Some(it)) {
        return SWITCH.to_owned();
    }
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

fn is_of_this_network(process: &Path) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    namespace(process) == namespace(Path::new("/proc/self"))
}

/// The interface of an open `/dev/net/tun`.
fn tap_of(about: &Path) -> Option<String> {
    let about = fs::read_to_string(about).ok()?;
    let name = about.lines().find_map(|line| line.strip_prefix("iff:"))?;
    Some(name.trim().to_owned())
}

/// What links to the sockets that are bound to this UDP port say.
fn sockets_of(port: u16) -> Vec<String> {
    let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"];
    let tables = tables.into_iter().filter_map(|table| fs::read_to_string(table).ok());
    tables.flat_map(|table| inodes_of(&table, port)).collect()
}

/// Of proc_net_udp(5): the second column ends with the local port, the tenth is the inode.
fn inodes_of(table: &str, port: u16) -> Vec<String> {
    let end = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| port != 0 && row.get(1).is_some_and(|local| local.ends_with(&end)))
        .filter_map(|row| row.get(9).map(|inode| format!("socket:[{inode}]")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn whoever_has_a_port_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut wanted = Wanted { sockets: sockets_of(port), taps: &[], found: Holders::default() };
        assert_eq!(wanted.sockets.len(), 1);
        wanted.look_at(std::process::id());
        assert_eq!(wanted.found.port.map(|holder| holder.process), Some(std::process::id()));
    }

    #[test]
    fn rows_of_the_kernels_table_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref\n\
            1405: 0100007F:16A8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2442 2 0 0\n\
            1406: 0100007F:16A9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2443 2 0 0\n";
        assert_eq!(inodes_of(table, 5_800), ["socket:[2442]"]);
        assert!(inodes_of(table, 58).is_empty() && inodes_of("", 5_800).is_empty());
    }

    #[test]
    fn the_switch_that_runs_is_told_from_others() {
        let holder = |process, name: &str| Some(Holder { process, name: name.into() });
        let (switch, other) = (holder(7, SWITCH), holder(8, "dnsmasq"));
        let running = |port: &Option<Holder>, taps: &[Option<Holder>], listen: &str| {
            let holders = Holders { port: port.clone(), taps: taps.to_vec() };
            let layers = |settings: &crate::cli::Values| {
                let environment = crate::settings::Environment::default();
                Settings::perhaps_tapless(crate::settings::Layers {
                    flags: settings,
                    file: None,
                    environment: &environment,
                })
            };
            let values =
                crate::cli::Values { listen: Some(listen.into()), ..crate::cli::Values::default() };
            holders.running(&layers(&values).unwrap())
        };
        let fixed = "[::]:5800";
        assert_eq!(running(&switch, std::slice::from_ref(&switch), fixed), Some(7));
        assert_eq!(running(&switch, &[None, switch.clone()], fixed), Some(7), "one is new");
        assert_eq!(running(&switch, &[], fixed), Some(7));
        assert_eq!(running(&switch, &[None], fixed), None, "it is another one");
        assert_eq!(running(&None, std::slice::from_ref(&switch), fixed), None);
        assert_eq!(running(&None, std::slice::from_ref(&switch), "[::]:0"), Some(7));
        assert_eq!(running(&other, std::slice::from_ref(&other), fixed), None);
    }
}
