//! The same network with Debian's ejabberd in Prosody's place, configured as Debian does it and the manual says: rooms with
//! a password and for members only, restarts, sessions that are resumed, bans, and its limits.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use ipop_perf::lab::{
    Access, Attached, Internet, InternetOptions, NatKind, NatOptions, Place, Process,
    servers::{Ejabberd, EjabberdOptions, XmppServer},
    wait_until,
};

use crate::world::{Node, Provider, SOON, World, strs};

/// One machine with an ejabberd.
struct WithEjabberd {
    machine: Attached,
    ejabberd: Ejabberd,
}

impl Provider for WithEjabberd {
    fn machine(&self) -> &Attached {
        &self.machine
    }

    fn xmpp(&self) -> &dyn XmppServer {
        &self.ejabberd
    }
}

fn world(label: &str) -> World<WithEjabberd> {
    let internet = Internet::new(label, InternetOptions::new()).unwrap();
    let machine = internet.machine("server", Place::Internet).unwrap();
    let options = EjabberdOptions::new().accounts(["admin", "n0", "n1", "n2", "n3"]);
    let ejabberd = Ejabberd::start(internet.lab(), &machine, options);
    let ejabberd = ejabberd.unwrap_or_else(|error| panic!("{error:#}"));
    World::of(internet, WithEjabberd { machine, ejabberd })
}

/// Whether the node is in the room, by its own account.
fn is_joined(node: &mut Node) -> bool {
    node.counters()["network"]["joined"] == true
}

#[test]
fn a_room_with_a_password_is_made_shown_entered_and_left_by_who_is_banned() {
    let mut world = world("ejpassword");
    let token = world.make_network();
    let secret = world.home.join("network.secret").display().to_string();
    let with_secret = ["--network-secret-file", secret.as_str()];
    // Nobody has entered it yet, which ejabberd tells as if it were new.
    let shown = world.room_command("admin", "show", &with_secret);
    assert_eq!(shown.code, 0, "{}", shown.said);
    let configuration = "hidden, with a password, open, non-anonymous, persistent";
    assert!(shown.output.contains(configuration), "{}", shown.output);
    assert!(!shown.said.contains("does not exist"), "{}", shown.said);
    let again = world.room_command("admin", "create", &with_secret);
    assert_eq!((again.code, again.output.trim()), (0, token.as_str()), "{}", again.said);

    let machines = ["a", "b", "c"].map(|name| world.machine(name));
    let mut nodes: Vec<_> = (0..3)
        .map(|n| world.member(&machines[n].host, n as u8, &format!("n{n}"), &token))
        .collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        nodes[from].comes_to_reach(to as u8);
    }
    for node in &mut nodes {
        assert_eq!(node.count("does not exist"), 0, "{}", node.log());
    }
    let removed = world.room_command("admin", "remove", &["n2@example.org"]);
    assert!(removed.output.contains("n2@example.org is banned"), "{}", removed.said);
    for node in &mut nodes[..2] {
        node.says("n2@example.org was removed from the room");
        let gone = wait_until(SOON, || node.state_of("c").is_none_or(|state| state != "up"));
        assert!(gone, "{}", node.log());
    }
    nodes[2].says("banned from room");
    assert!(nodes[0].reaches(1) && !nodes[0].reaches(2));

    // A restart: tunnels stay, the room is there again, and everybody comes back into it.
    world.servers.ejabberd.stop().unwrap();
    for node in &mut nodes[..2] {
        assert!(wait_until(SOON, || !is_joined(node)), "{}", node.log());
    }
    assert!(nodes[0].reaches(1));
    world.servers.ejabberd.start_again().unwrap();
    for node in &mut nodes[..2] {
        assert!(wait_until(SOON, || is_joined(node)), "{}", node.log());
    }
    let late = world.member(&world.machine("d").host, 3, "n3", &token);
    late.comes_to_reach(0);
    late.stop();
    nodes.into_iter().for_each(|node| drop(node.stop()));
}

#[test]
fn a_room_for_members_lets_them_in_and_nobody_else() {
    let world = world("ejmembers");
    let config = world.file("tofu.toml", "[network]\ntrust = \"tofu\"\nnew_nodes = \"accept\"\n");
    let made = world.room_command("admin", "create", &["--config", &config]);
    assert_eq!(made.code, 0, "{}", made.said);
    for account in ["n0@example.org", "n1@example.org"] {
        let added = world.room_command("admin", "add", &[account]);
        assert_eq!(added.code, 0, "{}", added.said);
    }
    let room = world.room();
    let start = |name: &str, number: u8, account: &str| {
        let mut args = world.account(account);
        args.extend(["--room", &room, "--config", &config].map(String::from));
        world.switch(&world.machine(name).host, number, &strs(&args))
    };
    let mut first = start("a", 0, "n0");
    first.joins();
    let second = start("b", 1, "n1");
    first.comes_to_reach(1);
    let mut stranger = start("c", 2, "n2");
    stranger.says("this account is not a member of room");
    let removed = world.room_command("admin", "remove", &["n1@example.org"]);
    assert_eq!(removed.code, 0, "{}", removed.said);
    first.says("n1@example.org was removed from the room");
    assert!(wait_until(SOON, || !first.reaches(1)), "{}", first.log());
    for node in [first, second, stranger] {
        node.stop();
    }
}

/// Debian's ejabberd, as its unit starts it, with the files of the package in directories of the lab.
struct AsInTheManual {
    machine: Attached,
    /// What programs of the machine see as `/etc/ejabberd`.
    etc: PathBuf,
    process: Process,
}

impl XmppServer for AsInTheManual {
    fn domain(&self) -> &'static str {
        "example.org"
    }

    fn rooms(&self) -> String {
        "conference.example.org".into()
    }

    fn address(&self) -> SocketAddr {
        (self.machine.ipv4, 5222).into()
    }

    fn directory(&self) -> &Path {
        &self.etc
    }

    fn ca_file(&self) -> PathBuf {
        self.etc.join("example.org.crt")
    }

    fn password(&self, account: &str) -> String {
        format!("the password of {account}")
    }
}

impl Provider for AsInTheManual {
    fn machine(&self) -> &Attached {
        &self.machine
    }

    fn xmpp(&self) -> &dyn XmppServer {
        self
    }
}

/// The commands of the section, block by block.
fn blocks(own_address: &str) -> Vec<String> {
    let page = include_str!("../../../docs/SERVERS.md");
    let section = page.split("\n## ejabberd instead of Prosody\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("\n```bash\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("\n```").next().unwrap());
    blocks.map(|block| block.replace("203.0.113.3", own_address)).collect()
}

impl AsInTheManual {
    fn start(internet: &Internet) -> Self {
        let machine = internet.machine("server", Place::Internet).unwrap();
        let root = internet.lab().dir().join("ejabberd");
        let etc = Path::new("/etc/netns").join(machine.host.netns()).join("ejabberd");
        let settings = format!(
            "SPOOL_DIR={0}/spool\nLOGS_DIR={0}/logs\nERL_DIST_PORT=5210\nINET_DIST_INTERFACE=127.0.0.1\n\
             ERL_OPTIONS=\"-setcookie lab\"\n",
            root.display()
        );
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let user = users.lines().find(|line| line.starts_with("ejabberd:")).unwrap();
        let user: Vec<u32> = user.split(':').filter_map(|field| field.parse().ok()).collect();
        for dir in [&etc, &root, &root.join("spool"), &root.join("logs")] {
            fs::create_dir_all(dir).unwrap();
            chown(dir, Some(user[0]), Some(user[1])).unwrap();
        }
        let configuration = etc.join("ejabberd.yml");
        fs::copy("/usr/share/ejabberd/ejabberd.yml.example", &configuration).unwrap();
        chown(&configuration, Some(user[0]), Some(user[1])).unwrap();
        fs::set_permissions(&configuration, fs::Permissions::from_mode(0o600)).unwrap();
        fs::copy("/etc/ejabberd/inetrc", etc.join("inetrc")).unwrap();
        fs::write(etc.join("ejabberdctl.cfg"), settings).unwrap();

        let blocks = blocks(&machine.ipv4.to_string());
        let [changes, accounts] = &blocks[..] else { panic!("{} blocks", blocks.len()) };
        let shell = |commands: &str| {
            machine.host.run("sh", ["-ec", commands]).unwrap_or_else(|error| panic!("{error:#}"))
        };
        shell(changes);
        let mut process = machine.host.spawn("ejabberdctl", ["foreground"]).unwrap();
        let address = SocketAddr::from((machine.ipv4, 5222));
        let is_up = wait_until(SOON, || {
            machine.host.enter(|| TcpStream::connect(address)).is_ok_and(|tcp| tcp.is_ok())
        });
        assert!(is_up && process.is_running(), "{}{}", process.stdout(), process.stderr());
        // It listens before its tables are there. `systemctl restart` waits for it, as this does.
        shell("ejabberdctl started");
        let said = shell(accounts);
        assert_eq!(said.matches("successfully registered").count(), 2, "{said}");
        Self { machine, etc, process }
    }
}

#[test]
fn a_network_comes_about_with_the_ejabberd_of_the_manual_and_its_own_turn_server() {
    let internet = Internet::new("ejmanual", InternetOptions::new()).unwrap();
    let server = AsInTheManual::start(&internet);
    let world = World::of(internet, server);
    let token = world.make_network();
    let sites = ["a", "b"].map(|name| {
        let nat = NatOptions::new(NatKind::Symmetric);
        world.internet.site(name, Access::Nat(nat)).unwrap()
    });
    let mut first = world.member(sites[0].host(), 0, "rack7", &token);
    let second = world.member(sites[1].host(), 1, "rack7", &token);
    first.comes_to_reach(1);
    let relayed = wait_until(SOON, || first.counters()["peers"][0]["path"]["kind"] == "relayed");
    assert!(relayed, "{}", first.log());
    first.stop();
    second.stop();
    let said = world.servers.process.stdout();
    assert!(!said.contains("[error]") && !said.contains("[critical]"), "{said}");
}
