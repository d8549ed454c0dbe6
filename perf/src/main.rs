//! `ipop-perf`: whole-program measurements and the demo, each in a lab of network namespaces. See `--help`.

mod arguments;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ipop_perf::{
    compare::{self, contender::Contender, scenario::Scenario},
    demo,
    discovery::{self, Figures, Part},
    folder, lab, operate, overload, progress, soak, switch,
    tcp::{Plan, Report, Run},
    tunnel::Program,
    wire::{Impairments, Tap, Wire, WireOptions},
};
use tokio::signal::unix::{SignalKind, signal};

use self::arguments::{
    Binaries, Cli, Command, CompareArgs, DemoArgs, DiscoveryArgs, OperateArgs, OverloadArgs,
    SoakArgs, SwitchArgs, TcpArgs, WireArgs,
};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Tcp(args) => tcp(args),
        Command::Compare(args) => compare(args),
        Command::Switch(args) => switch(&args),
        Command::Overload(args) => overload(args),
        Command::Soak(args) => soak(&args),
        Command::Operate(args) => operate(args),
        Command::Discovery(args) => discovery(args),
        Command::Document(args) => folder::insert(&args.folder, &args.into, &args.between),
        Command::Demo(args) => demo(&args),
        Command::Wire(args) => wire(&args),
        Command::Clean => clean(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipop-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Binaries {
    fn path(&self, program: Program) -> Result<PathBuf> {
        let given = match program {
            Program::Switch => &self.switch_binary,
            Program::Obvious => &self.obvious_binary,
        };
        match given {
            Some(path) => program.at(path),
            None => program.find(),
        }
    }
}

fn tcp(args: TcpArgs) -> Result<()> {
    let path = |&program: &Program| Ok((program, args.binaries.path(program)?));
    let programs = args.programs.iter().map(path).collect::<Result<_>>()?;
    let plan = Plan {
        programs,
        runs: args.runs,
        seconds: args.seconds,
        mtu: args.mtu,
        congestion: args.congestion,
    };
    println!(
        "One TCP flow, inner MTU {}, {} runs of {} s each, in turn:",
        args.mtu, args.runs, args.seconds
    );
    let report = plan.measure(print_run)?;
    print_report(&report);
    if let Some(path) = args.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(&path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn print_run(run: &Run) {
    println!(
        "  {:<13} {:>7.0} Mbit/s  {:>6.2} CPU s/GB  {:>6} retransmissions  steal {:.1} %  others {:.0} %{}",
        run.program,
        run.mbit_per_s,
        run.cpu_s_per_gb,
        run.retransmits,
        run.steal_percent,
        run.others_percent,
        if run.repeated { ": again" } else { "" }
    );
}

fn print_report(report: &Report) {
    println!("Medians:");
    for median in &report.medians {
        println!(
            "  {:<13} {:>7.0} Mbit/s  {:>6.2} CPU s/GB",
            median.program, median.mbit_per_s, median.cpu_s_per_gb
        );
    }
    if let Some((throughput, cpu)) = report.ratios() {
        println!("Ratio: {throughput:.2} times the throughput at {cpu:.2} of the CPU time per GB");
    }
    let machine = &report.machine;
    let congestion = report.runs.first().map_or("", |run| run.tcp_congestion.as_str());
    println!(
        "{}, {} CPUs, Linux {}; {}; TCP {congestion}",
        machine.cpu, machine.cpus, machine.kernel, machine.iperf3
    );
    println!("{}", report.versions.join("; "));
}

fn compare(args: CompareArgs) -> Result<()> {
    let or_all =
        |given: Vec<Contender>| if given.is_empty() { Contender::ALL.into() } else { given };
    let scenarios = match (args.scenarios.is_empty(), args.quick) {
        (false, _) => args.scenarios,
        (true, true) => Scenario::ALL[..1].into(),
        (true, false) => Scenario::ALL.into(),
    };
    let plan = compare::Plan {
        contenders: or_all(args.peers),
        scenarios,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 5 }),
        seconds: args.seconds.unwrap_or(if args.quick { 1 } else { 5 }),
        congestion: args.congestion,
        quiet_within: Duration::from_secs(if args.quick { 0 } else { 30 }),
    };
    let earlier = args.out.join(folder::FIGURES);
    let earlier = if args.add && earlier.exists() {
        let text = fs::read_to_string(&earlier);
        Some(text.with_context(|| format!("reading {}", earlier.display()))?)
    } else {
        None
    };
    let joined = |comparison: compare::Comparison| match &earlier {
        Some(earlier) => comparison.join(earlier),
        None => Ok(comparison),
    };
    let start = Instant::now();
    let mut done = 0;
    let comparison = plan.measure(|so_far, count| {
        if let Some(turn) = so_far.turns.last() {
            done += u32::from(!turn.repeated);
            let left = progress::time_left(start.elapsed(), done, count as u32);
            print_turn(turn, done, count, &left.map_or_else(String::new, progress::clock));
        }
        // Hours of measuring are not to be lost by an interruption.
        joined(so_far.clone())?.write(&args.out)
    })?;
    let comparison = joined(comparison)?;
    comparison.write(&args.out)?;
    println!("\n{}", comparison.markdown());
    println!("All of it is in {}", args.out.display());
    Ok(())
}

fn print_turn(turn: &compare::Turn, done: u32, count: usize, left: &str) {
    let figures = turn.figures.iter().map(|figure| {
        let (measure, value) = (figure.measure, figure.value);
        format!("{} {value:.*}", measure.heading(), measure.decimals())
    });
    let failure = turn.failed.as_ref().map(|why| why.lines().next().unwrap_or_default().to_owned());
    let said = failure.unwrap_or_else(|| figures.collect::<Vec<_>>().join("; "));
    let again = if turn.repeated { "; disturbed, again" } else { "" };
    eprintln!("[{done}/{count}{left}] {}, {}: {said}{again}", turn.scenario, turn.contender);
}

fn switch(args: &SwitchArgs) -> Result<()> {
    let sizes: &[usize] = if args.quick { &[64] } else { &switch::forwarding::SIZES };
    let given: Vec<usize> = args.sizes.iter().map(|size| usize::from(*size)).collect();
    let seconds = args.seconds.unwrap_or(if args.quick { 0.2 } else { 2.0 });
    let plan = switch::Plan {
        frame_bytes: if given.is_empty() { sizes.into() } else { given },
        trial: Duration::try_from_secs_f64(seconds).context("a trial takes some seconds")?,
        workers: args.workers,
        learning_tries: if args.quick { 1 } else { usize::MAX },
        quiet_within: Duration::from_secs(if args.quick { 0 } else { 30 }),
    };
    let benchmark = plan.measure(&mut |line| eprintln!("{line}"))?;
    benchmark.write(&args.out)?;
    println!("\n{}", benchmark.markdown());
    println!("All of it is in {}", args.out.display());
    Ok(())
}

fn overload(args: OverloadArgs) -> Result<()> {
    let at = |path: &PathBuf| Program::Switch.at(path);
    let binaries = match args.switch_binary.as_slice() {
        [] => vec![Program::Switch.find()?],
        given => given.iter().map(at).collect::<Result<_>>()?,
    };
    let seconds = args.seconds.unwrap_or(if args.quick { 0.5 } else { 2.0 });
    let plan = overload::Plan {
        binaries,
        payload_len: usize::from(args.payload),
        mbit_per_s: args.mbit,
        trial: Duration::try_from_secs_f64(seconds).context("a trial takes some seconds")?,
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 5 }),
        args: args.args.split_whitespace().map(String::from).collect(),
        quiet_within: Duration::from_secs(if args.quick { 0 } else { 30 }),
    };
    let overload = plan.measure(&mut |line| eprintln!("{line}"))?;
    overload.write(&args.out)?;
    println!("\n{}", overload.markdown());
    println!("All of it is in {}", args.out.display());
    Ok(())
}

fn operate(args: OperateArgs) -> Result<()> {
    let binary = match &args.switch_binary {
        Some(path) => Program::Switch.at(path)?,
        None => Program::Switch.find()?,
    };
    let plan = operate::Plan {
        binary,
        requests: args.requests.unwrap_or(if args.quick { 50 } else { 500 }),
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 5 }),
        seconds: args.seconds.unwrap_or(if args.quick { 1 } else { 5 }),
        quiet_within: Duration::from_secs(if args.quick { 0 } else { 30 }),
    };
    let figures = plan.measure(&mut |line| eprintln!("{line}"))?;
    figures.write(&args.out)?;
    println!("\n{}", figures.markdown());
    println!("All of it is in {}", args.out.display());
    Ok(())
}

fn soak(args: &SoakArgs) -> Result<()> {
    let seconds = |seconds| Duration::try_from_secs_f64(seconds).context("a time is above 0");
    let plan = soak::Plan {
        length: seconds(args.minutes * 60.0)?,
        workers: args.workers,
        loss_percent: args.loss,
        delay: seconds(args.delay / 1e3)?,
        seed: args.seed,
    };
    let soak = plan.run(&mut |line| eprintln!("{line}"))?;
    soak.write(&args.out)?;
    println!("\n{}", soak.markdown());
    println!("All of it is in {}", args.out.display());
    ensure!(soak.problems.is_empty(), "{} problems", soak.problems.len());
    Ok(())
}

fn discovery(args: DiscoveryArgs) -> Result<()> {
    let parts = if args.parts.is_empty() { Part::ALL.into() } else { args.parts };
    let idle = args.idle.unwrap_or(if args.quick { 10 } else { 60 });
    let plan = discovery::Plan {
        parts,
        runs: args.runs.unwrap_or(if args.quick { 2 } else { 10 }),
        idle: Duration::from_secs(idle),
    };
    let known = Figures::of_folder(&args.out)?;
    let figures = plan.measure(known, &mut |line| eprintln!("{line}"))?;
    figures.write(&args.out)?;
    println!("\n{}", figures.markdown());
    println!("All of it is in {}", args.out.display());
    Ok(())
}

fn demo(args: &DemoArgs) -> Result<()> {
    let binary = match &args.switch_binary {
        Some(path) => Program::Switch.at(path)?,
        None => Program::Switch.find()?,
    };
    demo::run(&binary)
}

fn wire(args: &WireArgs) -> Result<()> {
    let ms = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).context("a time in ms is above 0");
    let mut impairments = Impairments {
        loss: args.loss / 100.0,
        duplication: args.duplication / 100.0,
        reordering: args.reordering / 100.0,
        delay: ms(args.delay)?,
        jitter: ms(args.jitter)?,
        rate_bits_per_s: args.rate.map(|mbit| mbit.saturating_mul(1_000_000)),
        ..Impairments::default()
    };
    impairments.mtu = args.mtu.unwrap_or(impairments.mtu);
    let mut options = WireOptions::new(args.seed).impairments(impairments);
    if let Some(path) = &args.pcap {
        options = options.capture(path);
    }
    let tap = |end: &str| match end.split_once('@') {
        Some((name, netns)) => lab::enter_netns(netns, || Tap::create(name))?,
        None => Tap::create(end),
    };
    let wire = Wire::start([tap(&args.a)?, tap(&args.b)?], &options)?;
    eprintln!("a wire between {} and {}, seed {}; Ctrl-C ends it", args.a, args.b, args.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    })?;
    let [a_to_b, b_to_a] = wire.stop()?;
    println!("{}", serde_json::json!({ "a_to_b": a_to_b, "b_to_a": b_to_a }));
    Ok(())
}

fn clean() -> Result<()> {
    let removed = lab::clean()?;
    removed.iter().for_each(|name| println!("removed {name}"));
    if removed.is_empty() {
        println!("nothing was left behind");
    }
    Ok(())
}
