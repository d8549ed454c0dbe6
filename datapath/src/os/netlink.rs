//! Requests to rtnetlink(7): one message, one acknowledgement, on a socket that lives for the request.

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
        recv, sendto, socket_with,
    },
};

/// `struct nlmsghdr`, with an `int` after it in an acknowledgement.
pub(super) const HEADER_LEN: usize = 16;

/// A message to the kernel: `nlmsghdr`, the fixed part of its kind, attributes.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// A request of this kind with these flags, besides those that every one has, and its fixed part, whose length must be a
    /// multiple of 4.
    pub(super) fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        debug_assert!(fixed.len().is_multiple_of(4), "attributes are aligned to 4 bytes");
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags;
        let mut message = vec![0; 4];
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags as u16).to_ne_bytes());
        // Sequence and port, which one message on a socket of its own does not need.
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(fixed);
        Self(message)
    }

    /// With one more attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// The message as the kernel reads it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }

    /// Sends it and waits for the kernel's answer.
    pub(super) fn send(self) -> Result<(), Errno> {
        // `None`: NETLINK_ROUTE.
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&socket, &self.finish(), SendFlags::empty(), &kernel)?;
        let mut answer = [0; 256];
        let (len, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        let code =
            answer[..len].get(HEADER_LEN..HEADER_LEN + 4).and_then(|code| code.try_into().ok());
        match code.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(code) => Err(Errno::from_raw_os_error(code.saturating_neg())),
            None => Err(Errno::PROTO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_say_their_length() {
        let message = Request::new(1, 0, &[9; 4]).attribute(7, &[5]).attribute(8, &[]).finish();
        assert_eq!(message.len(), HEADER_LEN + 4 + 8 + 4);
        assert_eq!(message[..4], 32_u32.to_ne_bytes());
        assert_eq!(message[20..24], [5_u16.to_ne_bytes(), 7_u16.to_ne_bytes()].concat());
        assert_eq!(message[24..28], [5, 0, 0, 0]);
        assert_eq!(message[28..], [4_u16.to_ne_bytes(), 8_u16.to_ne_bytes()].concat());
    }

    #[test]
    fn the_kernel_refuses_what_it_does_not_know() {
        // NLMSG_NOOP is acknowledged, a kind that nobody has is not.
        assert_eq!(Request::new(libc::NLMSG_NOOP as u16, 0, &[]).send(), Ok(()));
        let unknown = Request::new(u16::MAX, 0, &[0; 4]).send().unwrap_err();
        assert!([Errno::OPNOTSUPP, Errno::PERM].contains(&unknown), "{unknown}");
    }
}
