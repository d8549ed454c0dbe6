//! What systemd does with a unit's `[Service]`, as far as a machine without systemd can: the user (one of its own for `DynamicUser=`), the
//! directories, credentials, capabilities, the filter of system calls, a file system that is read-only, the environment and nothing else,
//! and word from the service that it is ready.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ipop_perf::lab::{Process, Signal, wait_until};

use super::{Machine, OWN, filter};
use crate::world::SOON;

/// The first of systemd's users for `DynamicUser=`.
const DYNAMIC_USER: u32 = 61_184;
/// Units of the operator, of packages.
const UNITS: [&str; 3] = ["etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system"];

/// The `[Service]` of a unit.
struct Unit(Vec<(String, String)>);

impl Unit {
    fn parse(text: &str) -> Self {
        let (_, section) = text.split_once("[Service]\n").expect("a [Service]");
        let section = section.split("\n[").next().unwrap_or_default();
        let lines = section.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once('='));
        Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| &**value).collect()
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.all(key).last().copied()
    }

    fn is_yes(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| matches!(value, "yes" | "true"))
    }
}

/// A running service.
pub(crate) struct Service {
    name: String,
    pub(crate) process: Process,
    notices: Option<UnixDatagram>,
    /// Of the program.
    pub(crate) user: u32,
}

impl Service {
    /// Starts it and waits until it says that it is ready, if its unit says that it does.
    pub(super) fn start(machine: &Machine, name: &str) -> Self {
        let places = UNITS.map(|dir| machine.root.join(dir).join(format!("{name}.service")));
        let path = places.iter().find(|path| path.exists()).expect(name);
        let unit = Unit::parse(&fs::read_to_string(path).unwrap());
        let user = User::of(&unit);
        let mut environment = user.environment();
        let mut mounts = state(machine, &unit, &user, &mut environment);
        runtime_directory(machine, &unit, &user);
        credentials(machine, &unit, name, &user, &mut environment);
        let notices = (unit.get("Type") == Some("notify")).then(|| {
            environment.push("NOTIFY_SOCKET=/run/notify".to_owned());
            listen(&machine.path("/run/notify"))
        });
        if unit.get("ProtectSystem") == Some("strict") {
            mounts.push_str(&read_only(&unit));
        }
        let words = program(machine, &unit, name, &user, &mounts, &environment);
        let process = machine.host.spawn("unshare", words).unwrap();
        let mut service = Self { name: name.into(), process, notices, user: user.uid };
        if service.notices.is_some() {
            service.says("READY=1");
        }
        service
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for a notice that begins so.
    #[track_caller]
    pub(crate) fn says(&mut self, expected: &str) {
        let Some(notices) = &self.notices else { return };
        let mut heard = Vec::new();
        let found = wait_until(SOON, || {
            let mut notice = [0; 1024];
            if let Ok(len) = notices.recv(&mut notice) {
                heard.push(String::from_utf8_lossy(&notice[..len]).into_owned());
            }
            heard.last().is_some_and(|notice| notice.starts_with(expected))
                || !self.process.is_running()
        });
        let found = found && heard.last().is_some_and(|notice| notice.starts_with(expected));
        let said = self.process.stdout() + &self.process.stderr();
        assert!(found, "{} does not say {expected} but {heard:?}:\n{said}", self.name);
    }

    pub(super) fn reload(&mut self) {
        self.process.signal(Signal::HUP).unwrap();
        self.says("RELOADING=1");
        self.says("READY=1");
    }

    /// Ends it as `systemctl stop` does. `false`, so that it is not kept.
    pub(super) fn stop(&mut self) -> bool {
        self.process.terminate().unwrap();
        false
    }
}

struct User {
    uid: u32,
    gid: u32,
    is_dynamic: bool,
}

impl User {
    fn of(unit: &Unit) -> Self {
        let id = |flag: &str, name: &str| {
            let output = Command::new("id").args([flag, name]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.trim().parse().unwrap_or_else(|_| panic!("there is no user {name}"))
        };
        match unit.get("User") {
            Some(name) => Self { uid: id("-u", name), gid: id("-g", name), is_dynamic: false },
            None if unit.is_yes("DynamicUser") => {
                Self { uid: DYNAMIC_USER, gid: DYNAMIC_USER, is_dynamic: true }
            }
            None => Self { uid: 0, gid: 0, is_dynamic: false },
        }
    }

    /// What systemd tells a service of its user.
    fn environment(&self) -> Vec<String> {
        let output = Command::new("getent").args(["passwd", &self.uid.to_string()]).output();
        let entry = String::from_utf8(output.unwrap().stdout).unwrap();
        let fields: Vec<_> = entry.trim().split(':').collect();
        let [name, _, _, _, _, home, _] = fields[..] else { return Vec::new() };
        vec![format!("USER={name}"), format!("LOGNAME={name}"), format!("HOME={home}")]
    }

    /// A directory of this user's, and all that is in it if the directory was another's.
    fn directory(&self, path: &Path, mode: u32) {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let owner = format!("{}:{}", self.uid, self.gid);
        assert!(Command::new("chown").args(["-R", &owner]).arg(path).status().unwrap().success());
    }
}

/// `StateDirectory=`. That of a dynamic user is below `/var/lib/private`, which nobody else may enter, with a link to it where one looks.
fn state(machine: &Machine, unit: &Unit, user: &User, environment: &mut Vec<String>) -> String {
    let Some(name) = unit.get("StateDirectory") else { return String::new() };
    let mode = u32::from_str_radix(unit.get("StateDirectoryMode").unwrap_or("0755"), 8).unwrap();
    let shown = format!("/var/lib/{name}");
    environment.push(format!("STATE_DIRECTORY={shown}"));
    if !user.is_dynamic {
        user.directory(&machine.path(&shown), mode);
        return String::new();
    }
    let private = machine.path("/var/lib/private");
    fs::create_dir_all(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let real = private.join(name);
    if real.metadata().is_err() {
        user.directory(&real, mode);
        symlink(format!("private/{name}"), machine.path(&shown)).unwrap();
    }
    // The service sees its own alone.
    format!(
        "mount -t tmpfs -o mode=755 tmpfs /var/lib/private\nmkdir /var/lib/private/{name}\n\
         mount --bind {} /var/lib/private/{name}\n",
        real.display()
    )
}

fn runtime_directory(machine: &Machine, unit: &Unit, user: &User) {
    if let Some(name) = unit.get("RuntimeDirectory") {
        user.directory(&machine.path(&format!("/run/{name}")), 0o755);
    }
}

/// `LoadCredential=`: copies that the service's user alone can read. systemd allows it by an access list, which shows as a permission of the
/// group; here the group allows it.
fn credentials(
    machine: &Machine,
    unit: &Unit,
    name: &str,
    user: &User,
    environment: &mut Vec<String>,
) {
    let credentials = unit.all("LoadCredential");
    if credentials.is_empty() {
        return;
    }
    let shown = format!("/run/credentials/{name}.service");
    let directory = machine.path(&shown);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    for credential in credentials {
        let (id, path) = credential.split_once(':').expect("ID:PATH");
        let copy = directory.join(id);
        fs::copy(machine.path(path), &copy)
            .unwrap_or_else(|error| panic!("systemd ends with 243: {path}: {error}"));
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o440)).unwrap();
        chown(&copy, Some(0), Some(user.gid)).unwrap();
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o550)).unwrap();
    chown(&directory, Some(0), Some(user.gid)).unwrap();
    environment.push(format!("CREDENTIALS_DIRECTORY={shown}"));
}

fn listen(path: &Path) -> UnixDatagram {
    let _ = fs::remove_file(path);
    let socket = UnixDatagram::bind(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// `ProtectSystem=strict`: all but `/dev`, `/proc`, `/sys` and the state directory.
fn read_only(unit: &Unit) -> String {
    let places = OWN.iter().chain(&["/"]);
    let mounts = places.map(|place| format!("mount -o remount,bind,ro {place}\n"));
    let kept = unit.get("StateDirectory").map(|_| "mount -o remount,bind,ro /var/lib/private\n");
    mounts.collect::<String>() + kept.unwrap_or_default()
}

/// The arguments of `unshare`.
fn program(
    machine: &Machine,
    unit: &Unit,
    name: &str,
    user: &User,
    mounts: &str,
    environment: &[String],
) -> Vec<String> {
    let mut words = vec!["--mount".to_owned(), machine.enter().display().to_string()];
    let script = machine.root.join(format!("mounts-of-{name}"));
    let directory = unit.get("WorkingDirectory").unwrap_or("/");
    let umask = unit.get("UMask").unwrap_or("0022");
    let then = format!("cd {directory}\numask {umask}\nexec \"$@\"\n");
    fs::write(&script, format!("set -e\n{mounts}{then}")).unwrap();
    words.extend(["sh".into(), script.display().to_string()]);
    if let Some(files) = unit.get("LimitNOFILE") {
        words.extend(["prlimit".into(), format!("--nofile={files}:{files}")]);
    }
    words.extend(set_privileges(unit, user));
    words.extend(
        ["env", "-i", "LANG=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"]
            .map(String::from),
    );
    words.extend(environment.iter().cloned());
    let line = unit.get("ExecStart").expect("ExecStart=");
    match &*unit.all("SystemCallFilter") {
        [] => words.extend(["sh".into(), "-c".into(), format!("exec {line}")]),
        lines => {
            let helper = copy_of_this_program(machine);
            let path = machine.path(&format!("/run/filter-of-{name}"));
            fs::write(&path, filter::program(&filter::allowed(lines))).unwrap();
            words.extend(filter::command(&helper, &format!("/run/filter-of-{name}"), line));
        }
    }
    words
}

/// The rights, by `setpriv`.
fn set_privileges(unit: &Unit, user: &User) -> Vec<String> {
    let (reuid, regid) = (format!("--reuid={}", user.uid), format!("--regid={}", user.gid));
    let mut words = vec!["setpriv".to_owned(), reuid, regid, "--clear-groups".into()];
    let named = |value: &str| {
        let names = value.split(' ').map(|name| name.trim_start_matches("CAP_").to_lowercase());
        names.map(|name| format!("+{name}")).collect::<Vec<_>>().join(",")
    };
    if let Some(value) = unit.get("AmbientCapabilities") {
        let names = named(value);
        words.extend([format!("--inh-caps={names}"), format!("--ambient-caps={names}")]);
    }
    if let Some(value) = unit.get("CapabilityBoundingSet") {
        words.push(format!("--bounding-set=-all,{}", named(value)));
    }
    if unit.is_yes("NoNewPrivileges") {
        words.push("--no-new-privs".into());
    }
    words
}

/// Where the service's user can run it.
fn copy_of_this_program(machine: &Machine) -> String {
    let copy: PathBuf = machine.path("/run/helper");
    if !copy.exists() {
        fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    }
    "/run/helper".into()
}
