//! io_uring: whether a ring can be made, and if not, who forbids it.

use std::{fs, io};

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;

use super::{Row, host::KernelVersion};
use crate::exit::ExitCode;

/// Entries of the ring that is made as a trial.
const TRIAL_ENTRIES: u32 = 8;
/// What the datapath submits.
const OPERATIONS: [(&str, u8); 5] = [
    ("recvmsg", opcode::RecvMsg::CODE),
    ("sendmsg", opcode::SendMsg::CODE),
    ("read", opcode::Read::CODE),
    ("writev", opcode::Writev::CODE),
    ("poll", opcode::PollAdd::CODE),
];

/// Makes a ring as a worker does. DEFER_TASKRUN (6.1) implies multishot recvmsg (6.0) and buffer rings (5.19).
pub(super) fn ring(kernel: Option<KernelVersion>) -> Row {
    const WHAT: &str = "io_uring";
    let error = match worker_ring() {
        Ok(_) => {
            let found = "DEFER_TASKRUN, multishot recvmsg, buffer rings";
            return Row::ok(WHAT, found);
        }
        Err(error) => error,
    };
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let hindrance = Hindrance::of(&error, kernel, disabled.as_deref(), under_seccomp());
    Row::missing(WHAT, hindrance.exit_code(), error.to_string(), hindrance.cure())
}

pub(super) fn operations() -> Row {
    const WHAT: &str = "io_uring operations";
    let Ok(ring) = worker_ring() else { return Row::not_tried(WHAT, "needs io_uring") };
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        let cure = "allow the system call io_uring_register";
        return Row::missing(WHAT, ExitCode::Failed, format!("cannot be probed: {error}"), cure);
    }
    let missing: Vec<_> =
        OPERATIONS.iter().filter(|(_, code)| !probe.is_supported(*code)).map(|op| op.0).collect();
    if missing.is_empty() {
        let names: Vec<_> = OPERATIONS.iter().map(|op| op.0).collect();
        return Row::ok(WHAT, names.join(", "));
    }
    let found = format!("without {}", missing.join(", "));
    Row::missing(WHAT, ExitCode::Failed, found, "install kernel 6.1 or newer")
}

fn worker_ring() -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(TRIAL_ENTRIES)
}

/// Who keeps a ring from being made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hindrance {
    /// `kernel.io_uring_disabled` is 1: only some may.
    SysctlGroup,
    /// `kernel.io_uring_disabled` is 2: nobody may.
    SysctlAll,
    /// A seccomp filter, as containers have.
    Seccomp,
    /// The kernel is too old.
    OldKernel,
    /// The kernel was built without it.
    NotBuilt,
    /// The limit of locked memory.
    Memory,
    /// A security module, most likely.
    Policy,
}

impl Hindrance {
    fn of(
        error: &io::Error,
        kernel: Option<KernelVersion>,
        sysctl: Option<&str>,
        seccomp: Seccomp,
    ) -> Self {
        match (Errno::from_io_error(error), sysctl.map(str::trim)) {
            (Some(Errno::PERM), Some("2")) => Self::SysctlAll,
            (Some(Errno::PERM), Some("1")) => Self::SysctlGroup,
            (Some(Errno::PERM | Errno::NOSYS), _) if seccomp == Seccomp::Filtered => Self::Seccomp,
            (Some(Errno::NOSYS), _) if kernel.is_some_and(|version| version >= (5, 1)) => {
                Self::NotBuilt
            }
            (Some(Errno::INVAL | Errno::NOSYS), _) => Self::OldKernel,
            (Some(Errno::NOMEM), _) => Self::Memory,
            _ => Self::Policy,
        }
    }

    fn exit_code(self) -> ExitCode {
        match self {
            Self::SysctlGroup | Self::SysctlAll | Self::Seccomp | Self::Policy => {
                ExitCode::Permission
            }
            Self::OldKernel | Self::NotBuilt | Self::Memory => ExitCode::Failed,
        }
    }

    fn cure(self) -> &'static str {
        match self {
            Self::SysctlGroup => {
                "`sysctl -w kernel.io_uring_disabled=0`; or run as root; or put the user into the group \
                 of kernel.io_uring_group"
            }
            Self::SysctlAll => "`sysctl -w kernel.io_uring_disabled=0` (2 forbids it to everybody)",
            Self::Seccomp => {
                "the container's seccomp profile forbids it: allow io_uring_setup, io_uring_enter and \
                 io_uring_register, or use --security-opt seccomp=unconfined; in a systemd unit add \
                 @io-event and io_uring_* to SystemCallFilter="
            }
            Self::OldKernel => "install kernel 6.1 or newer",
            Self::NotBuilt => "use a kernel built with CONFIG_IO_URING",
            Self::Memory => "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit",
            Self::Policy => "look for a denial of io_uring by SELinux or AppArmor in the audit log",
        }
    }
}

/// Whether a seccomp filter is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seccomp {
    None,
    Filtered,
}

fn under_seccomp() -> Seccomp {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match status.lines().find_map(|line| line.strip_prefix("Seccomp:")) {
        Some(mode) if mode.trim() != "0" => Seccomp::Filtered,
        _ => Seccomp::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hindrance_is_told_from_error_sysctl_and_filter() {
        let told = |errno: Errno, kernel, sysctl, seccomp| {
            Hindrance::of(&errno.into(), Some(kernel), sysctl, seccomp)
        };
        let new = (6, 18);
        for (hindrance, expected) in [
            (told(Errno::PERM, new, Some("2\n"), Seccomp::Filtered), Hindrance::SysctlAll),
            (told(Errno::PERM, new, Some("1\n"), Seccomp::None), Hindrance::SysctlGroup),
            (told(Errno::PERM, new, Some("0\n"), Seccomp::Filtered), Hindrance::Seccomp),
            (told(Errno::NOSYS, new, None, Seccomp::Filtered), Hindrance::Seccomp),
            (told(Errno::NOSYS, new, None, Seccomp::None), Hindrance::NotBuilt),
            (told(Errno::NOSYS, (4, 19), None, Seccomp::None), Hindrance::OldKernel),
            (told(Errno::INVAL, (5, 15), None, Seccomp::None), Hindrance::OldKernel),
            (told(Errno::NOMEM, new, None, Seccomp::None), Hindrance::Memory),
            (told(Errno::PERM, new, Some("0"), Seccomp::None), Hindrance::Policy),
        ] {
            assert_eq!(hindrance, expected);
        }
        assert!(Hindrance::SysctlAll.cure().contains("kernel.io_uring_disabled"));
        assert!(Hindrance::Seccomp.cure().contains("seccomp"));
    }
}
