//! Real tools run between hosts, their reports parsed.

use std::{fmt, net::IpAddr, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{Host, Process, Signal};

/// What is left to a tool beyond the time that it should take.
const MARGIN: Duration = Duration::from_secs(10);

/// A run of `ping`.
#[derive(Clone, Debug)]
pub struct Ping {
    address: IpAddr,
    count: u32,
    interval: Duration,
    options: Vec<String>,
}

/// What `ping` saw.
#[derive(Clone, Debug, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Answers received, without duplicates.
    pub received: u32,
    /// Answers received twice.
    pub duplicates: u32,
    /// Round-trip time of each answer, milliseconds, in the order of arrival.
    pub rtts_ms: Vec<f64>,
}

impl Ping {
    /// One request to this address.
    pub fn to(address: impl Into<IpAddr>) -> Self {
        let (count, interval) = (1, Duration::from_millis(200));
        Self { address: address.into(), count, interval, options: Vec::new() }
    }

    /// This many requests.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// The time between two requests, by default 200 ms.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// This many bytes of payload (28 fewer than the IPv4 packet, 48 fewer than the IPv6 packet), never fragmented.
    #[must_use]
    pub fn unfragmented(mut self, payload_len: u32) -> Self {
        self.options.extend(["-M".into(), "do".into(), "-s".into(), payload_len.to_string()]);
        self
    }

    /// Runs it. Lost answers, all of them even, are a report and no error.
    ///
    /// # Errors
    /// When `ping` itself fails.
    pub fn run(&self, host: &Host) -> Result<PingReport> {
        let mut ping = host.spawn("ping", self.args())?;
        ping.wait(self.interval * self.count + MARGIN)?;
        PingReport::parse(&ping.stdout()).with_context(|| {
            format!("{}: pinging {} failed: {}", host.name(), self.address, ping.stderr().trim())
        })
    }

    /// Pings until it is told to stop, however many requests that takes.
    ///
    /// # Errors
    /// When `ping` can't be started.
    pub fn start(&self, host: &Host) -> Result<Pinging> {
        let args = Self { count: u32::MAX >> 1, ..self.clone() }.args();
        Ok(Pinging(host.spawn("ping", args)?))
    }

    fn args(&self) -> Vec<String> {
        let mut args: Vec<String> = ["-n", "-W", "1", "-c"].map(String::from).into();
        args.extend([self.count.to_string(), "-i".into(), self.interval.as_secs_f64().to_string()]);
        args.extend(self.options.iter().cloned());
        args.push(self.address.to_string());
        args
    }
}

/// A `ping` that goes on.
#[derive(Debug)]
pub struct Pinging(Process);

impl Pinging {
    /// Requests that were answered so far.
    pub fn answers(&self) -> usize {
        self.0.stdout().matches(" time=").count()
    }

    /// Ends it. The answer to the last request may still have been on its way, and is then missing.
    ///
    /// # Errors
    /// When it has ended before, or says nothing.
    pub fn stop(mut self) -> Result<PingReport> {
        self.0.signal(Signal::INT)?;
        self.0.wait(MARGIN)?;
        PingReport::parse(&self.0.stdout()).with_context(|| self.0.stderr())
    }
}

impl fmt::Display for Ping {
    /// The command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ping {}", self.args().join(" "))
    }
}

impl PingReport {
    /// The share of requests without an answer, 0 to 1.
    pub fn loss(&self) -> f64 {
        1.0 - f64::from(self.received) / f64::from(self.sent.max(1))
    }

    /// The median round-trip time, milliseconds.
    pub fn median_rtt_ms(&self) -> Option<f64> {
        median(&self.rtts_ms)
    }

    /// An error if any request went without an answer.
    ///
    /// # Errors
    /// That one.
    pub fn expect_no_loss(self) -> Result<Self> {
        let (sent, received) = (self.sent, self.received);
        ensure!(received == sent, "of {sent} pings {received} were answered");
        Ok(self)
    }

    fn parse(text: &str) -> Option<Self> {
        let number_before = |line: &str, word: &str| -> Option<u32> {
            let (before, _) = line.split_once(word)?;
            before.trim_end().rsplit([' ', '+']).next()?.parse().ok()
        };
        let summary = text.lines().find(|line| line.contains(" packets transmitted"))?;
        let rtt = |line: &str| -> Option<f64> {
            line.split_once("time=")?.1.split_once(' ')?.0.parse().ok()
        };
        Some(Self {
            sent: number_before(summary, " packets transmitted")?,
            received: number_before(summary, " received")?,
            duplicates: number_before(summary, " duplicates").unwrap_or(0),
            rtts_ms: text.lines().filter_map(rtt).collect(),
        })
    }
}

/// A run of `iperf3`: by default one TCP flow from client to server for 5 s.
#[derive(Clone, Debug)]
pub struct Iperf3 {
    address: IpAddr,
    seconds: u32,
    options: Vec<String>,
}

/// What `iperf3` measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Iperf3Report {
    /// Payload received, bits a second.
    pub received_bits_per_s: f64,
    /// Payload received, bytes.
    pub received_bytes: u64,
    /// TCP segments that the sender sent again (0 for UDP).
    pub retransmits: u64,
    /// UDP datagrams that were lost, percent (0 for TCP).
    pub lost_percent: f64,
    /// CPU time of the client, percent of one core.
    pub client_cpu_percent: f64,
    /// CPU time of the server, percent of one core.
    pub server_cpu_percent: f64,
    /// The sender's TCP congestion control (empty for UDP).
    pub tcp_congestion: String,
}

impl Iperf3 {
    /// To the server at this address.
    pub fn to(address: impl Into<IpAddr>) -> Self {
        Self { address: address.into(), seconds: 5, options: Vec::new() }
    }

    /// For so long.
    #[must_use]
    pub fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// This many flows at once.
    #[must_use]
    pub fn flows(self, flows: u32) -> Self {
        self.with(&["-P", &flows.to_string()])
    }

    /// UDP at this rate, with datagrams of this many bytes.
    #[must_use]
    pub fn udp(self, bits_per_s: u64, datagram_len: u32) -> Self {
        self.with(&["-u", "-b", &bits_per_s.to_string(), "-l", &datagram_len.to_string()])
    }

    /// With this TCP congestion control, by the kernel's name for it. Set for the flow: as a host's default the kernel allows only
    /// what is not restricted to privileged users.
    #[must_use]
    pub fn congestion(self, name: &str) -> Self {
        self.with(&["-C", name])
    }

    /// From the server to the client.
    #[must_use]
    pub fn reverse(self) -> Self {
        self.with(&["-R"])
    }

    /// Other options of `iperf3`'s client.
    #[must_use]
    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Starts a server for this one run, runs the client, ends both.
    ///
    /// # Errors
    /// When either fails, or no byte arrives.
    pub fn run(&self, client: &Host, server: &Host) -> Result<Iperf3Report> {
        let mut listening = server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
        listening.wait_for_line("Server listening", MARGIN)?;
        let address = self.address.to_string();
        let seconds = self.seconds.to_string();
        let mut args = vec!["-J", "-c", &address, "-t", &seconds, "--connect-timeout", "5000"];
        args.extend(self.options.iter().map(String::as_str));
        let mut sending = client.spawn("iperf3", args)?;
        sending.wait(Duration::from_secs(self.seconds.into()) + 2 * MARGIN)?;
        let json: Value = serde_json::from_str(&sending.stdout())
            .with_context(|| format!("iperf3 printed no JSON: {}", sending.stderr().trim()))?;
        Iperf3Report::parse(&json)
    }
}

impl Iperf3Report {
    fn parse(json: &Value) -> Result<Self> {
        if let Some(error) = json["error"].as_str() {
            return Err(anyhow!("iperf3: {error}"));
        }
        let end = &json["end"];
        let float = |of: &Value, key: &str| of[key].as_f64().unwrap_or(0.0);
        let received = &end["sum_received"];
        let report = Self {
            received_bits_per_s: float(received, "bits_per_second"),
            received_bytes: received["bytes"].as_u64().unwrap_or(0),
            retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
            lost_percent: float(received, "lost_percent"),
            client_cpu_percent: float(&end["cpu_utilization_percent"], "host_total"),
            server_cpu_percent: float(&end["cpu_utilization_percent"], "remote_total"),
            tcp_congestion: end["sender_tcp_congestion"].as_str().unwrap_or_default().into(),
        };
        ensure!(report.received_bytes > 0, "iperf3: no byte arrived");
        Ok(report)
    }
}

/// The median; of an even number of values, the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_output_is_read() {
        let text = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
            64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.046 ms\n\
            64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=1.5 ms (DUP!)\n\n\
            --- 10.0.0.2 ping statistics ---\n\
            3 packets transmitted, 1 received, +1 duplicates, 66.6667% packet loss, time 2002ms\n";
        let report = PingReport::parse(text).unwrap();
        assert_eq!((report.sent, report.received, report.duplicates), (3, 1, 1));
        assert_eq!(report.rtts_ms, [0.046, 1.5]);
        assert!((report.loss() - 2.0 / 3.0).abs() < 1e-9);
        assert!(report.expect_no_loss().is_err());
        assert_eq!(PingReport::parse("ping: connect: Network is unreachable"), None);
    }

    #[test]
    fn iperf3_errors_and_silence_are_errors() {
        let error = serde_json::json!({"error": "unable to connect"});
        assert!(Iperf3Report::parse(&error).unwrap_err().to_string().contains("unable"));
        let silence = serde_json::json!({"end": {"sum_received": {"bytes": 0}}});
        assert!(Iperf3Report::parse(&silence).is_err());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
