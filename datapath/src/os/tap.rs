//! TAP devices: opened or attached, set up, and left as they were found.
//!
//! A TAP that does not exist is created and disappears with the last file descriptor. One that exists (`ip tuntap add`) is attached: its MTU, flags,
//! addresses, IPv6 settings and bridge are put back when it is left, and its offload mask too, which is sticky: the next program would otherwise read superframes
//! without knowing.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use ipop_learning::MacAddr;
use rustix::fs::{Mode, OFlags, open};

use super::{
    OsError,
    bridge_host::ToldNeighbours,
    interface::{Cidr, Interface, Ipv6Setting, LinkLocal, ifreq_named},
    once_released, trial,
};
use crate::port::{TapOffload, VNET_HEADER_LEN};

/// How a TAP should be.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Queues wanted.
    pub queues: u8,
    /// MTU, bytes.
    pub mtu: u32,
    /// The address that it gets if it is created.
    pub mac: MacAddr,
    /// Whether superframes may cross it.
    pub offload: TapOffload,
    /// The bridge that it is put into.
    pub bridge: Option<String>,
    /// The address that it gets.
    pub address: Option<Cidr>,
}

/// What the kernel agreed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TapFeatures {
    /// TCP superframes.
    pub tso: bool,
    /// UDP superframes (kernel 6.2).
    pub uso: bool,
    /// Several queues.
    pub multi_queue: bool,
}

/// A TAP in use. Dropping it leaves it as it was found.
#[derive(Debug)]
pub struct Tap {
    /// One file descriptor a queue, non-blocking; a single-queue TAP has one.
    pub queues: Vec<OwnedFd>,
    /// Its features.
    pub features: TapFeatures,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its name.
    pub name: String,
    interface: Interface,
    /// The address that it got here, and had not before.
    given: Option<Cidr>,
    found: Option<Found>,
}

/// How an existing TAP was found.
#[derive(Debug)]
struct Found {
    up: bool,
    mtu: u32,
    bridge: Option<String>,
    joined: Option<String>,
    ipv6_settings: Vec<Ipv6Setting>,
}

const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;
const TSO: libc::c_uint = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const USO: libc::c_uint = TUN_F_USO4 | TUN_F_USO6;

/// A burst of TCP from one local station must fit, a standing queue must not build: each entry may be 64 KiB.
const TX_QUEUE_LEN: i32 = 1_000;

impl Tap {
    /// Opens or attaches a TAP and sets it up.
    ///
    /// # Errors
    /// With what to do: no permission, taken, not a TAP, no TUN driver.
    pub fn open(config: &TapConfig) -> Result<Self, OsError> {
        let interface = Interface::named(&config.name)?;
        let existed = once_released(|| exists_unused(&interface))?;
        let (queues, multi_queue) = open_queues(config, existed)?;
        let mut features = set_offload(&queues, config.offload, multi_queue)?;
        // One that is up already would pass the trial's frames on.
        if !(existed && interface.is_up()?) {
            features = without_refused(&queues, features);
        }
        let mut tap = Self {
            features,
            queues,
            mac: config.mac,
            name: config.name.clone(),
            interface,
            given: None,
            found: None,
        };
        if existed {
            tap.found = Some(Found {
                up: tap.interface.is_up()?,
                mtu: tap.interface.mtu()?,
                bridge: tap.interface.bridge(),
                joined: None,
                ipv6_settings: Vec::new(),
            });
        }
        tap.set_up(config)?;
        Ok(tap)
    }

    /// Whether the TAP was there before.
    pub fn was_attached(&self) -> bool {
        self.found.is_some()
    }

    /// The bridge that it is in now, if any.
    pub fn bridge(&self) -> Option<String> {
        self.interface.bridge()
    }

    /// Lets the bridge that the TAP is in, if any, forget the stations that it has learned on it.
    pub fn flush_bridge_port(&self) {
        if self.interface.bridge().is_none() {
            return;
        }
        // Without it the stations age: what is lost is time.
        if let Err(error) = self.interface.flush_bridge_port() {
            tracing::warn!("{error}");
        }
    }

    fn set_up(&mut self, config: &TapConfig) -> Result<(), OsError> {
        if self.found.is_none() {
            self.interface.set_mac(config.mac)?;
            self.set_queue_len();
        }
        if self.interface.mtu()? != config.mtu {
            self.interface.set_mtu(config.mtu)?;
        }
        let bridged = config.bridge.is_some();
        let link_local = if bridged { LinkLocal::Without } else { LinkLocal::With };
        let ipv6_settings = self.interface.disable_ipv6_autoconf(link_local);
        if let Some(found) = &mut self.found {
            found.ipv6_settings = ipv6_settings;
        }
        if let Some(bridge) = &config.bridge
            && self.interface.bridge().as_ref() != Some(bridge)
        {
            if let Some(other) = self.interface.bridge() {
                self.interface.leave_bridge(&other)?;
            }
            let told = ToldNeighbours::of(bridge);
            self.interface.join_bridge(bridge)?;
            drop(told);
            if let Some(found) = &mut self.found {
                found.joined = Some(bridge.clone());
            }
        }
        self.interface.set_up(true)?;
        if let Some(address) = config.address {
            self.given = self.interface.add_address(address)?.then_some(address);
        }
        self.mac = self.interface.mac()?;
        Ok(())
    }

    /// Gives the TAP an address in place of the one that it got from here before.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or if the family is turned off: it has the one from before then.
    pub fn set_address(&mut self, address: Cidr) -> Result<(), OsError> {
        let before = self.given.filter(|given| *given != address);
        // First: one in the network of another goes when that does (IFA_F_SECONDARY).
        if let Some(before) = before {
            // Somebody else may have taken it away.
            let _ = self.interface.remove_address(before);
            self.given = None;
        }
        match self.interface.add_address(address) {
            Ok(true) => self.given = Some(address),
            Ok(false) => {}
            Err(error) => {
                if let Some(before) = before {
                    self.given = self.interface.add_address(before)?.then_some(before);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn set_queue_len(&self) {
        let mut request = ifreq_named(&self.name);
        request.ifr_ifru.ifru_metric = TX_QUEUE_LEN;
        // SAFETY: SIOCSIFTXQLEN takes an `ifreq`, which lives for the call; a TAP's queue is not a socket, so any
        // socket will do, and `Interface` has checked its own.
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        );
        if let Ok(socket) = socket {
            // SAFETY: as above. A refusal leaves the kernel's own queue length, which works too.
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN, &raw mut request) };
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let Some(found) = &self.found else { return };
        // The namespace may be going down with the program; nothing here may fail loudly.
        for queue in &self.queues {
            let _ = offload_ioctl(queue, 0);
        }
        if let Some(joined) = &found.joined {
            let _ = self.interface.leave_bridge(joined);
            if let Some(bridge) = &found.bridge {
                let _ = self.interface.join_bridge(bridge);
            }
        }
        if let Some(given) = self.given {
            let _ = self.interface.remove_address(given);
        }
        self.interface.restore_ipv6_settings(&found.ipv6_settings);
        let _ = self.interface.set_mtu(found.mtu);
        let _ = self.interface.set_up(found.up);
    }
}

/// What the kernel offers at a TAP: one of this name is made, asked, and gone when this returns.
///
/// # Errors
/// With what to do: the name is taken, no permission, no TUN driver.
pub fn probe(name: &str) -> Result<TapFeatures, OsError> {
    let config = TapConfig {
        name: name.to_owned(),
        queues: 2,
        mtu: 1_500,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        offload: TapOffload::Full,
        bridge: None,
        address: None,
    };
    if Interface::named(name)?.exists() {
        let taken = rustix::io::Errno::EXIST;
        return Err(OsError::new(format!("cannot make {name} to try a TAP"), taken));
    }
    // A kernel without multi-queue is asked again for one.
    let (queues, multi_queue) = open_queues(&config, false)
        .or_else(|_| open_queues(&TapConfig { queues: 1, ..config }, false))?;
    let several = multi_queue && queues.len() > 1;
    let features = set_offload(&queues, TapOffload::Full, several)?;
    Ok(without_refused(&queues, features))
}

/// Whether a TAP that exists could be attached. It is for a moment, and left as it was.
///
/// # Errors
/// With what to do: no permission, taken, not a TAP.
pub fn try_attach(name: &str) -> Result<(), OsError> {
    let interface = Interface::named(name)?;
    once_released(|| exists_unused(&interface))?;
    match attach(name, false) {
        Err(error) if error.errno() == libc::EINVAL => attach(name, true).map(drop),
        attached => attached.map(drop),
    }
}

/// A MAC address for this node's TAP of this name: the same after every restart, locally administered, and so high that a bridge,
/// which has the lowest address of its ports, keeps its own.
pub fn stable_mac(node: crate::node_id::NodeId, name: &str) -> MacAddr {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(b"ipop-switch tap mac 1");
    context.update(&node.0);
    context.update(name.as_bytes());
    let digest = context.finish();
    let mut mac = [0; 6];
    mac.copy_from_slice(&digest.as_ref()[..6]);
    mac[0] = 0xfe;
    MacAddr(mac)
}

/// Whether the TAP exists, once no other program has it open. (A multi-queue TAP would let itself be shared without a word.)
fn exists_unused(interface: &Interface) -> Result<bool, OsError> {
    // What is no TAP is refused soon enough.
    if interface.is_running() && interface.is_tun() {
        let action = format!("cannot use {} as a TAP device", interface.name());
        return Err(OsError::new(action, rustix::io::Errno::BUSY).hint("another program uses it"));
    }
    Ok(interface.exists())
}

fn open_queues(config: &TapConfig, existed: bool) -> Result<(Vec<OwnedFd>, bool), OsError> {
    let wanted = usize::from(config.queues.max(1));
    let mut multi_queue = wanted > 1;
    let first = match open_queue(&config.name, multi_queue) {
        // A TAP made without (or with) multi_queue refuses the other: the kernel says EINVAL.
        Err(error) if existed && error.errno() == libc::EINVAL => {
            multi_queue = !multi_queue;
            open_queue(&config.name, multi_queue).map_err(|_| error)?
        }
        first => first?,
    };
    let mut queues = vec![first];
    while multi_queue && queues.len() < wanted {
        match open_queue(&config.name, true) {
            Ok(queue) => queues.push(queue),
            Err(error) => {
                tracing::warn!(tap = config.name, %error, "fewer queues than workers");
                break;
            }
        }
    }
    Ok((queues, multi_queue))
}

fn open_queue(name: &str, multi_queue: bool) -> Result<OwnedFd, OsError> {
    let queue = attach(name, multi_queue)?;
    let header_len = VNET_HEADER_LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    if unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_len) } < 0 {
        return Err(OsError::last(format!("cannot set the header length of {name}")));
    }
    let little_endian: libc::c_int = 1;
    // SAFETY: TUNSETVNETLE reads one int.
    if unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETLE, &raw const little_endian) } < 0
        && cfg!(target_endian = "big")
    {
        return Err(OsError::last(format!("cannot set the byte order of {name}")));
    }
    Ok(queue)
}

/// Opens a queue of the TAP of this name, which is made if there is none.
fn attach(name: &str, multi_queue: bool) -> Result<OwnedFd, OsError> {
    const TUN: &str = "/dev/net/tun";
    // Blocking, so that a read can wait for a frame; the engine says of each operation whether it may.
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let queue = open(TUN, flags, Mode::empty()).map_err(|errno| {
        let error = OsError::new(format!("cannot open {TUN}"), errno);
        if Path::new(TUN).exists() {
            error.hint("needs read and write permission on it")
        } else {
            error.hint("load the driver: `modprobe tun`; in a container, pass the device in")
        }
    })?;
    let mut request = ifreq_named(name);
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: TUNSETIFF takes an `ifreq`, which lives for the call.
    if unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        let error = OsError::last(format!("cannot use {name} as a TAP device"));
        return Err(match error.errno() {
            libc::EPERM => error.hint(
                "needs CAP_NET_ADMIN: run as root, or `setcap cap_net_admin+ep` on the program",
            ),
            libc::EBUSY => error.hint("another program uses it"),
            libc::EINVAL => error.hint("an interface of this name exists that is not a TAP"),
            _ => error,
        });
    }
    Ok(queue)
}

fn set_offload(
    queues: &[OwnedFd],
    offload: TapOffload,
    multi_queue: bool,
) -> Result<TapFeatures, OsError> {
    let mut features = TapFeatures { tso: false, uso: false, multi_queue };
    for queue in queues {
        if offload == TapOffload::None {
            offload_ioctl(queue, 0)
                .map_err(|error| OsError::new("cannot turn the TAP's offloads off", error))?;
            continue;
        }
        features.uso = offload_ioctl(queue, TSO | USO).is_ok();
        features.tso = features.uso || offload_ioctl(queue, TSO).is_ok();
        if !features.tso {
            tracing::warn!("the kernel refuses the TAP's offloads: frames are segmented by it");
            let _ = offload_ioctl(queue, 0);
        }
    }
    Ok(features)
}

/// What is left of the features when the kernel was given superframes; the TAP must be down.
fn without_refused(queues: &[OwnedFd], features: TapFeatures) -> TapFeatures {
    let (true, Some(queue)) = (features.tso, queues.first()) else { return features };
    let taken = trial::taken(queue);
    let left = TapFeatures {
        tso: taken.tso,
        uso: features.uso && taken.uso && taken.tso,
        multi_queue: features.multi_queue,
    };
    if left != features {
        let what = if left.tso { "UDP" } else { "TCP" };
        tracing::warn!("the kernel refuses {what} superframes at a TAP: they are cut by software");
        let mask = if left.tso { TSO } else { 0 };
        for queue in queues {
            let _ = offload_ioctl(queue, mask);
        }
    }
    left
}

fn offload_ioctl(queue: impl AsFd, mask: libc::c_uint) -> std::io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its mask by value.
    let done = unsafe {
        libc::ioctl(queue.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask))
    };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
