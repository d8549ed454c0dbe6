//! An ejabberd of the test's own, on loopback, that ends with it. It has what Debian configures where that matters to a
//! client, and nothing else.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{certificates, prosody::free_ports};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Says where the program's code is, which depends on the processor.
const CONTROL_PROGRAM: &str = "/usr/sbin/ejabberdctl";

pub(crate) struct Ejabberd {
    dir: TempDir,
    /// STARTTLS.
    pub(crate) port: u16,
    /// TLS from the first byte.
    pub(crate) direct_port: u16,
    control_port: u16,
    process: Option<Child>,
}

impl Ejabberd {
    /// `None`, and the reason printed, where ejabberd is not installed.
    pub(crate) fn start() -> Option<Self> {
        if !Path::new(CONTROL_PROGRAM).exists() {
            println!("skipped: ejabberd is not installed (Debian package ejabberd)");
            return None;
        }
        let dir = tempfile::tempdir().expect("directory");
        let [port, direct_port, control_port] = free_ports();
        let mut ejabberd = Self { dir, port, direct_port, control_port, process: None };
        ejabberd.write_files();
        ejabberd.run();
        Some(ejabberd)
    }

    /// The certificate that clients have to trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.path().join("localhost.crt")
    }

    /// Ends it as an operator does: what it just stored is on the disk only then.
    pub(crate) fn stop(&mut self) {
        let Some(process) = self.process.as_mut() else { return };
        kill_process(Pid::from_child(process), Signal::TERM).expect("told to end");
        process.wait().expect("gone");
        self.process = None;
    }

    /// Starts the process and waits until it serves. It needs no port mapper: nobody looks for its node.
    pub(crate) fn run(&mut self) {
        let root = self.dir.path();
        let program = fs::read_to_string(CONTROL_PROGRAM).expect("ejabberdctl");
        let code = program.lines().find_map(|line| line.strip_prefix("ERL_LIBS=")).expect("a path");
        let port = self.control_port.to_string();
        let loopback = ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"];
        let spool = format!("\"{}\"", root.join("spool").display());
        let mut words = String::new();
        for name in ["alice", "bob"] {
            words += &format!(
                "ejabberd_auth:try_register(<<\"{name}\">>, <<\"localhost\">>, <<\"{name}pw\">>), "
            );
        }
        // A new log each time: the line that is waited for is this process's.
        let log = fs::File::create(root.join("log")).expect("log");
        let process = Command::new("erl")
            .env("ERL_LIBS", code.trim_matches('\''))
            .env("HOME", root)
            .env("EJABBERD_CONFIG_PATH", root.join("ejabberd.yml"))
            .env("EJABBERD_LOG_PATH", root.join("ejabberd.log"))
            .env("ERL_CRASH_DUMP", root.join("crash.dump"))
            .env("ERL_DIST_PORT", &port)
            .args(loopback)
            .args(["-erl_epmd_port", &port, "-start_epmd", "false"])
            .args(["-sname", "ejabberd@localhost", "-noinput", "-mnesia", "dir", &spool])
            .args(["-s", "ejabberd", "-eval"])
            .arg(words + "io:format(\"ready for clients~n\").")
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("log"))
            .stdout(log)
            .spawn()
            .expect("ejabberd starts");
        self.process = Some(process);
        let deadline = Instant::now() + START_TIMEOUT;
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let listens = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        while !(log().contains("ready for clients") && listens(self.port)) {
            assert!(Instant::now() < deadline, "ejabberd does not listen:\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn write_files(&self) {
        let root = self.dir.path();
        let certificate = certificates::self_signed(&["localhost"]);
        fs::write(self.authority(), &certificate.certificate_pem).expect("certificate");
        let both = certificate.key_pem + &certificate.certificate_pem;
        fs::write(root.join("localhost.pem"), both).expect("certificate and key");
        let Self { port, direct_port, .. } = self;
        let root = root.display();
        let config = format!(
            r#"loglevel: info
hosts: [localhost]
certfiles: ["{root}/localhost.pem"]
listen:
  - {{ port: {port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, shaper: c2s_shaper, starttls_required: true }}
  - {{ port: {direct_port}, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 262144, shaper: c2s_shaper, tls: true }}
disable_sasl_mechanisms: ["digest-md5", "X-OAUTH2"]
auth_password_format: scram
acl: {{ local: {{ user_regexp: "" }} }}
access_rules: {{ local: {{ allow: local }}, muc_create: {{ allow: local }} }}
shaper: {{ normal: {{ rate: 3000, burst_size: 20000 }} }}
shaper_rules: {{ max_user_sessions: 10, c2s_shaper: {{ normal: all }} }}
modules:
  mod_disco: {{}}
  mod_ping: {{}}
  mod_stream_mgmt: {{ resend_on_timeout: if_offline }}
  mod_muc:
    host: "muc.localhost"
    access: [allow]
    access_create: muc_create
    access_persistent: muc_create
"#
        );
        fs::write(self.dir.path().join("ejabberd.yml"), config).expect("configuration");
    }
}

impl Drop for Ejabberd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killed");
            process.wait().expect("gone");
        }
        if thread::panicking() {
            println!("{}", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
        }
    }
}
