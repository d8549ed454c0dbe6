//! Ports of a Linux bridge, through rtnetlink(7): what `/sys` would do as well is reserved to root there, and to CAP_NET_ADMIN here.

use rustix::io::Errno;

use super::netlink::Request;

/// Attribute of a bridge port, from `linux/if_link.h`; not in `libc`.
const IFLA_BRPORT_FLUSH: u16 = 24;

/// Lets the bridge that the interface with this index is a port of forget the stations that it has learned there.
pub(super) fn flush_port(index: i32) -> Result<(), Errno> {
    flush_request(index).send()
}

/// `ifinfomsg` of the bridge family, and the port's attributes nested in one.
fn flush_request(index: i32) -> Request {
    let family_and_type = [libc::AF_BRIDGE as u8, 0, 0, 0];
    // Flags and the mask of those to change: none.
    let fixed = [&family_and_type[..], &index.to_ne_bytes(), &[0; 8]].concat();
    let flush = [4_u16.to_ne_bytes(), IFLA_BRPORT_FLUSH.to_ne_bytes()].concat();
    let nested = libc::IFLA_PROTINFO | libc::NLA_F_NESTED as u16;
    Request::new(libc::RTM_SETLINK, 0, &fixed).attribute(nested, &flush)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_nested_in_the_ports_attributes() {
        let message = flush_request(7).finish();
        assert_eq!(message[16..24], [[7, 0, 0, 0], 7_i32.to_ne_bytes()].concat());
        assert_eq!(message[32..], [8, 0, 12, 0x80, 4, 0, 24, 0]);
    }

    #[test]
    fn there_is_no_such_port() {
        // No interface has this index; without CAP_NET_ADMIN the kernel does not even look.
        let error = flush_port(i32::MAX).unwrap_err();
        assert!([Errno::NODEV, Errno::PERM].contains(&error), "{error}");
    }
}
