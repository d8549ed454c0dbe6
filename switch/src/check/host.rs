//! The kernel, permissions, processors and limits.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::Row;
use crate::exit::ExitCode;

/// Major and minor number.
pub(super) type KernelVersion = (u32, u32);

/// The least kernel: the first with `IORING_SETUP_DEFER_TASKRUN`.
const LEAST_KERNEL: KernelVersion = (6, 1);
/// The first with offloads for UDP superframes on a TAP.
const USO_KERNEL: KernelVersion = (6, 2);
/// Each peer, lane and TAP queue takes a few file descriptors.
const OPEN_FILES: u64 = 1_024;
const CAP_NET_ADMIN: u32 = 12;

pub(super) fn kernel_version() -> Option<KernelVersion> {
    parse_kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").ok()?)
}

pub(super) fn kernel(version: Option<KernelVersion>) -> Row {
    const WHAT: &str = "kernel";
    let Some(version @ (major, minor)) = version else {
        let cure = "mount /proc; the other rows tell what works";
        return Row::limited(WHAT, "version unknown", cure);
    };
    let found = format!("{major}.{minor}");
    if version < LEAST_KERNEL {
        let cure = "install kernel 6.1 or newer";
        return Row::missing(WHAT, ExitCode::Failed, found, cure);
    }
    if version < USO_KERNEL {
        return Row::limited(
            WHAT,
            found,
            "6.2 or newer passes UDP superframes through the TAP too",
        );
    }
    Row::ok(WHAT, found)
}

pub(super) const NET_ADMIN: &str = "CAP_NET_ADMIN";

pub(super) fn net_admin() -> Row {
    const WHAT: &str = NET_ADMIN;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&status) {
        Some(capabilities) if capabilities & (1 << CAP_NET_ADMIN) != 0 => {
            Row::ok(WHAT, "effective")
        }
        Some(_) => Row::missing(
            WHAT,
            ExitCode::Permission,
            "not effective",
            "run as root; or `setcap cap_net_admin+ep ipop-switch`; or AmbientCapabilities=CAP_NET_ADMIN \
             in the systemd unit; or --cap-add NET_ADMIN for the container",
        ),
        None => Row::limited(WHAT, "unknown", "mount /proc"),
    }
}

pub(super) fn processors() -> Row {
    const WHAT: &str = "processors";
    match std::thread::available_parallelism() {
        Ok(count) if count.get() > 1 => Row::ok(WHAT, format!("{count}")),
        Ok(count) => {
            let cure = "with a second one the kernel's work and the switch's run side by side";
            Row::limited(WHAT, format!("{count}"), cure)
        }
        Err(error) => Row::limited(WHAT, error.to_string(), "give --workers N"),
    }
}

pub(super) fn aes() -> Row {
    const WHAT: &str = "AES instructions";
    #[cfg(target_arch = "x86_64")]
    let (aes, vector) =
        (std::arch::is_x86_feature_detected!("aes"), std::arch::is_x86_feature_detected!("vaes"));
    #[cfg(target_arch = "aarch64")]
    let (aes, vector) = (std::arch::is_aarch64_feature_detected!("aes"), false);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let (aes, vector) = (false, false);
    match (aes, vector) {
        (true, true) => Row::ok(WHAT, "AES and VAES"),
        (true, false) => Row::ok(WHAT, "AES"),
        (false, _) => Row::limited(
            WHAT,
            "none, ChaCha20-Poly1305 is used",
            "in a virtual machine pass the host's processor through (cpu host)",
        ),
    }
}

pub(super) fn open_files() -> Row {
    const WHAT: &str = "open files";
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < OPEN_FILES => Row::limited(
            WHAT,
            format!("at most {limit}"),
            format!("`ulimit -n {OPEN_FILES}`, or LimitNOFILE={OPEN_FILES} in the systemd unit"),
        ),
        Some(limit) => Row::ok(WHAT, format!("at most {limit}")),
        None => Row::ok(WHAT, "unlimited"),
    }
}

fn parse_kernel(release: &str) -> Option<KernelVersion> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn kernel_versions_of_distributions_are_read() {
        for (release, version) in [
            ("6.18.44-fc\n", Some((6, 18))),
            ("5.15.0-105-generic", Some((5, 15))),
            ("6.1", Some((6, 1))),
            ("linux", None),
            ("", None),
        ] {
            assert_eq!(parse_kernel(release), version, "{release}");
        }
        assert_eq!(kernel(Some((6, 0))).status, Status::Missing(ExitCode::Failed));
        assert_eq!(kernel(Some((6, 1))).status, Status::Limited);
        assert_eq!(kernel(Some((10, 0))).status, Status::Ok);
    }

    #[test]
    fn capabilities_are_found_in_the_status_file() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\nCapBnd:\t0\n";
        assert_eq!(effective_capabilities(status), Some(1 << CAP_NET_ADMIN));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
