//! No tunnel, and the kernel's own: the yardsticks on which no user-space program can improve.

use anyhow::Result;

use crate::{
    compare::contender::{ADDRESS_A, ADDRESS_B, Site, Tunnel},
    lab::Host,
};

/// Interfaces that go when this does.
#[derive(Debug)]
pub(in crate::compare) struct Link {
    pub(in crate::compare) interfaces: [String; 2],
    made_on: Option<[Host; 2]>,
}

impl Drop for Link {
    fn drop(&mut self) {
        for (host, name) in self.made_on.iter().flatten().zip(&self.interfaces) {
            if let Err(error) = host.ip(&["link", "del", "dev", name]) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// The underlay as it is.
pub(in crate::compare) fn veth(site: &Site<'_>) -> Result<Tunnel> {
    let interfaces = [site.underlay_a.name.clone(), site.underlay_b.name.clone()];
    Ok(Tunnel::of_kernel(Link { interfaces, made_on: None }, site.underlay_b.ipv4))
}

/// VXLAN between the two addresses of the underlay (RFC 7348).
pub(in crate::compare) fn vxlan(site: &Site<'_>) -> Result<Tunnel> {
    const NAME: &str = "vxlan7";
    let ends = [
        (site.a, site.underlay_a, site.underlay_b, ADDRESS_A),
        (site.b, site.underlay_b, site.underlay_a, ADDRESS_B),
    ];
    for (host, own, other, address) in ends {
        let (local, remote) = (own.ipv4.to_string(), other.ipv4.to_string());
        let mtu = site.inner_mtu.to_string();
        let of_link = ["link", "add", NAME, "mtu", &mtu, "type", "vxlan", "id", "7"];
        let of_vxlan = ["local", &local, "remote", &remote, "dev", &own.name, "dstport", "4789"];
        host.ip(&[of_link.as_slice(), &of_vxlan].concat())?;
        host.add_address(NAME, &format!("{address}/24"))?;
        host.ip(&["link", "set", "up", "dev", NAME])?;
    }
    let made_on = Some([site.a.clone(), site.b.clone()]);
    Ok(Tunnel::of_kernel(Link { interfaces: [NAME.into(), NAME.into()], made_on }, ADDRESS_B))
}
