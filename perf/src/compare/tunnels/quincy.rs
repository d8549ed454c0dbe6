//! quincy 3: a VPN on stock quinn (DATAGRAM frames, TUN offloads), IP packets only.

use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use super::{directory, wait_for_interface, write};
use crate::compare::contender::{ADDRESS_B, Site, Tunnel, find};

const PORT: u16 = 55_555;
const INTERFACE: &str = "quincy0";

pub(in crate::compare) fn start(site: &Site<'_>) -> Result<Tunnel> {
    let (server, client) = (find("quincy-server")?, find("quincy-client")?);
    let dir = directory(site, "quincy")?;
    let at_b = site.underlay_b.ipv4.to_string();
    certificate(&dir, "server", &at_b)?;
    let fingerprint = certificate(&dir, "client", "client")?;
    let file = |name: &str| dir.join(name).display().to_string();
    write(
        &dir.join("users.toml"),
        &format!(
            "[users.a]\nauthorized_keys = []\nauthorized_certs = [\"sha256:{fingerprint}\"]\n"
        ),
    )?;
    let common = format!("[connection]\nmtu = {}\n[log]\nlevel = \"warn\"\n", site.inner_mtu);
    write(
        &dir.join("server.toml"),
        &format!(
            "name = \"b\"\ninterface_name = \"{INTERFACE}\"\nbind_address = \"{at_b}\"\nbind_port = {PORT}\n\
             tunnel_network = \"{ADDRESS_B}/24\"\nusers_file = \"{}\"\n{common}\
             [protocol]\nmode = \"tls\"\nkey_exchange = \"standard\"\ncertificate_file = \"{}\"\ncertificate_key_file = \"{}\"\n",
            file("users.toml"),
            file("server.crt"),
            file("server.key"),
        ),
    )?;
    write(
        &dir.join("client.toml"),
        &format!(
            "connection_string = \"{at_b}:{PORT}\"\n{common}[network]\ninterface_name = \"{INTERFACE}\"\n\
             [protocol]\nmode = \"tls\"\nkey_exchange = \"standard\"\ntrusted_certificate_paths = [\"{}\"]\n\
             client_certificate_file = \"{}\"\nclient_certificate_key_file = \"{}\"\n",
            file("server.crt"),
            file("client.crt"),
            file("client.key"),
        ),
    )?;
    let mut processes = vec![site.b.spawn(&server, ["--config-path", &file("server.toml")])?];
    wait_for_interface(site.b, INTERFACE, &mut processes)?;
    processes.push(site.a.spawn(&client, ["--config-path", &file("client.toml")])?);
    wait_for_interface(site.a, INTERFACE, &mut processes)?;
    Ok(Tunnel::of_programs(processes, [INTERFACE.into(), INTERFACE.into()]))
}

/// Makes `NAME.crt` and `NAME.key` for a host name or address; gives back the certificate's SHA-256 in hexadecimal.
fn certificate(dir: &Path, name: &str, subject: &str) -> Result<String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let parameters = CertificateParams::new(vec![subject.to_owned()])?;
    let certificate = parameters.self_signed(&key).context("making a certificate")?;
    write(&dir.join(format!("{name}.crt")), &certificate.pem())?;
    write(&dir.join(format!("{name}.key")), &key.serialize_pem())?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
