//! A TAP without offloads: each read is one real Ethernet frame, as a network card would put it on the wire.
//!
//! The only `unsafe` of this crate is the system call that attaches the device.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use anyhow::{Context, Result, ensure};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const MAX_NAME_LEN: usize = 15;
const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);

/// `struct ifreq`: the name, and of the union only the flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; MAX_NAME_LEN + 1],
    flags: i16,
    rest: [u8; 22],
}
const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

/// A TAP, non-blocking. It vanishes when this is dropped, also when it was moved to another namespace.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Makes it, in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the name is too long or taken, or the privilege is missing.
    pub fn create(name: &str) -> Result<Self> {
        ensure!(
            !name.is_empty() && name.len() <= MAX_NAME_LEN,
            "an interface's name has 1 to {MAX_NAME_LEN} characters, not {name:?}"
        );
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .context("opening /dev/net/tun")?;
        let mut request = InterfaceRequest {
            name: [0; MAX_NAME_LEN + 1],
            flags: IFF_TAP | IFF_NO_PI,
            rest: [0; 22],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whatever its number says of an int; the assertion
        // above keeps the request of that size, it is fully initialized, and any bytes are valid in it. The kernel
        // keeps no pointer to it.
        unsafe { ioctl(&file, Updater::<TUNSETIFF, _>::new(&mut request)) }
            .with_context(|| format!("making the TAP {name} (needs CAP_NET_ADMIN)"))?;
        Ok(Self { file })
    }

    /// Reads a frame; `WouldBlock` if there is none.
    ///
    /// # Errors
    /// That, and when the device is gone.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, frame)?)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// When the device is down or gone, or takes no more.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.file, frame)?)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
