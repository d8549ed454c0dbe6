use serde_json::{Value, json};

use super::*;

fn peer(node: &str, name: Option<&str>, state: &str, path: &Value) -> Peer {
    serde_json::from_value(json!({
        "node": node, "name": name, "agent": null, "state": state, "since_s": 1.0,
        "sources": [], "port": 1, "address": null, "account": null, "path": path, "lanes": [],
        "stations": 0, "traffic": Traffic { received_bytes: 7, ..Traffic::default() },
        "rates": super::super::types::Rates::default(), "drops": {}, "why": null,
        "retry_in_s": null,
    }))
    .unwrap()
}

fn path(kind: &str, remote: Option<&str>, rtt_us: u64) -> Value {
    json!({ "kind": kind, "remote": remote, "rtt_us": rtt_us, "loss_percent": 50.0 })
}

fn scrape() -> Scrape {
    let status = json!({
        "version": "1.2", "instance": "a", "node": "n", "name": "x", "engine": "e",
        "listen": "[::]:5800", "uptime_s": 2.5, "mtu_bytes": 1500, "workers": 2,
        "network": null, "peers": { "known": 0, "up": 0, "relayed": 0 }, "ports": 1,
        "stations": 3, "log_level": "info", "problems": [],
        "fdb": { "learned": 1, "moved": 2, "evicted": 3, "refused": 4, "aged": 5, "flushed": 6 },
    });
    Scrape {
        status: serde_json::from_value(status).unwrap(),
        peers: vec![
            peer("n1", Some("a"), "up", &path("direct", Some("192.0.2.1:5800"), 1_000)),
            peer("n2", Some("b"), "up", &path("direct", Some("[2001:db8::1]:5800"), 2_000)),
            peer("n3", Some("b"), "up", &path("relayed", Some("192.0.2.9:3478"), 6_000)),
            peer("n4", None, "awaited", &path("direct", Some("192.0.2.4:1"), 9_000_000)),
            peer("n5", Some("n4"), "up", &path("direct", Some("[::ffff:192.0.2.1]:1"), 3_000)),
        ],
        ports: Vec::new(),
        traffic: Traffic { sent_frames: 11, ..Traffic::default() },
        drops: BTreeMap::from([("storm", 5), ("runt", 0)]),
        waiting: 4,
        difference: -1,
        refused: BTreeMap::new(),
        neighbour_overflows: 0,
        peers_named: true,
    }
}

fn text(scrape: Scrape) -> String {
    scrape.into_text().unwrap()
}

#[test]
fn what_the_api_answers_becomes_series() {
    let text = text(scrape());
    for line in [
        "ipop_switch_build_info{version=\"1.2\",engine=\"e\"} 1.0",
        "ipop_switch_uptime_seconds 2.5",
        "ipop_switch_peers{state=\"up\"} 4.0",
        "ipop_switch_peers{state=\"awaited\"} 1.0",
        "ipop_switch_peers_up{path=\"direct_ipv4\"} 2.0",
        "ipop_switch_peers_up{path=\"direct_ipv6\"} 1.0",
        "ipop_switch_peers_up{path=\"relayed\"} 1.0",
        "ipop_switch_peers_rtt_seconds{of=\"least\"} 0.001",
        "ipop_switch_peers_rtt_seconds{of=\"mean\"} 0.003",
        "ipop_switch_peers_rtt_seconds{of=\"most\"} 0.006",
        "ipop_switch_peers_loss_ratio{of=\"most\"} 0.5",
        "ipop_switch_sent_frames_total 11.0",
        "ipop_switch_dropped_frames_total{reason=\"storm\"} 5.0",
        "ipop_switch_dropped_frames_total{reason=\"runt\"} 0.0",
        "ipop_switch_ledger_difference_frames -1.0",
        "ipop_switch_waiting_frames 4.0",
        "# TYPE ipop_switch_fdb_moved counter",
    ] {
        assert!(text.lines().any(|is| is == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("\nipop_switch_xmpp_online "), "there is no network");
}

#[test]
fn a_peer_has_series_of_its_own_if_the_operator_says_so_under_a_label_of_its_own() {
    let named = text(scrape());
    let up: Vec<&str> = named.lines().filter(|line| line.contains("_peer_up{")).collect();
    let labels = ["a", "n2", "n3", "n4", "n5"].map(|label| format!("{{peer=\"{label}\"}}"));
    for (line, label) in up.iter().zip(&labels) {
        assert!(line.contains(label), "{line}");
    }
    assert_eq!(up.len(), labels.len());
    assert!(named.contains("peer_relayed{peer=\"n3\"} 1.0"));
    let unnamed = text(Scrape { peers_named: false, ..scrape() });
    assert!(!unnamed.contains("peer=\""), "{unnamed}");
}

#[test]
fn every_metric_is_explained_and_no_other() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/API.md");
    let document = std::fs::read_to_string(path).unwrap();
    let documented: Vec<&str> =
        document.lines().filter(|line| line.starts_with("| `ipop_switch_")).collect();
    let row = |metric: &Metric| {
        let Metric { name, kind, labels, help, .. } = metric;
        let total = if *kind == MetricType::Counter { "_total" } else { "" };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (kind.as_str(), labels.join(", "));
        format!("| `{PREFIX}_{name}{total}` | {kind} | {labels} | {help} |").replace("|  |", "| |")
    };
    let known: Vec<String> = METRICS.iter().map(row).collect();
    assert_eq!(documented, known, "{}", known.join("\n"));
}
