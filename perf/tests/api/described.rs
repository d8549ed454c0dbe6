//! docs/openapi.json: what there is to ask, and what answers look like.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The description.
pub(crate) struct Described {
    description: Value,
    pub(crate) operations: BTreeMap<String, Operation>,
}

/// A method, as HTTP has it.
pub(crate) struct Operation {
    pub(crate) verb: String,
    pub(crate) path: String,
    /// The schema of what it answers.
    pub(crate) answer: Value,
}

impl Described {
    pub(crate) fn read() -> Self {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json"));
        let mut description: Value = serde_json::from_str(text).unwrap();
        let mut operations = BTreeMap::new();
        for (path, verbs) in description["paths"].as_object().unwrap() {
            for (verb, operation) in verbs.as_object().unwrap() {
                let content = &operation["responses"]["200"]["content"];
                let name = operation["operationId"].as_str().unwrap().to_owned();
                let answer = content["application/json"]["schema"].clone();
                let (verb, path) = (verb.to_uppercase(), path.clone());
                operations.insert(name, Operation { verb, path, answer });
            }
        }
        // Fields that are not described must not be there. Those that others are made of are left open.
        let text = description.to_string();
        for (name, schema) in description["components"]["schemas"].as_object_mut().unwrap() {
            let is_part =
                text.contains(&format!("\"allOf\":[{{\"$ref\":\"#/components/schemas/{name}\""));
            if schema["properties"].is_object() && !is_part {
                schema["additionalProperties"] = json!(false);
            }
        }
        Self { description, operations }
    }

    /// The answer must be as this schema says.
    pub(crate) fn check(&self, what: &str, schema: &Value, answer: &Value) {
        let mut schema = schema.clone();
        schema["components"] = self.description["components"].clone();
        let validator = jsonschema::draft202012::new(&schema);
        let validator = validator.unwrap_or_else(|error| panic!("{what}: {error}"));
        let errors: Vec<String> = (validator.iter_errors(answer))
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:#?}\n{answer}");
    }

    /// The answer must be of this type.
    pub(crate) fn check_type(&self, what: &str, name: &str, answer: &Value) {
        let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
        self.check(what, &schema, answer);
    }
}
