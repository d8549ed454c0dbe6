//! Local ports: `--tap NAME`, `--port KIND:NAME` and `[[port]]` tables make up one list.

use std::str::FromStr;

use ipop_datapath::port::MAX_LOCAL_PORTS;

use super::{InterfaceName, Layers, SettingsError};

/// Kinds that are to come, so that who reads of one is not told that there is none.
const LATER_KINDS: [&str; 1] = ["vhost-user"];

type Parse = fn(&str) -> Result<InterfaceName, String>;

impl Layers<'_> {
    /// The TAPs, in the order of their ports: those of `tap` first. Flags of either form replace the file's list as a whole.
    pub(super) fn taps(&self) -> Result<Vec<InterfaceName>, SettingsError> {
        let has_flags = self.flags.tap.is_some() || self.flags.port.is_some();
        let layers = Layers { file: self.file.filter(|_| !has_flags), ..*self };
        let short = layers.pick("tap", |values| values.tap.as_ref());
        let short = short.map(|named| (named, InterfaceName::from_str as Parse));
        let long = layers.pick("port", |values| values.port.as_ref());
        let long = long.map(|named| (named, tap_of_port as Parse));
        let mut taps = Vec::new();
        for ((texts, origin), parse) in short.into_iter().chain(long) {
            for text in texts {
                let tap = parse(text).map_err(|why| origin.error(why))?;
                if taps.contains(&tap) {
                    return Err(origin.error(format_args!("{tap} is named twice")));
                }
                if taps.len() == MAX_LOCAL_PORTS {
                    return Err(origin.error(format_args!(
                        "there are more than {MAX_LOCAL_PORTS} local ports, which is all that this program supports"
                    )));
                }
                taps.push(tap);
            }
        }
        Ok(taps)
    }
}

/// The TAP that a `KIND:NAME` names, which is all the kinds that there are.
pub(crate) fn tap_of_port(text: &str) -> Result<InterfaceName, String> {
    match text.split_once(':') {
        Some(("tap", name)) => name.parse(),
        Some((kind, _)) if LATER_KINDS.contains(&kind) => {
            Err(format!("this version has no ports of kind {kind} yet; it has: tap"))
        }
        Some((kind, _)) => Err(format!("{kind:?} is no kind of port; the kinds are: tap")),
        None => Err(format!("{text:?} is not KIND:NAME, like tap:ipop0")),
    }
}
