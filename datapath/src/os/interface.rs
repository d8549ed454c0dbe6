//! Settings of a network interface, through the classic ioctls (netdevice(7)): they need no library and exist everywhere.

use std::{
    fs, io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use ipop_learning::MacAddr;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
};

use super::{
    OsError,
    address::{self, Change},
    bridge,
};

/// A handle on one interface, by name, in this network namespace.
#[derive(Debug)]
pub struct Interface {
    name: String,
    socket: OwnedFd,
}

/// What an interface is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A TAP device.
    Tap,
    /// A bridge.
    Bridge,
    /// Something else, a TUN device too.
    Other,
    /// It does not exist, or `/sys` does not show it.
    Unknown,
}

/// An IP address with its prefix length, in bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// The host's address.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix_len: u8,
}

const NEEDS_NET_ADMIN: &str =
    "needs CAP_NET_ADMIN: run as root, or `setcap cap_net_admin+ep` on the program";

impl Interface {
    /// Names an interface; it need not exist yet.
    ///
    /// # Errors
    /// If no socket can be opened.
    pub fn named(name: &str) -> Result<Self, OsError> {
        let socket =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(|errno| OsError::new("cannot open a socket", errno))?;
        Ok(Self { name: name.to_owned(), socket })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.request(libc::SIOCGIFINDEX, &mut self.ifreq()).is_ok()
    }

    /// Its index.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn index(&self) -> Result<i32, OsError> {
        let mut request = self.ifreq();
        self.request(libc::SIOCGIFINDEX, &mut request)
            .map_err(|error| OsError::new(format!("cannot find interface {}", self.name), error))?;
        // SAFETY: SIOCGIFINDEX succeeded, so the kernel filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_ifindex })
    }

    /// Whether it is administratively up.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn is_up(&self) -> Result<bool, OsError> {
        Ok(self.flags()? & libc::IFF_UP as i16 != 0)
    }

    /// Whether it is up and has a carrier: of a TAP, that a program has it open.
    pub fn is_running(&self) -> bool {
        self.flags().is_ok_and(|flags| flags & libc::IFF_RUNNING as i16 != 0)
    }

    /// Whether it is a TUN or TAP device, as far as `/sys` tells.
    pub fn is_tun(&self) -> bool {
        fs::exists(format!("/sys/class/net/{}/tun_flags", self.name)).unwrap_or(false)
    }

    /// What it is, as far as `/sys` tells.
    pub fn kind(&self) -> Kind {
        let directory = Path::new("/sys/class/net").join(&self.name);
        if !directory.exists() {
            return Kind::Unknown;
        }
        if directory.join("bridge").exists() {
            return Kind::Bridge;
        }
        let flags = fs::read_to_string(directory.join("tun_flags")).unwrap_or_default();
        match libc::c_int::from_str_radix(flags.trim().trim_start_matches("0x"), 16) {
            Ok(flags) if flags & libc::IFF_TAP != 0 => Kind::Tap,
            _ => Kind::Other,
        }
    }

    /// Brings it up or down.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN.
    pub fn set_up(&self, up: bool) -> Result<(), OsError> {
        let flags = self.flags()?;
        let bit = libc::IFF_UP as i16;
        let mut request = self.ifreq();
        request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        self.change(libc::SIOCSIFFLAGS, &mut request, "set the flags of")
    }

    /// Its MTU, bytes.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn mtu(&self) -> Result<u32, OsError> {
        let mut request = self.ifreq();
        self.request(libc::SIOCGIFMTU, &mut request).map_err(|error| {
            OsError::new(format!("cannot read the MTU of {}", self.name), error)
        })?;
        // SAFETY: SIOCGIFMTU succeeded, so the kernel filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
    }

    /// Sets its MTU, bytes.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or if the device does not take it.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), OsError> {
        let mut request = self.ifreq();
        request.ifr_ifru.ifru_mtu = mtu as i32;
        self.change(libc::SIOCSIFMTU, &mut request, "set the MTU of")
    }

    /// Its MAC address.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn mac(&self) -> Result<MacAddr, OsError> {
        let mut request = self.ifreq();
        self.request(libc::SIOCGIFHWADDR, &mut request).map_err(|error| {
            OsError::new(format!("cannot read the address of {}", self.name), error)
        })?;
        // SAFETY: SIOCGIFHWADDR succeeded, so the kernel filled this member of the union.
        let octets = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(octets) {
            *to = from as u8;
        }
        Ok(MacAddr(mac))
    }

    /// Sets its MAC address.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or for a group address.
    pub fn set_mac(&self, mac: MacAddr) -> Result<(), OsError> {
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
            *to = from as libc::c_char;
        }
        let mut request = self.ifreq();
        request.ifr_ifru.ifru_hwaddr = address;
        self.change(libc::SIOCSIFHWADDR, &mut request, "set the address of")
    }

    /// Puts it into a bridge.
    ///
    /// # Errors
    /// If `bridge` is no bridge, or without CAP_NET_ADMIN.
    pub fn join_bridge(&self, bridge: &str) -> Result<(), OsError> {
        self.bridge_request(bridge, BridgeChange::Add)
    }

    /// Takes it out of a bridge.
    ///
    /// # Errors
    /// If it is not in that bridge.
    pub fn leave_bridge(&self, bridge: &str) -> Result<(), OsError> {
        self.bridge_request(bridge, BridgeChange::Remove)
    }

    /// The bridge that it is in, if any.
    pub fn bridge(&self) -> Option<String> {
        let link = fs::read_link(format!("/sys/class/net/{}/master", self.name)).ok()?;
        Some(link.file_name()?.to_str()?.to_owned())
    }

    /// Lets the bridge that it is a port of forget the stations that it has learned there.
    ///
    /// # Errors
    /// If it is in no bridge, or without CAP_NET_ADMIN.
    pub fn flush_bridge_port(&self) -> Result<(), OsError> {
        bridge::flush_port(self.index()?).map_err(|errno| {
            let action = format!("cannot make the bridge of {} forget its stations", self.name);
            OsError::new(action, errno)
        })
    }

    /// Adds an IP address; says whether it was not there yet.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or if the family is turned off.
    pub fn add_address(&self, cidr: Cidr) -> Result<bool, OsError> {
        match address::change(self.index()?, cidr, Change::Add) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => {
                let error = OsError::new(format!("cannot add an address to {}", self.name), errno);
                Err(match errno {
                    Errno::PERM => error.hint(NEEDS_NET_ADMIN),
                    _ if cidr.address.is_ipv6() => error.hint("is IPv6 turned off?"),
                    _ => error,
                })
            }
        }
    }

    /// Takes an IP address away.
    ///
    /// # Errors
    /// If it is not there, or without CAP_NET_ADMIN.
    pub fn remove_address(&self, cidr: Cidr) -> Result<(), OsError> {
        let action = || format!("cannot take an address from {}", self.name);
        address::change(self.index()?, cidr, Change::Remove)
            .map_err(|errno| OsError::new(action(), errno))
    }

    /// Keeps the host from configuring IPv6 on it by itself: no router advertisements, and no link-local address either if
    /// it is a mere port of a bridge.
    ///
    /// Gives back what was set before, for [`Self::restore_ipv6_settings`].
    pub fn disable_ipv6_autoconf(&self, link_local: LinkLocal) -> Vec<Ipv6Setting> {
        let mut settings = vec![("accept_ra", "0"), ("autoconf", "0")];
        if link_local == LinkLocal::Without {
            settings.push(("addr_gen_mode", "1"));
        }
        let mut before = Vec::new();
        for (key, value) in settings {
            match self.set_ipv6_setting(key, value) {
                Ok(was) => before.extend(was),
                // A port of a bridge takes no advertisements in any case.
                Err(error) if key == "accept_ra" && link_local == LinkLocal::With => {
                    let name = &self.name;
                    tracing::warn!(
                        "cannot turn router advertisements off at {name} ({error}): machines behind other nodes \
                         can make themselves this host's IPv6 router. Run `sysctl -w \
                         net.ipv6.conf.{name}.accept_ra=0` where /proc/sys can be written"
                    );
                }
                Err(error) => tracing::debug!(interface = self.name, key, %error, "not set"),
            }
        }
        before
    }

    /// Puts back what was there before the switch set it.
    pub fn restore_ipv6_settings(&self, settings: &[Ipv6Setting]) {
        for Ipv6Setting { key, value } in settings {
            if let Err(error) = fs::write(self.ipv6_file(key), value) {
                tracing::debug!(interface = self.name, key, %error, "not put back");
            }
        }
    }

    /// Whether it forwards IPv6.
    pub fn is_ipv6_router(&self) -> bool {
        self.ipv6_setting("forwarding").is_some_and(|value| value != "0")
    }

    /// Changes a setting; gives what was set before if it was something else. A host without IPv6 has nothing to set.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or if `/proc/sys` is read-only, as is common in containers.
    pub(super) fn set_ipv6_setting(
        &self,
        key: &'static str,
        value: &str,
    ) -> io::Result<Option<Ipv6Setting>> {
        match self.ipv6_setting(key) {
            Some(was) if was != value => {
                fs::write(self.ipv6_file(key), value)?;
                Ok(Some(Ipv6Setting { key, value: was }))
            }
            _ => Ok(None),
        }
    }

    /// What is set; nothing on a host without IPv6.
    pub(super) fn ipv6_setting(&self, key: &str) -> Option<String> {
        let value = fs::read_to_string(self.ipv6_file(key)).ok()?;
        Some(value.trim().to_owned())
    }

    fn ipv6_file(&self, key: &str) -> String {
        format!("/proc/sys/net/ipv6/conf/{}/{key}", self.name)
    }

    fn bridge_request(&self, bridge: &str, change: BridgeChange) -> Result<(), OsError> {
        let mut request = Self::named(bridge)?.ifreq();
        request.ifr_ifru.ifru_ifindex = self.index()?;
        let (code, action) = match change {
            BridgeChange::Add => (SIOCBRADDIF, format!("cannot put {} into", self.name)),
            BridgeChange::Remove => (SIOCBRDELIF, format!("cannot take {} out of", self.name)),
        };
        self.request(code, &mut request).map_err(|error| {
            let error = OsError::new(format!("{action} bridge {bridge}"), error);
            match error.errno() {
                libc::EPERM => error.hint(NEEDS_NET_ADMIN),
                libc::EBUSY => error.hint("it is in another bridge"),
                _ => error.hint("does the bridge exist? `ip link add NAME type bridge` makes one"),
            }
        })
    }

    fn flags(&self) -> Result<i16, OsError> {
        let mut request = self.ifreq();
        self.request(libc::SIOCGIFFLAGS, &mut request).map_err(|error| {
            OsError::new(format!("cannot read the flags of {}", self.name), error)
        })?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the kernel filled this member of the union.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    fn change(
        &self,
        code: libc::Ioctl,
        request: &mut libc::ifreq,
        verb: &str,
    ) -> Result<(), OsError> {
        self.request(code, request).map_err(|error| {
            let denied = error.raw_os_error() == Some(libc::EPERM);
            let error = OsError::new(format!("cannot {verb} {}", self.name), error);
            if denied { error.hint(NEEDS_NET_ADMIN) } else { error }
        })
    }

    fn ifreq(&self) -> libc::ifreq {
        ifreq_named(&self.name)
    }

    fn request(&self, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every code used here takes a pointer to `ifreq`, which lives for the call.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), code, &raw mut *request) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A setting of `/proc/sys/net/ipv6/conf` and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ipv6Setting {
    key: &'static str,
    value: String,
}

/// Whether an interface keeps its IPv6 link-local address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkLocal {
    /// Keeps it.
    With,
    /// Has none.
    Without,
}

/// From `linux/sockios.h`; not in `libc`.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;
const SIOCBRDELIF: libc::Ioctl = 0x89a3;

enum BridgeChange {
    Add,
    Remove,
}

/// A request that names an interface; longer names are cut, which callers rule out beforehand.
pub(super) fn ifreq_named(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid `ifreq`: integers, arrays and null pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}
