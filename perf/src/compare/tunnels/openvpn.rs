//! OpenVPN 2.6, point to point with a TAP, each end pinning the other's certificate.

use std::path::Path;

use anyhow::{Context, Result};

use super::{directory, set_up, write};
use crate::compare::contender::{Site, Tunnel, find};

const PORT: &str = "1194";
const INTERFACE: &str = "ovpn0";

pub(in crate::compare) fn start(site: &Site<'_>) -> Result<Tunnel> {
    let program = find("openvpn")?;
    let dir = directory(site, "openvpn")?;
    let (print_a, print_b) = (certificate(&dir, "a")?, certificate(&dir, "b")?);
    let mtu = site.inner_mtu.to_string();
    let (at_a, at_b) = (site.underlay_a.ipv4.to_string(), site.underlay_b.ipv4.to_string());
    let ends = [
        (site.b, "b", &at_b, &print_a, vec!["--tls-server", "--dh", "none"]),
        (site.a, "a", &at_a, &print_b, vec!["--tls-client", "--remote", &at_b, PORT]),
    ];
    let mut processes = Vec::new();
    for (host, name, local, fingerprint, role) in ends {
        let file = |kind: &str| dir.join(format!("{name}.{kind}")).display().to_string();
        let (certificate, key) = (file("crt"), file("key"));
        let common = [
            "--dev",
            INTERFACE,
            "--dev-type",
            "tap",
            "--proto",
            "udp4",
            "--local",
            local,
            "--lport",
            PORT,
            "--cert",
            &certificate,
            "--key",
            &key,
            "--peer-fingerprint",
            fingerprint,
            "--data-ciphers",
            "AES-128-GCM",
            "--tun-mtu",
            &mtu,
            "--txqueuelen",
            "1000",
            "--fast-io",
            "--verb",
            "1",
        ];
        processes.push(host.spawn(&program, common.into_iter().chain(role))?);
    }
    set_up(site, &mut processes, INTERFACE)?;
    Ok(Tunnel::of_programs(processes, [INTERFACE.into(), INTERFACE.into()]))
}

/// Makes `NAME.crt` and `NAME.key`; gives back the certificate's SHA-256 as OpenVPN writes it.
fn certificate(dir: &Path, name: &str) -> Result<String> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
    let certificate = parameters.self_signed(&key).context("making a certificate")?;
    write(&dir.join(format!("{name}.crt")), &certificate.pem())?;
    write(&dir.join(format!("{name}.key")), &key.serialize_pem())?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
    let bytes: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(bytes.join(":"))
}
