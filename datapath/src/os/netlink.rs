//! Requests to rtnetlink(7): one message, one acknowledgement or a list, on a socket that lives for the request.

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
        recv, sendto, socket_with,
    },
};

/// `struct nlmsghdr`, with an `int` after it in an acknowledgement.
pub(super) const HEADER_LEN: usize = 16;

/// What the kernel writes of a list at once fits: it never writes more than this.
const LIST_LEN: usize = 32 << 10;

/// A message of the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    /// What follows the header.
    pub(super) body: &'a [u8],
}

/// The messages in what was read; one that is cut short ends them.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER_LEN>()?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = bytes.get(HEADER_LEN..len)?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// The attributes that follow the fixed part of a message: kind, without flags, and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..len)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !FLAGS;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

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

    fn ask(self) -> Result<OwnedFd, Errno> {
        // `None`: NETLINK_ROUTE.
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&socket, &self.finish(), SendFlags::empty(), &kernel)?;
        Ok(socket)
    }

    /// Sends it, and has each message looked at that the kernel answers with; the flags must have asked for a list.
    pub(super) fn list(self, mut look: impl FnMut(Message<'_>)) -> Result<(), Errno> {
        let socket = self.ask()?;
        let mut answer = vec![0; LIST_LEN];
        loop {
            let (len, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
            for message in messages(&answer[..len]) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = message.body.first_chunk().map(|code| i32::from_ne_bytes(*code));
                        let code = code.unwrap_or(-libc::EPROTO);
                        return Err(Errno::from_raw_os_error(code.saturating_neg()));
                    }
                    _ => look(message),
                }
            }
        }
    }

    /// Sends it and waits for the kernel's answer.
    pub(super) fn send(self) -> Result<(), Errno> {
        let socket = self.ask()?;
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
    fn what_is_cut_short_ends_the_list() {
        let message = Request::new(7, 0, &[9; 4]).attribute(5, &[1, 2, 3]).finish();
        let two = [&message[..], &message].concat();
        for len in 0..two.len() {
            let whole = messages(&two[..len]).filter(|m| m.kind == 7 && m.body.len() == 12);
            assert_eq!(whole.count(), len / message.len(), "{len}");
        }
        let body = messages(&message).next().unwrap().body;
        assert_eq!(attributes(&body[4..]).collect::<Vec<_>>(), [(5, &[1, 2, 3][..])]);
        assert_eq!(attributes(&body[4..10]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "an attribute is as long as its header");
    }

    #[test]
    fn the_kernel_refuses_what_it_does_not_know() {
        // NLMSG_NOOP is acknowledged, a kind that nobody has is not.
        assert_eq!(Request::new(libc::NLMSG_NOOP as u16, 0, &[]).send(), Ok(()));
        let unknown = Request::new(u16::MAX, 0, &[0; 4]).send().unwrap_err();
        assert!([Errno::OPNOTSUPP, Errno::PERM].contains(&unknown), "{unknown}");
    }
}
