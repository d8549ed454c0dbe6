//! This project's two programs.

use anyhow::Result;

use crate::{
    compare::contender::{ADDRESS_A, ADDRESS_B, Site, Tunnel},
    tunnel::{Node, Program},
};

/// `ipop-switch` with these options.
pub(in crate::compare) fn switch(site: &Site<'_>, args: &[&str]) -> Result<Tunnel> {
    start(site, Program::Switch, args)
}

/// `ipop-obvious`.
pub(in crate::compare) fn obvious(site: &Site<'_>) -> Result<Tunnel> {
    start(site, Program::Obvious, &[])
}

fn start(site: &Site<'_>, program: Program, args: &[&str]) -> Result<Tunnel> {
    let mut a = Node::new(site.lab, site.a, program)?;
    let mut b = Node::new(site.lab, site.b, program)?;
    b.admit(a.node_id()).mtu(site.inner_mtu).address(&format!("{ADDRESS_B}/24")).args(args);
    a.dial(b.node_id(), site.underlay_b.ipv4)
        .mtu(site.inner_mtu)
        .address(&format!("{ADDRESS_A}/24"))
        .args(args);
    let b = b.start()?;
    let a = a.start()?;
    let interfaces = [a.tap.clone(), b.tap.clone()];
    Ok(Tunnel::of_programs(vec![a.process, b.process], interfaces))
}
