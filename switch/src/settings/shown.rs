//! The configuration in force, as it is shown: each key, its value in words, and where that comes from. Of secrets only that they are there.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{DEFAULT_MTU, Layers, api::DEFAULT_INSTANCE};
use crate::{
    api::{
        socket_of,
        types::{Configuration, ConfiguredKey, ValueSource},
    },
    config::{BeyondFlags, key_of_flag},
};

/// In place of a secret.
const HIDDEN: &str = "(set, not shown)";
/// Keys whose values are secrets.
const SECRET_KEYS: [&str; 2] = ["network.join", "xmpp.password"];

impl Layers<'_> {
    /// Every key.
    pub(super) fn shown(&self) -> Configuration {
        let flags = keys_of(self.flags);
        let mut of_file = self.file.map(|file| keys_of(&file.values)).unwrap_or_default();
        let none = BeyondFlags::default();
        of_file.extend(keys_of(self.file.map_or(&none, |file| &file.beyond_flags)));
        let mut keys = BTreeMap::new();
        for key in of_file.keys().chain(flags.keys()) {
            let default = ConfiguredKey { value: self.default_of(key), from: ValueSource::Default };
            keys.insert(key.clone(), default);
        }
        for (layer, from) in [(of_file, ValueSource::File), (flags, ValueSource::Flag)] {
            for (key, value) in layer.into_iter().filter(|(_, value)| !value.is_null()) {
                let value = Some(in_words(&key, &value));
                keys.insert(key, ConfiguredKey { value, from });
            }
        }
        let file = self.file.map(|file| file.path.display().to_string());
        Configuration { file, keys }
    }

    /// What holds if nobody says anything.
    fn default_of(&self, key: &str) -> Option<String> {
        Some(match key {
            "api" => self.instance().ok().map(|name| socket_of(&name))?.display().to_string(),
            "busy_poll" => "0".into(),
            "controller" => "room".into(),
            "congestion" => "tunnel".into(),
            "identity" => self.identity().display().to_string(),
            "instance" => DEFAULT_INSTANCE.into(),
            "listen" => format!("[::]:{}", ipop_control::peer::DEFAULT_PORT),
            "log" => "info".into(),
            "log_format" => "text".into(),
            "mtu" => DEFAULT_MTU.to_string(),
            "network.new_nodes" => "wait".into(),
            "network.trust" => "secret".into(),
            "offload" | "workers" => "auto".into(),
            "state" => self.state().display().to_string(),
            "metrics_peers" | "xmpp.allow_plain" => "false".into(),
            _ => return None,
        })
    }
}

/// The fields by their keys in the file.
fn keys_of(values: &impl serde::Serialize) -> BTreeMap<String, Value> {
    let Ok(Value::Object(fields)) = serde_json::to_value(values) else { return BTreeMap::new() };
    let key = |field: String| key_of_flag(&field.replace('_', "-")).replace('-', "_");
    fields.into_iter().map(|(field, value)| (key(field), value)).collect()
}

fn in_words(key: &str, value: &Value) -> String {
    if SECRET_KEYS.contains(&key) {
        return HIDDEN.into();
    }
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| format!("{name} {}", in_words(key, value));
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(field)
                .collect::<Vec<_>>()
                .join(" ")
        }
        Value::Array(all) => {
            all.iter().map(|one| in_words(key, one)).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
