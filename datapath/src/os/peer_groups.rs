//! The groups of whoever connected to a Unix socket (`SO_PEERGROUPS`, unix(7)): those that it had when it connected.

use std::os::fd::{AsFd, AsRawFd};

use super::OsError;

/// More groups than this no process has on hosts that this program meets; the kernel allows 65,536.
const GROUPS_AT_FIRST: usize = 32;

/// The supplementary groups of the far end of a connected Unix stream socket, by number.
///
/// # Errors
/// When the kernel does not tell: the socket is no connected Unix socket.
pub fn peer_groups(socket: impl AsFd) -> Result<Vec<u32>, OsError> {
    let socket = socket.as_fd().as_raw_fd();
    let mut groups = vec![0u32; GROUPS_AT_FIRST];
    loop {
        let mut len = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: `groups` has room for `len` bytes, of which any value is a valid u32, and the kernel writes no more than `len` says.
        // Both pointers live until the call returns.
        let result = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = OsError::last("cannot see the groups of whoever connected");
        // Too little room: the kernel has said how much it takes.
        if error.errno() != libc::ERANGE || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_groups_are_those_of_the_process_that_connected() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut groups = peer_groups(&one).unwrap();
        let mut own: Vec<u32> =
            rustix::process::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        groups.sort_unstable();
        own.sort_unstable();
        assert_eq!(groups, own);
        drop(other);
        assert!(peer_groups(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
