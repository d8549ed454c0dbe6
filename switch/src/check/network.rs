//! UDP: offloads, buffers, IPv6. A socket is opened as a worker does, and asked what it got.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
};

use ipop_datapath::os::{
    OsError,
    udp::{self, SOCKET_BUFFER_BYTES, UdpPort},
};

use super::Row;
use crate::exit::ExitCode;

pub(super) fn udp() -> Vec<Row> {
    match udp::ephemeral((Ipv4Addr::LOCALHOST, 0).into()) {
        Ok(port) => rows_of(&port),
        Err(error) => vec![no_socket(&error)],
    }
}

fn no_socket(error: &OsError) -> Row {
    let cure = "allow the system calls socket and bind; bring the loopback interface up";
    Row::missing("UDP", ExitCode::Failed, error.to_string(), cure)
}

fn rows_of(port: &UdpPort) -> Vec<Row> {
    let buffer = |what, sysctl: &str, granted| {
        let path = format!("/proc/sys/{}", sysctl.replace('.', "/"));
        buffer_row(what, sysctl, granted, fs::metadata(path).is_ok())
    };
    vec![
        offload_row(port.gso, port.gro),
        buffer("receive buffer", "net.core.rmem_max", port.receive_buffer),
        buffer("send buffer", "net.core.wmem_max", port.send_buffer),
    ]
}

fn offload_row(gso: bool, gro: bool) -> Row {
    const WHAT: &str = "UDP GSO and GRO";
    let found = match (gso, gro) {
        (true, true) => return Row::ok(WHAT, "both"),
        (true, false) => "GSO only",
        (false, true) => "GRO only",
        (false, false) => "neither",
    };
    let cure = "a kernel of your own sends and receives trains of packets; an emulated one (gVisor) may not";
    Row::limited(WHAT, format!("{found}; each packet costs a system call of its own"), cure)
}

/// `granted` is as the kernel counts: twice what was asked for.
fn buffer_row(what: &'static str, sysctl: &str, granted: usize, visible: bool) -> Row {
    let (granted, wanted) = (granted / 2, SOCKET_BUFFER_BYTES);
    let found = format!("{} of {} KiB", granted / 1024, wanted / 1024);
    if granted >= wanted {
        return Row::ok(what, found);
    }
    // Network namespaces other than the first neither show nor change it.
    let place = if visible { "" } else { "on the host: " };
    Row::limited(what, found, format!("{place}`sysctl -w {sysctl}={wanted}`"))
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
        let row = buffer_row("receive buffer", "net.core.rmem_max", 2 * 212_992, true);
        assert_eq!((row.status, row.found.as_str()), (Status::Limited, "208 of 4096 KiB"));
        assert_eq!(row.cure.unwrap(), "`sysctl -w net.core.rmem_max=4194304`");
        let hidden = buffer_row("x", "net.core.rmem_max", 4_096, false);
        assert!(hidden.cure.unwrap().starts_with("on the host: "));
        assert_eq!(buffer_row("x", "y", 2 * SOCKET_BUFFER_BYTES, true).status, Status::Ok);
    }

    #[test]
    fn a_missing_offload_costs_speed_only() {
        assert_eq!(offload_row(true, true).status, Status::Ok);
        for (gso, gro, word) in
            [(true, false, "GSO only"), (false, true, "GRO only"), (false, false, "neither")]
        {
            let row = offload_row(gso, gro);
            assert!(row.status == Status::Limited && row.found.starts_with(word), "{row:?}");
        }
    }

    #[test]
    fn a_real_socket_answers_three_rows() {
        let whats: Vec<_> = udp().iter().map(|row| row.what).collect();
        assert_eq!(whats, ["UDP GSO and GRO", "receive buffer", "send buffer"]);
    }
}
