//! What is measured: sites of one Ethernet segment, joined by switches, and a packet socket on the TAP of each.
//!
//! Site 0 dials all others, and they know nothing of one another: a star, as a central site and its branches.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::search::{Device, Load, Outcome};
use crate::{
    lab::{Lab, LinkOptions, tools::Ping},
    stream::{self, Addresses, Port, Sent, Stream, Tally, Until},
    tunnel::{Node, Program, Running},
};

/// The inner MTU: the largest standard frame and the jumbo frame fit.
const INNER_MTU: u16 = 9_000;

/// Sites that are connected; dropping it ends them.
#[derive(Debug)]
pub struct Segment {
    /// The switch of each site.
    pub switches: Vec<Running>,
    /// The station's side of each TAP.
    pub ports: Vec<Port>,
    /// Last, so that the switches end before their namespaces.
    _lab: Lab,
}

/// The station behind a site in trials with one each.
pub fn station_of(site: usize) -> Addresses {
    Addresses::station(site as u32)
}

impl Segment {
    /// So many sites, with so many workers each.
    ///
    /// # Errors
    /// When a switch does not start, or a tunnel does not come up.
    pub fn start(sites: usize, workers: u8) -> Result<Self> {
        let lab = Lab::new("switch")?;
        let hosts = (0..sites).map(|n| lab.host(&format!("h{n}"))).collect::<Result<Vec<_>>>()?;
        let underlay = match hosts.as_slice() {
            [a, b] => {
                let link = lab.link(a, b, LinkOptions::new())?;
                vec![link.a, link.b]
            }
            hosts => lab.underlay(&hosts.iter().collect::<Vec<_>>(), LinkOptions::new())?,
        };
        let mut nodes = Vec::with_capacity(sites);
        for (site, host) in hosts.iter().enumerate() {
            let mut node = Node::new(&lab, host, Program::Switch)?;
            node.mtu(INNER_MTU).args(&["--workers", &workers.to_string()]);
            node.address(&format!("{}/24", address_of(site)));
            nodes.push(node);
        }
        if let Some((center, branches)) = nodes.split_first_mut() {
            for (branch, interface) in branches.iter_mut().zip(&underlay[1..]) {
                branch.admit(center.node_id());
                center.dial(branch.node_id(), interface.ipv4);
            }
        }
        let switches = nodes.iter().rev().map(Node::start).collect::<Result<Vec<_>>>()?;
        let switches: Vec<_> = switches.into_iter().rev().collect();
        for site in 1..sites {
            // The largest packet that the overlay takes: path MTU discovery is done when it crosses.
            let ping = Ping::to(address_of(site)).unfragmented(u32::from(INNER_MTU) - 28);
            switches[0].wait_for_ping(&ping)?;
        }
        let port = |switch: &Running| Port::at(&switch.host, &switch.tap);
        let ports = switches.iter().map(port).collect::<Result<_>>()?;
        Ok(Self { switches, ports, _lab: lab })
    }

    /// Sends streams, each from a site, and receives at `receivers`.
    ///
    /// # Errors
    /// When the kernel refuses a frame.
    pub fn run(
        &self,
        streams: &[(usize, Stream)],
        receivers: &[usize],
    ) -> Result<(Vec<Sent>, Vec<Vec<Tally>>)> {
        let streams: Vec<_> =
            streams.iter().map(|(site, stream)| (&self.ports[*site], *stream)).collect();
        let receivers: Vec<_> = receivers.iter().map(|site| &self.ports[*site]).collect();
        stream::run(&streams, &receivers)
    }

    /// Sends streams from one site, one after the other without a pause, and receives at another.
    ///
    /// # Errors
    /// As [`Segment::run`].
    pub fn run_in_turn(
        &self,
        from: usize,
        streams: &[Stream],
        to: usize,
    ) -> Result<(Vec<Sent>, Vec<Tally>)> {
        stream::run_in_turn(&self.ports[from], streams, &self.ports[to])
    }

    /// The switches learn where these stations are, at this rate: they send to site 0's station. Says so too when they
    /// could not all be heard there.
    ///
    /// # Errors
    /// As [`Segment::run`].
    pub fn announce(
        &self,
        site: usize,
        sources: Addresses,
        frames: u64,
        rate_per_s: Option<f64>,
    ) -> Result<u64> {
        let stream = Stream {
            number: 0,
            sources,
            destinations: station_of(if site == 0 { 1 } else { 0 }),
            frame_len: stream::FRAME_LEN_MIN,
            rate_per_s,
            until: Until::Frames(frames),
        };
        let (_, seen) = self.run(&[(site, stream)], &[if site == 0 { 1 } else { 0 }])?;
        Ok(seen[0][0].received)
    }
}

/// One stream from the station of site 0 to that of site 1, which has been heard just before.
impl Device for Segment {
    fn trial(&mut self, load: &Load) -> Result<Outcome> {
        self.announce(1, station_of(1), 1, None)?;
        let stream = Stream {
            number: 0,
            sources: station_of(0),
            destinations: station_of(1),
            frame_len: load.frame_len,
            rate_per_s: load.rate_per_s,
            until: load.until,
        };
        let (sent, mut seen) = self.run(&[(0, stream)], &[1])?;
        let tally = std::mem::take(&mut seen[0][0]);
        Ok(Outcome {
            sent: sent[0].frames,
            elapsed: sent[0].elapsed,
            received: tally.received,
            duplicates: tally.duplicates,
            overtaken: tally.overtaken,
            latencies_ns: tally.latencies_ns,
        })
    }
}

fn address_of(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 99, site as u8 + 1)
}
