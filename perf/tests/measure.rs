//! The measurements themselves, for a few seconds each: what they report is there and makes sense. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{fs, time::Duration};

use ipop_perf::{
    compare::{Comparison, Plan, contender::Contender, measure::Measure, scenario::Scenario},
    folder::FIGURES,
    overload, soak, switch,
};

#[test]
fn a_quick_comparison_measures_everything_and_writes_its_folder() {
    common::switch_binary();
    let contenders = [Contender::Vxlan, Contender::Switch];
    let plan = Plan {
        contenders: contenders.into(),
        scenarios: vec![Scenario::ALL[0], Scenario::named("wire").unwrap()],
        rounds: 1,
        seconds: 1,
        congestion: "cubic".into(),
        quiet_within: Duration::ZERO,
    };
    let mut told = 0;
    let tell = |so_far: &Comparison, count| {
        assert_eq!(count, 4);
        told += usize::from(!so_far.turns.last().unwrap().repeated);
        Ok(())
    };
    let comparison = plan.measure(tell).unwrap();
    assert_eq!(told, 4);
    for turn in &comparison.turns {
        assert_eq!(turn.failed, None, "{turn:?}");
    }
    for contender in contenders {
        for measure in Measure::ALL {
            let spread = comparison.spread("base", contender, measure);
            let of_programs = matches!(measure, Measure::TcpCpuSPerGb | Measure::RssMib);
            // The kernel has no process whose time or memory could be read.
            let expected = contender == Contender::Switch || !of_programs;
            assert_eq!(spread.is_some(), expected, "{contender} {measure:?}");
            let zero_is_fine = measure == Measure::SmallestLostPercent;
            assert!(
                spread.is_none_or(|s| s.median > 0.0 || zero_is_fine),
                "{contender} {measure:?}"
            );
        }
        assert!(comparison.spread("wire", contender, Measure::TcpMbitPerS).is_some());
    }

    let folder = tempfile::tempdir().unwrap();
    comparison.write(folder.path()).unwrap();
    let report = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(report.contains("| ipop-switch |") && report.contains("## wire"), "{report}");
    assert!(folder.path().join("charts/base-tcpmbitpers.svg").is_file());
    let figures = fs::read_to_string(folder.path().join(FIGURES)).unwrap();
    let twice = comparison.clone().join(&figures).unwrap();
    assert_eq!(twice.turns.len(), 2 * comparison.turns.len());
}

#[test]
fn a_quick_benchmark_of_the_switch_finds_rates_and_forwards_nothing_forbidden() {
    common::switch_binary();
    let plan = switch::Plan {
        frame_bytes: vec![64],
        trial: Duration::from_millis(100),
        workers: 1,
        learning_tries: 1,
        quiet_within: Duration::ZERO,
    };
    let mut steps = Vec::new();
    let benchmark = plan.measure(&mut |line| steps.push(line.to_owned())).unwrap();
    assert!(steps.last().unwrap().starts_with("[12/12"), "{steps:?}");
    let size = &benchmark.sizes[0];
    assert!(size.overloaded_per_s > 0.0 && size.tolerant_per_s >= size.lossless_per_s, "{size:?}");
    assert_eq!(size.duplicates, 0, "{size:?}");
    let capacity = &benchmark.learning.capacity[0];
    assert!(capacity.heard > 0 && capacity.delivered > 0, "{capacity:?}");
    // Every station that was heard is known.
    assert!(capacity.flooded <= u64::from(capacity.stations) - capacity.heard, "{capacity:?}");
    for kind in &benchmark.forbidden {
        assert_eq!(kind.forwarded, 0, "{kind:?}");
        assert_eq!(kind.dropped, kind.sent, "{kind:?}");
    }
    for broadcast in &benchmark.broadcasts {
        assert_eq!(broadcast.received_per_s.len(), broadcast.peers);
        assert!(broadcast.received_per_s.iter().all(|rate| *rate > 0.0), "{broadcast:?}");
    }
    assert!(benchmark.many_to_one.fairness > 0.0, "{:?}", benchmark.many_to_one);

    let folder = tempfile::tempdir().unwrap();
    benchmark.write(folder.path()).unwrap();
    let report = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(report.contains("| 64 |") && report.contains("reserved group address"), "{report}");
    assert!(folder.path().join("charts/throughput.svg").is_file());
}

#[test]
fn a_short_soak_accounts_for_every_frame() {
    common::switch_binary();
    let plan = soak::Plan {
        // Two rounds, and a kill between them.
        length: Duration::from_secs(7),
        workers: 1,
        loss_percent: 0.1,
        delay: Duration::from_millis(1),
        seed: 7,
    };
    let soak = plan.run(&mut |_| {}).unwrap();
    assert!(soak.rounds.len() >= 2, "{soak:?}");
    assert_eq!(soak.problems, [""; 0]);
    for round in &soak.rounds {
        assert!(round.received > 0 && round.tcp_mbit_per_s > 0.0, "{round:?}");
        assert!(round.descriptors > 0 && round.rss_kib > 0, "{round:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    soak.write(folder.path()).unwrap();
    let report = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(report.contains("problems: none"), "{report}");
}

#[test]
fn a_quick_overload_finds_what_passes_and_places_what_is_lost() {
    /// Frames of the hosts' own that may get lost with the flood: they look for routers and groups.
    const OTHERS: u64 = 100;
    let binary = common::switch_binary();
    let plan = overload::Plan {
        binaries: vec![binary.clone(), binary.clone()],
        payload_len: 1_350,
        mbit_per_s: 100.0,
        trial: Duration::from_millis(100),
        rounds: 1,
        args: ["--workers", "1"].map(String::from).into(),
        quiet_within: Duration::ZERO,
    };
    let mut steps = Vec::new();
    let overload = plan.measure(&mut |line| steps.push(line.to_owned())).unwrap();
    assert!(steps.last().unwrap().starts_with("[2/2"), "{steps:?}");
    // Both programs had their turn.
    assert_eq!(overload.rounds.iter().map(|round| round.program).collect::<Vec<_>>(), [0, 1]);
    assert!(overload.programs.iter().all(|(_, version)| version.starts_with("ipop-switch ")));
    for round in &overload.rounds {
        assert!(round.best_mbit_per_s > 0.0, "{round:?}");
        assert!(round.stated.offered_mbit_per_s > 0.0, "{round:?}");
        for trial in [&round.stated, &round.flood] {
            assert!(trial.delivered_mbit_per_s > 0.0, "{trial:?}");
            assert!(trial.delivered_mbit_per_s <= trial.offered_mbit_per_s, "{trial:?}");
            let places: u64 = trial.places.places().map(|(_, frames)| frames).sum();
            assert_eq!(places, trial.places.lost());
            assert!((trial.lost..=trial.lost + OTHERS).contains(&places), "{trial:?}");
        }
    }

    let folder = tempfile::tempdir().unwrap();
    overload.write(folder.path()).unwrap();
    let report = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(report.contains("The switches ran with `--workers 1`."), "{report}");
    assert_eq!(report.matches("* Of the flood ").count(), 2, "{report}");
    assert_eq!(report.matches("* Of that rate ").count(), 2, "{report}");
    let figures = fs::read_to_string(folder.path().join(FIGURES)).unwrap();
    let figures: serde_json::Value = serde_json::from_str(&figures).unwrap();
    assert_eq!(figures["rounds"][1]["flood"]["lost"], overload.rounds[1].flood.lost);
}
