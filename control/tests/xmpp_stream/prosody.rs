//! A Prosody of the test's own, on loopback, that ends with it.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::certificates;

const START_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Prosody {
    dir: TempDir,
    /// STARTTLS.
    pub(crate) port: u16,
    /// TLS from the first byte.
    pub(crate) direct_port: u16,
    process: Option<Child>,
}

impl Prosody {
    /// `None`, and the reason printed, where Prosody is not installed.
    pub(crate) fn start() -> Option<Self> {
        let is_installed = ["/usr/bin/prosody", "/usr/local/bin/prosody"]
            .iter()
            .any(|path| Path::new(path).exists());
        if !is_installed {
            println!("skipped: Prosody is not installed (Debian package prosody)");
            return None;
        }
        let dir = tempfile::tempdir().expect("directory");
        let [port, direct_port] = free_ports();
        let mut prosody = Self { dir, port, direct_port, process: None };
        prosody.write_files();
        prosody.run();
        Some(prosody)
    }

    /// The certificate that clients have to trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.path().join("certs/localhost.crt")
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("gone");
        }
    }

    /// Starts the process and waits until it listens.
    pub(crate) fn run(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).expect("log");
        let process = Command::new("prosody")
            .args(["-F", "--config"])
            .arg(self.dir.path().join("prosody.cfg.lua"))
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("log"))
            .stdout(log)
            .spawn()
            .expect("Prosody starts");
        self.process = Some(process);
        let deadline = Instant::now() + START_TIMEOUT;
        let listens = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        while !(listens(self.port) && listens(self.direct_port)) {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "Prosody does not listen:\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn write_files(&self) {
        let root = self.dir.path();
        let accounts = root.join("data/localhost/accounts");
        fs::create_dir_all(&accounts).expect("directory");
        fs::create_dir_all(root.join("certs")).expect("directory");
        for name in ["alice", "bob"] {
            let account = format!("return {{ [\"password\"] = \"{name}pw\"; }};\n");
            fs::write(accounts.join(format!("{name}.dat")), account).expect("account");
        }
        let certificate = certificates::self_signed(&["localhost"]);
        fs::write(root.join("certs/localhost.crt"), certificate.certificate_pem)
            .expect("certificate");
        fs::write(root.join("certs/localhost.key"), certificate.key_pem).expect("key");
        let Self { port, direct_port, .. } = self;
        let root = root.display();
        let config = format!(
            r#"daemonize = false; run_as_root = true; pidfile = "{root}/prosody.pid"; log = {{ info = "*console" }}
data_path = "{root}/data"; certificates = "{root}/certs"
interfaces = {{ "127.0.0.1" }}; c2s_ports = {{ {port} }}; c2s_direct_tls_ports = {{ {direct_port} }}
s2s_ports = {{}}; s2s_direct_tls_ports = {{}}; http_ports = {{}}; https_ports = {{}}
modules_enabled = {{ "roster"; "saslauth"; "tls"; "disco"; "ping"; "smacks"; "posix" }}
modules_disabled = {{ "s2s"; "offline" }}; c2s_require_encryption = true
authentication = "internal_plain"; storage = "internal"; smacks_hibernation_time = 60
VirtualHost "localhost"
  ssl = {{ key = "{root}/certs/localhost.key"; certificate = "{root}/certs/localhost.crt" }}
Component "muc.localhost" "muc"
"#
        );
        fs::write(self.dir.path().join("prosody.cfg.lua"), config).expect("configuration");
    }
}

impl Drop for Prosody {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Nothing listens there now.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("port"));
    listeners.map(|listener| listener.local_addr().expect("address").port())
}
