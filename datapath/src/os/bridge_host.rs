//! The host's own place on the segment, where a bridge holds the TAPs: the bridge is its interface there.
//!
//! **Router advertisements.** With the TAP, machines at every other site are on the bridge's link, and any of them can advertise
//! itself as an IPv6 router, by mistake too; the kernel would believe it and send the host's IPv6 into the overlay. So
//! the bridge takes no advertisements while the switch runs, unless it has its default route by them: that is the host's own
//! uplink, which must not go.
//!
//! **Neighbours.** A bridge has the lowest MAC address of its ports, unless it was given one. A TAP that the switch makes has a
//! high one ([`stable_mac`](super::tap::stable_mac)); where the bridge's address changes all the same, the kernel is asked to tell the
//! neighbours.

use std::fs;

use super::interface::{Interface, Ipv6Setting};

/// In `/proc/net/ipv6_route`: a default route, from an advertisement (`linux/ipv6_route.h`).
const RTF_DEFAULT: u32 = 0x0001_0000;
const RTF_ADDRCONF: u32 = 0x0004_0000;

/// A bridge that takes no router advertisements. Dropping it puts back what was set before.
#[derive(Debug)]
pub struct QuietBridge {
    bridge: Interface,
    before: Vec<Ipv6Setting>,
}

impl QuietBridge {
    /// Turns router advertisements off at this bridge, or warns of them.
    pub fn new(bridge: Interface) -> Self {
        Self::of(bridge, &fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default())
    }

    /// The same where these are the host's IPv6 routes, as `/proc/net/ipv6_route` has them.
    fn of(bridge: Interface, routes: &str) -> Self {
        let mut quiet = Self { bridge, before: Vec::new() };
        let name = quiet.bridge.name();
        if !takes_advertisements(&quiet.bridge) {
            return quiet;
        }
        if has_advertised_route(routes, name) {
            tracing::warn!(
                "bridge {name} has its IPv6 default route by router advertisements, so they stay on: \
                 with the TAP in it, machines behind other nodes can make themselves this host's router \
                 as well. Drop theirs at the TAP by a rule of nft (docs/OPERATIONS.md, Router advertisements)"
            );
            return quiet;
        }
        match quiet.bridge.set_ipv6_setting("accept_ra", "0") {
            Ok(before) => quiet.before.extend(before),
            Err(error) => tracing::warn!(
                "cannot turn router advertisements off at bridge {name} ({error}): machines behind other \
                 nodes can make themselves this host's IPv6 router. Run `sysctl -w \
                 net.ipv6.conf.{name}.accept_ra=0` where /proc/sys can be written"
            ),
        }
        quiet
    }
}

impl Drop for QuietBridge {
    fn drop(&mut self) {
        // Whoever has set something else meanwhile wants that.
        if self.bridge.ipv6_setting("accept_ra").as_deref() == Some("0") {
            self.bridge.restore_ipv6_settings(&self.before);
        }
    }
}

/// A router takes none by default (`accept_ra` 1), but may be told to (2).
fn takes_advertisements(bridge: &Interface) -> bool {
    let is_router = bridge.is_ipv6_router();
    match bridge.ipv6_setting("accept_ra").as_deref() {
        None | Some("0") => false,
        Some("1") => !is_router,
        Some(_) => true,
    }
}

/// Whether there is a default route by an advertisement out of this interface.
fn has_advertised_route(routes: &str, interface: &str) -> bool {
    routes.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let prefix_len = fields.next();
        let flags = fields.nth(6).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let wanted = RTF_DEFAULT | RTF_ADDRCONF;
        prefix_len == Some("00")
            && flags.is_some_and(|flags| flags & wanted == wanted)
            && fields.next() == Some(interface)
    })
}

/// Has the kernel tell the bridge's neighbours if its MAC address changes, for as long as this lives.
#[derive(Debug)]
pub(super) struct ToldNeighbours {
    /// Files and what stood in them.
    before: Vec<(String, String)>,
}

impl ToldNeighbours {
    pub(super) fn of(bridge: &str) -> Self {
        let settings = [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")];
        let paths =
            settings.map(|(family, key)| format!("/proc/sys/net/{family}/conf/{bridge}/{key}"));
        // Without it they find out by themselves, in a while.
        let set = |path: String| {
            let before = fs::read_to_string(&path).ok()?;
            fs::write(&path, "1").ok()?;
            Some((path, before))
        };
        Self { before: paths.into_iter().filter_map(set).collect() }
    }
}

impl Drop for ToldNeighbours {
    fn drop(&mut self) {
        for (path, before) in &self.before {
            let _ = fs::write(path, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn line(prefix_len: &str, flags: &str, interface: &str) -> String {
        let (zero, via) = ("0".repeat(32), "fe800000000000000000000000000001");
        format!(
            "{zero} {prefix_len} {zero} 00 {via} 00000400 00000001 00000000 {flags} {interface:>8}\n"
        )
    }

    /// Runs this in a network namespace of its own; false if it may not have one.
    fn apart(test: impl FnOnce() + Send + 'static) -> bool {
        let run = || {
            // SAFETY: no pointer goes with it, and of this process the new thread alone changes its namespace.
            let may = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
            if may {
                test();
            }
            may
        };
        thread::spawn(run).join().unwrap()
    }

    /// Any interface has these settings; a new namespace has the loopback.
    #[test]
    fn advertisements_are_off_for_a_while_unless_the_default_route_is_theirs() {
        const BY_HAND: &str = "00000003";
        const ADVERTISED: &str = "00450003";
        let is_done = apart(|| {
            let file = |key| format!("/proc/sys/net/ipv6/conf/lo/{key}");
            let accept_ra = || fs::read_to_string(file("accept_ra")).unwrap().trim().to_owned();
            for (before, forwarding, route, meanwhile) in [
                ("1", "0", BY_HAND, "0"),
                ("1", "0", ADVERTISED, "1"),
                // Of a router only the word of its operator counts.
                ("1", "1", BY_HAND, "1"),
                ("2", "1", BY_HAND, "0"),
                ("2", "1", ADVERTISED, "2"),
                ("0", "0", BY_HAND, "0"),
            ] {
                fs::write(file("forwarding"), forwarding).unwrap();
                fs::write(file("accept_ra"), before).unwrap();
                let bridge = Interface::named("lo").unwrap();
                let quiet = QuietBridge::of(bridge, &line("00", route, "lo"));
                assert_eq!(accept_ra(), meanwhile, "{before} {forwarding} {route}");
                drop(quiet);
                assert_eq!(accept_ra(), before, "{before} {forwarding} {route}");
            }
            fs::write(file("accept_ra"), "2").unwrap();
            let quiet = QuietBridge::of(Interface::named("lo").unwrap(), "");
            assert_eq!(accept_ra(), "0");
            fs::write(file("accept_ra"), "1").unwrap();
            drop(quiet);
            assert_eq!(accept_ra(), "1", "somebody has set something else");
        });
        if !is_done {
            println!("skipped: only root can have a network namespace of its own");
        }
    }

    #[test]
    fn a_default_route_by_an_advertisement_is_told_from_others() {
        let advertised = line("00", "00450003", "br0");
        assert!(has_advertised_route(&advertised, "br0"));
        assert!(!has_advertised_route(&advertised, "br1"));
        // Set by hand; said to be the default one, or to be advertised, and not both; a prefix; no route at all, as every host has it.
        let others = ["00000003", "00010003", "00040003"].map(|flags| line("00", flags, "br0"));
        let others = others.concat() + &line("40", "00450003", "br0");
        assert!(!has_advertised_route(&(others + &line("00", "00200200", "lo")), "br0"));
        assert!(!has_advertised_route("", "br0") && !has_advertised_route("x\n\n0 00 1", "br0"));
    }
}
