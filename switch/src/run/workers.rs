//! The workers' threads: how many, what each begins with, what becomes of one that cannot go on.

use std::{
    fmt,
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::Context as _;
use crossbeam::channel::{Receiver, Sender, bounded};
use ipop_control::identity::Identity;
use ipop_datapath::{
    command::Event,
    core::CoreConfig,
    engine::{Order, Uring, Worker, WorkerConfig, WorkerHandle},
    os::OsError,
    quic::{Congestion, TlsIdentity},
};

use super::{MESSAGES, Message, Switch, os_failure};
use crate::{
    exit::Failure,
    settings::{self, Workers},
};

/// More workers than this are never started by themselves: one carries several Gbit/s, and the host has other work.
const AUTO_WORKERS_MAX: usize = 4;

pub(super) struct RunningWorker {
    pub(super) handle: WorkerHandle,
    pub(super) thread: JoinHandle<()>,
}

impl Switch {
    pub(super) fn start_workers(&mut self, identity: &Identity) -> Result<(), Failure> {
        let count = self.facts.lanes;
        let handles = (0..count)
            .map(|_| WorkerHandle::new())
            .collect::<Result<Vec<_>, _>>()
            .map_err(os_failure)?;
        let identity = Arc::new(tls_identity(identity));
        let congestion = match self.settings.congestion {
            settings::Congestion::Tunnel => Congestion::Tunnel,
            settings::Congestion::Cubic => Congestion::Cubic,
        };
        let (events, worker_events) = bounded(MESSAGES);
        forward_events(worker_events, self.messages.clone())?;
        let (ready, readiness) = bounded(usize::from(count));
        for worker in 0..count {
            let (table, sockets) =
                self.devices.take_sockets().context("a worker lacks its sockets")?;
            let core = CoreConfig {
                worker,
                facts: self.facts.clone(),
                shared: self.shared.clone(),
                identity: identity.clone(),
                admission: self.node.trust().clone(),
                congestion,
                sockets: table,
                udp_ports: self.devices.udp_ports(),
                rng_seed: None,
            };
            let config = WorkerConfig {
                core,
                ports: self.devices.ports_of(worker).map_err(os_failure)?,
                sockets,
                workers: handles.clone(),
                events: events.clone(),
                busy_poll: self.settings.busy_poll.0,
            };
            let handle = handles[usize::from(worker)].clone();
            let thread = spawn_worker(worker, config, self.messages.clone(), ready.clone())?;
            self.workers.push(RunningWorker { handle, thread });
        }
        for _ in 0..count {
            readiness.recv().context("a worker died while starting")?.map_err(os_failure)?;
        }
        Ok(())
    }

    pub(super) fn command(&self, worker: usize, order: impl Into<Order>) {
        if self.workers[worker].handle.send(order).is_err() {
            tracing::error!("worker {worker} does not take commands: it hangs");
        }
    }
}

/// What tunnels need of the key.
pub(crate) fn tls_identity(identity: &Identity) -> TlsIdentity {
    TlsIdentity {
        node: identity.node_id(),
        certificate: identity.certificate_der(),
        key: identity.private_key_der(),
        cid_secret: identity.derive_key(b"ipop-switch cid 1"),
        reset_secret: identity.derive_key(b"ipop-switch reset 1"),
    }
}

fn spawn_worker(
    number: u8,
    config: WorkerConfig,
    messages: Sender<Message>,
    ready: Sender<Result<(), OsError>>,
) -> Result<JoinHandle<()>, Failure> {
    let run = move || {
        // The ring belongs to the thread that made it.
        let worker = match Worker::<Uring>::new(config) {
            Ok(worker) => worker,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        let alarm = PanicAlarm { number, messages };
        if let Err(error) = worker.run() {
            alarm.raise(WorkerFailure::Kernel(error));
        }
    };
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(run)
        .context("cannot start a worker's thread")
        .map_err(Failure::from)
}

/// Why a worker cannot go on.
pub(crate) enum WorkerFailure {
    /// The kernel refused what it needs.
    Kernel(OsError),
    /// It has a bug.
    Panicked,
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => error.fmt(f),
            Self::Panicked => {
                f.write_str("it panicked, which is a bug: please report the message above")
            }
        }
    }
}

/// Tells control when a worker's thread panics: without it the switch would go on without that worker.
struct PanicAlarm {
    number: u8,
    messages: Sender<Message>,
}

impl PanicAlarm {
    fn raise(&self, why: WorkerFailure) {
        let _ = self.messages.send(Message::WorkerFailed(self.number, why));
    }
}

impl Drop for PanicAlarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.raise(WorkerFailure::Panicked);
        }
    }
}

/// The workers' events into the control thread's one channel.
fn forward_events(events: Receiver<Event>, messages: Sender<Message>) -> Result<(), Failure> {
    let forward = move || {
        for event in events {
            if messages.send(Message::Worker(event)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("events".into()).spawn(forward).context("cannot start a thread")?;
    Ok(())
}

/// The threads that carry frames.
pub(crate) fn worker_count(workers: Workers) -> u8 {
    match workers {
        Workers::Count(count) => count.get(),
        Workers::Auto => {
            // What the scheduler lets this program use, not what the host has.
            let usable = thread::available_parallelism().map_or(1, usize::from);
            usable.clamp(1, AUTO_WORKERS_MAX) as u8
        }
    }
}
