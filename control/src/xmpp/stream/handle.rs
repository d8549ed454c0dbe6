//! The program's ends of the two queues, and the thread behind them.

use std::{io, sync::Arc, thread, time::Duration};

use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use tokio::{runtime, sync::mpsc};

use super::{Account, Counters, FromStream, Limits, ToStream, actor::Actor};

/// Name lookups that the resolver does not finish are not waited for at the end.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(100);

/// Asks things of the stream. The thread ends when it is told to, or when all of these or the [`Events`] are gone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<ToStream>,
    counters: Arc<Counters>,
}

/// What the stream tells.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<FromStream>,
}

/// The queue to the stream is full or its thread has ended; here is what was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the XMPP stream takes nothing more for now")]
pub struct QueueFull(pub ToStream);

/// Starts the thread, which logs in at once.
pub fn spawn(account: Account, limits: Limits) -> io::Result<(Handle, Events)> {
    let (commands, command_queue) = mpsc::channel(limits.queued_stanzas.max(1));
    let (event_queue, events) = mpsc::channel(limits.queued_events.max(1));
    let counters = Arc::<Counters>::default();
    let actor = Actor::new(
        account,
        limits,
        command_queue,
        event_queue,
        randomness()?,
        Arc::clone(&counters),
    );
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("xmpp".to_owned()).spawn(move || {
        runtime.block_on(actor.run());
        runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    })?;
    Ok((Handle { commands, counters }, Events { events }))
}

fn randomness() -> io::Result<(u64, String)> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers"))?;
    let (seed, prefix) = random.split_at(8);
    let seed = seed.iter().fold(0, |seed, &byte| seed << 8 | u64::from(byte));
    Ok((seed, HEXLOWER.encode(prefix)))
}

impl Handle {
    /// Never waits.
    pub fn send(&self, command: ToStream) -> Result<(), QueueFull> {
        self.commands.try_send(command).map_err(|error| QueueFull(error.into_inner()))
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Events {
    /// Waits for the next event, on a thread that may block. `None` when the stream's thread has ended.
    pub fn recv(&mut self) -> Option<FromStream> {
        self.events.blocking_recv()
    }

    /// Waits for the next event, in a runtime.
    pub async fn next(&mut self) -> Option<FromStream> {
        self.events.recv().await
    }
}
