//! The figures as a folder: `figures.json`, `report.md`.

use std::{fmt::Write as _, path::Path};

use anyhow::Result;

use super::{Figures, idle::Idle};
use crate::{folder, lab::tools::median};

/// A row of the table: what, the goal, the values, the digits after the point, the unit.
struct Row<'a> {
    what: &'a str,
    goal: &'a str,
    values: Vec<f64>,
}

impl Figures {
    /// Writes the folder's files.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        folder::write(folder, self, &self.markdown(), &[])
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Discovery\n\n");
        if let Some(machine) = &self.machine {
            let _ = writeln!(
                text,
                "{}, Prosody and coturn on {} processors of {}, Linux {}. Other guests took {:.1} % of the processors at worst.\n",
                self.version, machine.cpus, machine.cpu, machine.kernel, self.steal_percent
            );
        }
        text.push_str("| seconds | aim | runs | median | least | most |\n| --- | ---: | ---: | ---: | ---: | ---: |\n");
        for row in self.rows().iter().filter(|row| !row.values.is_empty()) {
            row.write(&mut text);
        }
        self.remarks(&mut text);
        self.idle(&mut text);
        text
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let row = |what, goal, values| Row { what, goal, values };
        let starts =
            |starts: &[super::start::Start]| starts.iter().map(|s| s.first_ping_s).collect();
        let moves = |moves: &[super::failures::Move]| moves.iter().map(|m| m.silence_s).collect();
        vec![
            row("start of the second node to first ping, one LAN", "< 1", starts(&self.start_lan)),
            row(
                "the same through two port-restricted NATs, 40 ms RTT to everybody",
                "< 2.5",
                starts(&self.start_nats),
            ),
            row(
                "direct path cut under TCP both ways, until frames cross the relay",
                "< 5",
                self.cut.iter().map(|cut| cut.silence_s).collect(),
            ),
            row(
                "until that TCP goes on, its own time-outs included",
                "",
                self.cut.iter().map(|cut| cut.tcp_silence_s).collect(),
            ),
            row(
                "XMPP server restarted: longest time without a frame",
                "",
                self.server.iter().map(|restart| restart.silence_s).collect(),
            ),
            row(
                "from its first answer until both nodes are in the room",
                "",
                self.server.iter().map(|restart| restart.back_s).collect(),
            ),
            row("a node's address changed, the peer reachable", "< 3", moves(&self.moved)),
            row("a node's address changed, only a relay there", "< 3", moves(&self.moved_relayed)),
        ]
    }

    fn remarks(&self, text: &mut String) {
        text.push('\n');
        let sent: u64 = self.server.iter().map(|restart| restart.sent).sum();
        let lost: u64 = self.server.iter().map(|restart| restart.lost).sum();
        if sent > 0 {
            let _ = writeln!(
                text,
                "* Over {} restarts of the XMPP server, every other one a kill, {lost} of {sent} numbered frames were lost (aim: none).",
                self.server.len()
            );
        }
        let rate = |of: fn(&super::failures::Cut) -> f64| {
            median(&self.cut.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0)
        };
        if !self.cut.is_empty() {
            let _ = writeln!(
                text,
                "* TCP both ways together, medians: {:.0} Mbit/s before the cut, {:.0} through the relay.",
                rate(|cut| cut.direct_mbit_per_s),
                rate(|cut| cut.relayed_mbit_per_s)
            );
        }
        let relayed = self.start_nats.iter().filter(|start| start.path != "direct").count();
        if !self.start_nats.is_empty() {
            let _ = writeln!(
                text,
                "* Through the NATs the path was direct at the first ping in {} of {} starts.",
                self.start_nats.len() - relayed,
                self.start_nats.len()
            );
        }
    }

    fn idle(&self, text: &mut String) {
        let columns = [("one LAN", &self.idle_lan), ("behind NATs", &self.idle_nats)];
        let measured: Vec<(&str, &Idle)> =
            columns.iter().filter_map(|(name, idle)| Some((*name, idle.as_ref()?))).collect();
        if measured.is_empty() {
            return;
        }
        let seconds = measured[0].1.seconds;
        let names: Vec<&str> = measured.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(
            text,
            "\n## Idle\n\nTwo nodes over {seconds:.0} s; of the two the one that costs more.\n\n| | aim | {} |\n| --- | ---: |{}",
            names.join(" | "),
            " ---: |".repeat(names.len())
        );
        let mut row = |what: &str, aim: &str, decimals: usize, of: fn(&Idle) -> f64| {
            let cells: Vec<String> =
                measured.iter().map(|(_, idle)| format!("{:.decimals$}", of(idle))).collect();
            let _ = writeln!(text, "| {what} | {aim} | {} |", cells.join(" | "));
        };
        row("XMPP of a node, IP and TCP headers included, B/s", "< 200", 0, |i| i.xmpp_bytes_per_s);
        row("the tunnel, both ways together, IP and UDP headers included, B/s", "< 100", 0, |i| {
            i.tunnel_bytes_per_s
        });
        row("the same without these headers, B/s", "", 0, |i| i.tunnel_payload_bytes_per_s);
        row("its packets, each second", "", 2, |i| i.tunnel_packets_per_s);
        row("STUN and TURN of a node with the servers, headers included, B/s", "", 0, |i| {
            i.servers_bytes_per_s
        });
        row("CPU of the control plane, % of a processor", "< 1", 3, |i| i.control_cpu_percent);
        row("CPU of the workers, % of a processor", "", 3, |i| i.workers_cpu_percent);
        row("resident memory of a node, MB", "< 30", 1, |i| i.rss_kib as f64 * 1.024 / 1e3);
        row("of that, beyond a switch with one configured peer and no network, MB", "", 1, |i| {
            (i.rss_kib as f64 - i.static_rss_kib as f64) * 1.024 / 1e3
        });
    }
}

impl Row<'_> {
    fn write(&self, text: &mut String) {
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.values.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.3} | {least:.3} | {most:.3} |",
            self.what,
            self.goal,
            self.values.len(),
            median(&self.values).unwrap_or(0.0)
        );
    }
}
