//! UDP: offloads, buffers, IPv6.

use std::{fs, net::UdpSocket};

use super::{Row, host::KernelVersion};
use crate::exit::ExitCode;

/// Receive offload came last, in 5.0; send offload in 4.18.
const UDP_GRO_KERNEL: KernelVersion = (5, 0);
/// Room for what comes in within 6 ms at 5 Gbit/s; less costs packets when the worker is kept from running.
const SOCKET_BUFFER_BYTES: u64 = 4 * 1024 * 1024;

/// The kernel's version stands for the socket options: no configuration leaves them out.
pub(super) fn udp_offloads(kernel: Option<KernelVersion>) -> Row {
    const WHAT: &str = "UDP GSO and GRO";
    match kernel {
        Some(version) if version >= UDP_GRO_KERNEL => Row::ok(WHAT, "in this kernel"),
        Some(_) => Row::missing(WHAT, ExitCode::Failed, "not in this kernel", "install kernel 6.1"),
        None => Row::limited(WHAT, "unknown", "mount /proc"),
    }
}

pub(super) fn socket_buffers() -> [Row; 2] {
    [
        socket_buffer("receive buffer", "net.core.rmem_max", "/proc/sys/net/core/rmem_max"),
        socket_buffer("send buffer", "net.core.wmem_max", "/proc/sys/net/core/wmem_max"),
    ]
}

fn socket_buffer(what: &'static str, sysctl: &str, path: &str) -> Row {
    let limit = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    buffer_row(what, sysctl, limit)
}

/// Outside user namespaces CAP_NET_ADMIN passes the limit, so a small one is never more than a limitation.
fn buffer_row(what: &'static str, sysctl: &str, limit_bytes: Option<u64>) -> Row {
    match limit_bytes {
        Some(limit) if limit >= SOCKET_BUFFER_BYTES => {
            Row::ok(what, format!("up to {} KiB", limit / 1024))
        }
        Some(limit) => Row::limited(
            what,
            format!("up to {} KiB without CAP_NET_ADMIN of the host", limit / 1024),
            format!("`sysctl -w {sysctl}={SOCKET_BUFFER_BYTES}`"),
        ),
        None => Row::limited(
            what,
            "limit unknown (a network namespace hides it)",
            format!("on the host: `sysctl -w {sysctl}={SOCKET_BUFFER_BYTES}`"),
        ),
    }
}

pub(super) fn ipv6() -> Row {
    const WHAT: &str = "IPv6";
    match UdpSocket::bind("[::]:0") {
        Ok(_) => Row::ok(WHAT, "available"),
        Err(error) => Row::limited(
            WHAT,
            format!("{error}; tunnels use IPv4 alone"),
            "`sysctl -w net.ipv6.conf.all.disable_ipv6=0`, or boot without ipv6.disable=1",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn small_buffers_are_limited_and_name_the_sysctl() {
        let row = buffer_row("receive buffer", "net.core.rmem_max", Some(212_992));
        assert_eq!(row.status, Status::Limited);
        assert!(row.cure.unwrap().contains("sysctl -w net.core.rmem_max="));
        assert_eq!(buffer_row("x", "y", Some(1 << 24)).status, Status::Ok);
        assert_eq!(buffer_row("x", "y", None).status, Status::Limited);
    }

    #[test]
    fn old_kernels_lack_udp_offloads() {
        assert_eq!(udp_offloads(Some((4, 18))).status, Status::Missing(ExitCode::Failed));
        assert_eq!(udp_offloads(Some((5, 0))).status, Status::Ok);
    }
}
