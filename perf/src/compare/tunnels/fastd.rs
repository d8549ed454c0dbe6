//! fastd: a small tunnel daemon of community networks, a frame a packet.

use anyhow::{Context, Result};

use super::{directory, set_up, write};
use crate::{
    compare::contender::{Site, Tunnel, find},
    lab::{Host, Interface},
};

const PORT: u16 = 10_000;
const INTERFACE: &str = "fastd0";

struct Key {
    secret: String,
    public: String,
}

pub(in crate::compare) fn start(site: &Site<'_>, method: &str) -> Result<Tunnel> {
    let program = find("fastd")?;
    let dir = directory(site, "fastd")?;
    let (key_a, key_b) = (key(site.a, &program)?, key(site.b, &program)?);
    let config = |own: &Interface, own_key: &Key, other: &Interface, other_key: &Key| {
        format!(
            "log level warn;\nmode tap;\ninterface \"{INTERFACE}\";\nmtu {mtu};\nmethod \"{method}\";\n\
             bind {own}:{PORT};\nsecret \"{secret}\";\n\
             peer \"other\" {{ remote {other}:{PORT}; key \"{public}\"; }}\n",
            mtu = site.inner_mtu,
            own = own.ipv4,
            other = other.ipv4,
            secret = own_key.secret,
            public = other_key.public,
        )
    };
    let mut processes = Vec::new();
    for (host, text) in [
        (site.b, config(site.underlay_b, &key_b, site.underlay_a, &key_a)),
        (site.a, config(site.underlay_a, &key_a, site.underlay_b, &key_b)),
    ] {
        let file = dir.join(format!("{}.conf", host.name()));
        write(&file, &text)?;
        processes.push(host.spawn(&program, ["--config".as_ref(), file.as_os_str()])?);
    }
    set_up(site, &mut processes, INTERFACE)?;
    Ok(Tunnel::of_programs(processes, [INTERFACE.into(), INTERFACE.into()]))
}

fn key(host: &Host, program: &std::path::Path) -> Result<Key> {
    let printed = host.run(program, ["--generate-key"])?;
    let after = |label: &str| {
        let found = printed.lines().find_map(|line| line.trim().strip_prefix(label));
        found.map(|text| text.trim().to_owned()).with_context(|| format!("fastd: no {label}"))
    };
    Ok(Key { secret: after("Secret:")?, public: after("Public:")? })
}
