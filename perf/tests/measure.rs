//! The measurements themselves, for a few seconds each: what they report is there and makes sense. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{fs, time::Duration};

use ipop_perf::{
    compare::{Comparison, Plan, contender::Contender, measure::Measure, scenario::Scenario},
    folder::FIGURES,
    soak, switch,
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
