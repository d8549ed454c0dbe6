//! An Ethernet wire between two TAPs that loses, delays, duplicates and reorders frames, or is cut.
//!
//! The kernel's netem is not everywhere, and impairments of veth hit whole GSO trains; here each packet is a real one,
//! as on a wire. What happens to which frame is decided by a seed.
//!
//! * `tap`: a TAP without offloads.
//! * `line`: the fate of each frame; pure.
//! * `pump`: the thread that carries them.
//! * `capture`: what arrived, in a file.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # use ipop_perf::{lab::Lab, wire::{Impairments, WireOptions}};
//! let lab = Lab::new("example")?;
//! let (a, b) = (lab.host("a")?, lab.host("b")?);
//! let lossy = Impairments { loss: 0.01, ..Impairments::default() };
//! let (wire, link) = lab.wire(&a, &b, &WireOptions::new(42).impairments(lossy))?;
//! wire.change(|both| both.mtu = 1280);
//! wire.cut();
//! wire.heal();
//! # Ok(()) }
//! ```

mod capture;
mod line;
mod pump;
mod tap;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use rustix::event::{EventfdFlags, eventfd};

use self::{
    capture::Capture,
    pump::{Pump, Shared},
};
pub use self::{
    line::{Carrier, Impairments},
    pump::Counters,
    tap::Tap,
};

/// How a wire is made.
#[derive(Clone, Debug)]
pub struct WireOptions {
    seed: u64,
    impairments: Impairments,
    capture: Option<PathBuf>,
    /// The MTU of the TAPs at the ends of a lab's wire.
    pub(crate) tap_mtu: u32,
}

impl WireOptions {
    /// A wire that does nothing to frames, and this seed for when it does.
    pub fn new(seed: u64) -> Self {
        Self { seed, impairments: Impairments::default(), capture: None, tap_mtu: 1500 }
    }

    /// What it does in both directions at first.
    #[must_use]
    pub fn impairments(mut self, impairments: Impairments) -> Self {
        self.impairments = impairments;
        self
    }

    /// The MTU that the interfaces at its ends have, by default 1500. A smaller [`Impairments::mtu`] is a path that the
    /// hosts don't know of.
    #[must_use]
    pub fn tap_mtu(mut self, mtu: u32) -> Self {
        self.tap_mtu = mtu;
        self
    }

    /// Write what arrives to this file.
    #[must_use]
    pub fn capture(mut self, path: impl Into<PathBuf>) -> Self {
        self.capture = Some(path.into());
        self
    }
}

/// The direction of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// From the first end to the second.
    B = 0,
    /// From the second end to the first.
    A = 1,
}

/// A running wire; dropping it takes the TAPs away.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Wire {
    /// Connects two TAPs, which may have been made in different namespaces.
    ///
    /// # Errors
    /// When the capture file can't be made, or the kernel gives no event or thread.
    pub fn start(taps: [Tap; 2], options: &WireOptions) -> Result<Self> {
        let capture = options.capture.as_deref().map(|path: &Path| Capture::create(path));
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let shared = Arc::new(Shared {
            impairments: Mutex::new([options.impairments; 2]),
            changed: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            wake: wake.context("making an eventfd")?,
            counters: Mutex::default(),
        });
        let pump = Pump::new(shared.clone(), taps, options.seed, capture.transpose()?);
        let thread = thread::Builder::new().name("wire".into()).spawn(move || pump.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Changes what it does in both directions, from the next batch of frames on: within microseconds.
    pub fn change(&self, change: impl Fn(&mut Impairments)) {
        self.edit(|both| both.iter_mut().for_each(&change));
    }

    /// Changes what it does in one direction.
    pub fn change_towards(&self, towards: Towards, change: impl FnOnce(&mut Impairments)) {
        self.edit(|both| change(&mut both[towards as usize]));
    }

    /// Carries nothing more, until it is healed.
    pub fn cut(&self) {
        self.change(|both| both.carrier = Carrier::Cut);
    }

    /// Carries again.
    pub fn heal(&self) {
        self.change(|both| both.carrier = Carrier::Connected);
    }

    /// What became of the frames towards this end.
    pub fn counters(&self, towards: Towards) -> Counters {
        self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner)[towards as usize]
    }

    /// Ends it, and gives back the counters, those towards the second end first.
    ///
    /// # Errors
    /// When a TAP was taken away, or the capture could not be written.
    pub fn stop(mut self) -> Result<[Counters; 2]> {
        self.end()?;
        Ok([self.counters(Towards::B), self.counters(Towards::A)])
    }

    fn edit(&self, edit: impl FnOnce(&mut [Impairments; 2])) {
        edit(&mut self.shared.impairments.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // It fails only when the counter is at its limit, and then the thread wakes anyway.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the wire's thread panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("wire: {error:#}");
        }
    }
}
