//! The work that each contender is given, and the figures that come of it.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    contender::{Site, Tunnel},
    scenario::Load,
};
use crate::{
    flood::Flood,
    lab::tools::{Iperf3, Ping},
};

/// The time between two pings of a round-trip measurement.
const PING_INTERVAL: Duration = Duration::from_millis(10);

/// What a figure says; its unit ends its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// One TCP flow from a to b, payload that arrived.
    TcpMbitPerS,
    /// CPU seconds of the tunnel's programs for 10^9 bytes of that flow.
    TcpCpuSPerGb,
    /// One TCP flow from b to a.
    TcpReverseMbitPerS,
    /// Four TCP flows from a to b together.
    Tcp4MbitPerS,
    /// The smallest UDP frames received, thousands a second, while more are sent.
    SmallestKpps,
    /// How many of them were lost.
    SmallestLostPercent,
    /// Round-trip time without other traffic, median.
    IdleRttP50Us,
    /// The same, the slowest of a hundred.
    IdleRttP99Us,
    /// Round-trip time beside a TCP flow, median.
    LoadedRttP50Us,
    /// The same, the slowest of a hundred.
    LoadedRttP99Us,
    /// Resident memory of the tunnel's programs after all that.
    RssMib,
}

impl Measure {
    /// All, in the order of reports.
    pub const ALL: [Self; 11] = [
        Self::TcpMbitPerS,
        Self::TcpCpuSPerGb,
        Self::TcpReverseMbitPerS,
        Self::Tcp4MbitPerS,
        Self::SmallestKpps,
        Self::SmallestLostPercent,
        Self::IdleRttP50Us,
        Self::IdleRttP99Us,
        Self::LoadedRttP50Us,
        Self::LoadedRttP99Us,
        Self::RssMib,
    ];

    /// The heading of its column.
    pub fn heading(self) -> &'static str {
        match self {
            Self::TcpMbitPerS => "TCP, Mbit/s",
            Self::TcpCpuSPerGb => "CPU, s/GB",
            Self::TcpReverseMbitPerS => "TCP back, Mbit/s",
            Self::Tcp4MbitPerS => "4 TCP, Mbit/s",
            Self::SmallestKpps => "64 B, kpps",
            Self::SmallestLostPercent => "64 B lost, %",
            Self::IdleRttP50Us => "idle RTT p50, us",
            Self::IdleRttP99Us => "idle RTT p99, us",
            Self::LoadedRttP50Us => "loaded RTT p50, us",
            Self::LoadedRttP99Us => "loaded RTT p99, us",
            Self::RssMib => "memory, MiB",
        }
    }

    /// Which of two values is the better one.
    pub fn better(self) -> Better {
        match self {
            Self::TcpMbitPerS
            | Self::TcpReverseMbitPerS
            | Self::Tcp4MbitPerS
            | Self::SmallestKpps => Better::More,
            _ => Better::Less,
        }
    }

    /// Digits behind the point that mean something.
    pub fn decimals(self) -> usize {
        match self {
            Self::TcpCpuSPerGb => 2,
            Self::SmallestLostPercent | Self::RssMib => 1,
            _ => 0,
        }
    }
}

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Up.
    More,
    /// Down.
    Less,
}

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Of what.
    pub measure: Measure,
    /// In the measure's unit.
    pub value: f64,
}

/// A TCP flow from the first host to the second.
#[derive(Clone, Copy)]
pub(super) struct TcpFlow<'a> {
    pub(super) seconds: u32,
    /// By the kernel's name for it.
    pub(super) congestion: &'a str,
}

impl TcpFlow<'_> {
    fn to(self, tunnel: &Tunnel) -> Iperf3 {
        Iperf3::to(tunnel.address_b).seconds(self.seconds).congestion(self.congestion)
    }
}

/// Puts this load on a tunnel.
///
/// # Errors
/// When a tool fails or nothing crosses.
pub(super) fn measure(
    site: &Site<'_>,
    tunnel: &mut Tunnel,
    load: Load,
    tcp: TcpFlow<'_>,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if load == Load::Full {
        idle_rtt(site, tunnel, &mut figures)?;
    }
    one_flow(site, tunnel, tcp, &mut figures)?;
    if load == Load::Full {
        let back = tcp.to(tunnel).reverse().run(site.a, site.b)?;
        figures.push(Figure {
            measure: Measure::TcpReverseMbitPerS,
            value: back.received_bits_per_s / 1e6,
        });
        let four = tcp.to(tunnel).flows(4).run(site.a, site.b)?;
        figures
            .push(Figure { measure: Measure::Tcp4MbitPerS, value: four.received_bits_per_s / 1e6 });
        let small = Flood::of_smallest(Duration::from_secs(tcp.seconds.into()));
        let small = small.run(site.a, site.b, tunnel.address_b)?;
        figures
            .push(Figure { measure: Measure::SmallestKpps, value: small.received_per_s() / 1e3 });
        figures.push(Figure { measure: Measure::SmallestLostPercent, value: small.lost_percent() });
        loaded_rtt(site, tunnel, tcp, &mut figures)?;
        if !tunnel.is_kernel() {
            let value = tunnel.rss_kib()? as f64 / 1024.0;
            figures.push(Figure { measure: Measure::RssMib, value });
        }
    }
    Ok(figures)
}

fn one_flow(
    site: &Site<'_>,
    tunnel: &mut Tunnel,
    tcp: TcpFlow<'_>,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let interface = &tunnel.interfaces[0].clone();
    let (before, entered_before) = (tunnel.cpu_s()?, site.a.counters(interface)?.tx_bytes);
    let flow = tcp.to(tunnel).run(site.a, site.b)?;
    let cpu_s = tunnel.cpu_s()? - before;
    let entered = site.a.counters(interface)?.tx_bytes - entered_before;
    // A default route can lead traffic past a tunnel, and nothing else shows it.
    ensure!(
        entered >= flow.received_bytes,
        "{} bytes arrived, but only {entered} went into the tunnel",
        flow.received_bytes
    );
    figures.push(Figure { measure: Measure::TcpMbitPerS, value: flow.received_bits_per_s / 1e6 });
    if !tunnel.is_kernel() {
        let value = cpu_s / (flow.received_bytes as f64 / 1e9);
        figures.push(Figure { measure: Measure::TcpCpuSPerGb, value });
    }
    Ok(())
}

fn idle_rtt(site: &Site<'_>, tunnel: &Tunnel, figures: &mut Vec<Figure>) -> Result<()> {
    let ping = Ping::to(tunnel.address_b).count(200).interval(PING_INTERVAL);
    let rtts_ms = ping.run(site.a)?.rtts_ms;
    figures.extend(quantiles(&rtts_ms, Measure::IdleRttP50Us, Measure::IdleRttP99Us));
    Ok(())
}

/// Pings begin when the flow has found its speed.
fn loaded_rtt(
    site: &Site<'_>,
    tunnel: &Tunnel,
    tcp: TcpFlow<'_>,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let warm_up = Duration::from_millis(500);
    let during = Duration::from_secs(tcp.seconds.into());
    let count = during.as_millis() / PING_INTERVAL.as_millis();
    let flow = tcp.to(tunnel).seconds(tcp.seconds + 1);
    let rtts_ms = thread::scope(|scope| {
        let flow = scope.spawn(|| flow.run(site.a, site.b));
        thread::sleep(warm_up);
        let ping = Ping::to(tunnel.address_b).count(count as u32).interval(PING_INTERVAL);
        let report = ping.run(site.a);
        flow.join().map_err(|_| anyhow::anyhow!("the flow panicked"))??;
        Ok::<_, anyhow::Error>(report?.rtts_ms)
    })?;
    figures.extend(quantiles(&rtts_ms, Measure::LoadedRttP50Us, Measure::LoadedRttP99Us));
    Ok(())
}

fn quantiles(rtts_ms: &[f64], p50: Measure, p99: Measure) -> impl Iterator<Item = Figure> {
    let at = |measure, share| {
        let value = quantile(rtts_ms, share)? * 1e3;
        Some(Figure { measure, value })
    };
    [at(p50, 0.5), at(p99, 0.99)].into_iter().flatten()
}

/// The smallest value that at least this share (0 to 1) of the values don't exceed.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), Some(100.0));
        assert_eq!(quantile(&values, 0.99), Some(198.0));
        assert_eq!(quantile(&values, 1.0), Some(200.0));
        assert_eq!(quantile(&[7.0], 0.0), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
