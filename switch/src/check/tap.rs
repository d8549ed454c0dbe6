//! The TAP driver: whether devices can be made, and what they can be given. One is made for the purpose, and gone at once.

use std::{
    fs, io,
    path::Path,
    process,
    sync::atomic::{AtomicU8, Ordering},
};

use ipop_datapath::os::{
    OsError,
    tap::{self, TapFeatures},
};

use super::Row;
use crate::exit::ExitCode;

pub(super) const DEVICE: &str = "/dev/net/tun";
pub(super) const OFFLOADS: &str = "TAP offloads";

pub(super) fn device() -> Row {
    const WHAT: &str = DEVICE;
    let error = match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => return Row::ok(WHAT, "can be opened"),
        Err(error) => error,
    };
    let found = error.to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Row::missing(
            WHAT,
            ExitCode::Permission,
            found,
            "`chmod 666 /dev/net/tun` (CAP_NET_ADMIN still decides), or run as root; in a container \
             allow the device: --device /dev/net/tun",
        ),
        _ => Row::missing(
            WHAT,
            ExitCode::Failed,
            found,
            "`modprobe tun`; in a container hand the device in: --device /dev/net/tun",
        ),
    }
}

/// Without permission to make one nothing is known; that the permission is missing is another row's business.
pub(super) fn offloads() -> Row {
    static TRIALS: AtomicU8 = AtomicU8::new(0);
    // 15 bytes at most: process ids have up to seven digits.
    let trial = TRIALS.fetch_add(1, Ordering::Relaxed) % 10;
    let name = format!("ipopchk{}{trial}", process::id());
    let row = offloads_row(tap::probe(&name));
    if Path::new("/sys/class/net").join(&name).exists() {
        let cure = format!("`ip link delete {name}`");
        return Row::limited(
            row.what,
            format!("{}; the trial device {name} stayed", row.found),
            cure,
        );
    }
    row
}

fn offloads_row(probed: Result<TapFeatures, OsError>) -> Row {
    const WHAT: &str = OFFLOADS;
    let features = match probed {
        Ok(features) => features,
        Err(error) if error.cause.kind() == io::ErrorKind::PermissionDenied => {
            return Row::not_tried(WHAT, "needs CAP_NET_ADMIN and /dev/net/tun");
        }
        Err(error) if error.cause.kind() == io::ErrorKind::NotFound => {
            return Row::not_tried(WHAT, "needs /dev/net/tun");
        }
        Err(error) => {
            let cure = "TAP devices cannot be made: look at `dmesg`";
            return Row::missing(WHAT, ExitCode::Failed, error.to_string(), cure);
        }
    };
    let offered = [
        (features.tso, "TCP superframes"),
        (features.uso, "UDP superframes"),
        (features.multi_queue, "several queues"),
    ];
    let names = |there: bool| -> Vec<&str> {
        offered.iter().filter(|(offer, _)| *offer == there).map(|(_, name)| *name).collect()
    };
    let missing = names(false);
    if missing.is_empty() {
        return Row::ok(WHAT, names(true).join(", "));
    }
    let cure = "install kernel 6.2 or newer, with CONFIG_TUN of its own";
    Row::limited(WHAT, format!("without {}", missing.join(", ")), cure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;

    #[test]
    fn what_the_kernel_lacks_is_named() {
        let all = TapFeatures { tso: true, uso: true, multi_queue: true };
        assert_eq!(offloads_row(Ok(all)).status, Status::Ok);
        let old = offloads_row(Ok(TapFeatures { uso: false, ..all }));
        assert_eq!((old.status, old.found.as_str()), (Status::Limited, "without UDP superframes"));
    }

    #[test]
    fn without_permission_nothing_is_known_and_else_a_refusal_is_told() {
        let row =
            |kind: io::ErrorKind| offloads_row(Err(OsError::failed("cannot try", kind.into())));
        assert_eq!(row(io::ErrorKind::PermissionDenied).status, Status::NotTried);
        assert_eq!(row(io::ErrorKind::NotFound).status, Status::NotTried);
        let refused = row(io::ErrorKind::OutOfMemory);
        assert_eq!(refused.status, Status::Missing(ExitCode::Failed));
        assert!(refused.found.starts_with("cannot try"), "{refused:?}");
    }

    #[test]
    fn the_trial_device_is_gone_afterwards() {
        for _ in 0..3 {
            let row = offloads();
            assert!(!row.found.contains("stayed"), "{row:?}");
        }
    }
}
