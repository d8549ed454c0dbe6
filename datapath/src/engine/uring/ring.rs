//! One io_uring, owned by one thread.
//!
//! `SINGLE_ISSUER | DEFER_TASKRUN` (kernel 6.1): completions are worked off only when this thread waits, never in the middle of something else.
//! `TASKRUN_FLAG` shows without a system call that there is something to work off, which is what a polling thread looks at.

use std::{
    io,
    os::fd::RawFd,
    thread,
    time::{Duration, Instant},
};

use io_uring::{
    IoUring, cqueue, squeue,
    types::{CancelBuilder, Fd, SubmitArgs, Timespec},
};

use crate::os::OsError;

/// Operations that may wait for one submission.
const SUBMISSIONS: u32 = 256;
/// Completions that may wait to be read: what one submission can make, and what multishot operations add.
const COMPLETIONS: u32 = 2_048;

/// `IORING_ENTER_GETEVENTS`: run what was deferred.
const GET_EVENTS: u32 = 1;

/// Nothing that a worker starts takes long to cancel.
const CLOSE_WITHIN: Timespec = Timespec::new().sec(1);

/// What an operation was, carried in its user data: the kind in the top byte, an index below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Op {
    /// The doorbell rang.
    Doorbell = 1,
    /// A frame was read; index: queue and buffer.
    TapRead = 2,
    /// A frame was written; index: slot.
    TapWrite = 3,
    /// A train came in; index: socket.
    Receive = 4,
    /// A train went out; index: slot.
    Send = 5,
    /// A socket takes data again; index: socket.
    Writable = 6,
}

impl Op {
    pub(crate) fn user_data(self, index: u32) -> u64 {
        (self as u64) << 56 | u64::from(index)
    }

    fn of(user_data: u64) -> Option<Self> {
        Some(match user_data >> 56 {
            1 => Self::Doorbell,
            2 => Self::TapRead,
            3 => Self::TapWrite,
            4 => Self::Receive,
            5 => Self::Send,
            6 => Self::Writable,
            _ => return None,
        })
    }
}

/// A finished operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) op: Op,
    pub(crate) index: u32,
    /// Bytes, or a negated errno.
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Completion {
    /// Whether a multishot operation goes on.
    pub(crate) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that was used.
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// The ring of a worker.
pub(crate) struct Ring {
    pub(crate) uring: IoUring,
}

impl Ring {
    /// Sets a ring up for the calling thread, which alone may use it.
    pub(crate) fn new() -> Result<Self, OsError> {
        IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map(|uring| Self { uring })
            .map_err(explain)
    }

    /// Queues an operation, submitting earlier ones if the queue is full.
    ///
    /// # Safety
    /// What the entry points to must stay valid until its completion was read.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the caller keeps what the entry points to.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            self.submit();
        }
    }

    /// Submits what is queued.
    pub(crate) fn submit(&mut self) {
        // A full completion queue (EBUSY) is drained by the kernel as soon as there is room; other errors show again in `wait`.
        let _ = self.uring.submit();
    }

    /// Submits, and waits at most this long for something to complete.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<(), OsError> {
        if timeout.is_zero() {
            return self.run_deferred();
        }
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        done(self.uring.submitter().submit_with_args(1, &args))
    }

    /// Submits, and looks for completions for this long without going to sleep; true if there are some.
    ///
    /// Others that want the processor get it: on one that is shared the thread would otherwise keep from running the very programs
    /// whose frames it waits for.
    pub(crate) fn poll(&mut self, duration: Duration) -> Result<bool, OsError> {
        let until = Instant::now() + duration;
        self.run_deferred()?;
        while self.uring.completion().is_empty() {
            if Instant::now() >= until {
                return Ok(false);
            }
            if self.uring.submission().taskrun() {
                self.run_deferred()?;
            } else {
                thread::yield_now();
            }
        }
        Ok(true)
    }

    /// Submits, and runs what was deferred, without waiting.
    fn run_deferred(&mut self) -> Result<(), OsError> {
        let waiting = self.uring.submission().len() as u32;
        // SAFETY: no argument goes with it.
        done(unsafe {
            self.uring.submitter().enter::<libc::sigset_t>(waiting, 0, GET_EVENTS, None)
        })
    }

    /// Cancels what waits at a descriptor: it completes as cancelled.
    pub(crate) fn cancel(&mut self, at: RawFd) {
        self.submit();
        let at = CancelBuilder::fd(Fd(at)).all();
        // If nothing waits there it says so.
        let _ = self.uring.submitter().register_sync_cancel(Some(CLOSE_WITHIN), at);
    }

    /// Moves finished operations into `completions`.
    pub(crate) fn reap(&mut self, completions: &mut Vec<Completion>) {
        let queue = self.uring.completion();
        completions.extend(queue.filter_map(|entry| {
            Some(Completion {
                op: Op::of(entry.user_data())?,
                index: entry.user_data() as u32,
                result: entry.result(),
                flags: entry.flags(),
            })
        }));
    }
}

fn done(entered: io::Result<usize>) -> Result<(), OsError> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            // Time-out, signal, completions waiting to be read.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(OsError::new("waiting on the ring failed", error)),
        },
    }
}

impl Drop for Ring {
    /// Cancels what is under way and lets go of the registered files. Left to the kernel, that happens some time after the end of the
    /// program, and until then its TAPs stay.
    fn drop(&mut self) {
        let submitter = self.uring.submitter();
        // Nothing follows that could be told of a failure.
        let _ = submitter.register_sync_cancel(Some(CLOSE_WITHIN), CancelBuilder::any());
        let _ = submitter.unregister_files();
    }
}

/// Says why there is no ring, and how to get one.
fn explain(error: io::Error) -> OsError {
    let hint = match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel was built without io_uring; Linux 6.1 or later is needed",
        Some(libc::EPERM) => {
            "io_uring is forbidden here: `sysctl kernel.io_uring_disabled=0`, or in a container a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::EINVAL) => "Linux 6.1 or later is needed",
        Some(libc::ENOMEM) => "raise the locked-memory limit (`ulimit -l`)",
        _ => "",
    };
    OsError::new("cannot set up io_uring", error).hint(hint)
}
