//! How the kernel schedules a worker's thread.
//!
//! A worker runs often and briefly. With the scheduler's usual slice of some milliseconds whoever runs on its processor (the programs
//! whose frames it carries, as a rule) may finish a slice first, and frames wait all that while: a round trip under load takes 10 ms. The fair
//! scheduler (EEVDF, Linux 6.12) lets a thread ask for a shorter slice: it then runs sooner and for a shorter time, with the same share of the processor.
//! That needs no privilege.

use std::io;

/// About the time in which a worker carries a megabyte; the kernel's least is 100 us.
const SLICE_NS: u64 = 200_000;

/// Asks for short slices for the calling thread. Kernels before 6.12 take the wish and ignore it.
///
/// # Errors
/// If the kernel refuses, as under a seccomp profile without `sched_setattr`; or if the thread was given a policy that has no such slices.
pub(crate) fn ask_for_short_slices() -> io::Result<()> {
    let mut attributes = attributes()?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the scheduling policy is not SCHED_OTHER",
        ));
    }
    attributes.sched_runtime = SLICE_NS;
    let this_thread: libc::pid_t = 0;
    let flags: libc::c_uint = 0;
    // SAFETY: the kernel reads as much of the attributes as their own size field says, which `attributes` set to the structure's.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_setattr, this_thread, &raw const attributes, flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The calling thread's, so that its nice value stays.
fn attributes() -> io::Result<libc::sched_attr> {
    let len = size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: all-zero is a valid `sched_attr`, which consists of integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let this_thread: libc::pid_t = 0;
    let flags: libc::c_uint = 0;
    // SAFETY: the kernel writes at most `len` bytes, the structure's size.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_getattr, this_thread, &raw mut attributes, len, flags)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    attributes.size = len;
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_the_slice_and_keeps_its_nice_value() {
        std::thread::spawn(|| {
            let before = attributes().unwrap();
            if before.sched_policy != libc::SCHED_OTHER as u32 {
                assert!(ask_for_short_slices().is_err());
                return;
            }
            ask_for_short_slices().unwrap();
            let after = attributes().unwrap();
            assert_eq!(after.sched_nice, before.sched_nice);
            assert_eq!(after.sched_policy, before.sched_policy);
            // Kernels without slices of one's own report none.
            assert!([0, SLICE_NS].contains(&after.sched_runtime), "{}", after.sched_runtime);
        })
        .join()
        .unwrap();
    }
}
