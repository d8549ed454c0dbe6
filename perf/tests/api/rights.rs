//! Who may do what: as root, as a member of one of the groups, as nobody.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use super::{Alone, common, path};

/// Groups that every Debian has, and that the switch knows by these names.
const ALL: (&str, u32) = ("adm", 4);
const READ: (&str, u32) = ("mail", 8);
const NOBODY: u32 = 65_534;

/// The status of the answer to a request by user nobody with this group besides, or by root; 0 if nobody answers.
fn asked(alone: &Alone, group: Option<u32>, request: &[&str]) -> u16 {
    let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"];
    let mut line: Vec<String> = match group {
        None => vec!["env".into()],
        Some(group) => ["setpriv", "--reuid", "65534", "--regid", "65534", "--groups"]
            .map(String::from)
            .into_iter()
            .chain([group.to_string()])
            .collect(),
    };
    line.extend(curl.map(String::from));
    line.push(path(&alone.socket).into());
    line.extend(request.iter().map(|&word| word.to_owned()));
    // curl fails when it gets no answer, and has printed 000.
    let script = format!(
        "{}; true",
        line.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
    );
    let printed = alone.site.host().run("sh", ["-c", &script]).unwrap();
    printed.trim().parse().unwrap_or_else(|_| panic!("{script}: {printed}"))
}

const LOOK: &[&str] = &["http://x/v1/status"];
const SECRET: &[&str] = &["http://x/v1/links/x/description"];
const CHANGE: &[&str] = &["-X", "PUT", "-d", r#"{"level":"info"}"#, "http://x/v1/log"];

fn start(label: &str, configuration: &str) -> Alone {
    let file = std::env::temp_dir().join(format!("{label}-{}.toml", std::process::id()));
    fs::write(&file, configuration).unwrap();
    let alone = Alone::start(label, &["--config", path(&file)]);
    fs::remove_file(&file).unwrap();
    // Who may not connect is kept out by the socket, not by its directory.
    fs::set_permissions(alone.lab.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    alone
}

#[test]
fn two_groups_may_change_and_look() {
    let (all, read) = (ALL.0, READ.0);
    let alone = start("groups", &format!("api_group = {all:?}\napi_group_read = {read:?}\n"));
    assert_eq!(fs::metadata(&alone.socket).unwrap().mode() & 0o777, 0o666);
    let statuses = |group| [LOOK, SECRET, CHANGE].map(|request| asked(&alone, group, request));
    // There is no link to x: whoever may ask learns that.
    assert_eq!(statuses(None), [200, 400, 200]);
    assert_eq!(statuses(Some(ALL.1)), [200, 400, 200]);
    assert_eq!(statuses(Some(READ.1)), [200, 403, 403]);
    assert_eq!(statuses(Some(NOBODY)), [403, 403, 403]);
    let rpc = r#"{"jsonrpc":"2.0","id":1,"method":"log.set","params":{"level":"trace"}}"#;
    asked(&alone, Some(READ.1), &["-d", rpc, "http://x/v1/rpc"]);
    let status = common::api::call(&alone.socket, "status.get", serde_json::json!({})).unwrap();
    assert_eq!(status["log_level"], "info", "nor by JSON-RPC");
}

#[test]
fn without_a_group_that_may_look_the_socket_itself_keeps_others_out() {
    let alone = start("group", &format!("api_group = {:?}\n", ALL.0));
    let metadata = fs::metadata(&alone.socket).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o660, ALL.1));
    assert_eq!(asked(&alone, Some(ALL.1), CHANGE), 200);
    assert_eq!(asked(&alone, Some(READ.1), LOOK), 0);
    let alone = start("nogroup", "");
    assert_eq!(fs::metadata(&alone.socket).unwrap().mode() & 0o777, 0o660);
    assert_eq!(asked(&alone, Some(ALL.1), LOOK), 0);
    assert_eq!(asked(&alone, None, LOOK), 200);
}
