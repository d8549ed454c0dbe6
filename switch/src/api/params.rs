//! What a request says, read as what a method takes. Errors name the path to the field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::types::{Problem, ProblemCode};

/// What a request says.
#[derive(Clone, Debug)]
pub(super) enum Params {
    /// A JSON value.
    Json(Value),
    /// What stands behind the question mark of an address, and the variable parts of its path: `a=1&b=2`.
    Query(String),
}

impl Params {
    /// What a method takes.
    pub(super) fn read<P: DeserializeOwned>(self) -> Result<P, Problem> {
        match self {
            Self::Json(value) => serde_path_to_error::deserialize(value).map_err(wrong),
            Self::Query(query) => {
                let pairs = serde_urlencoded::Deserializer::new(form_pairs(&query));
                serde_path_to_error::deserialize(pairs).map_err(wrong)
            }
        }
    }
}

fn form_pairs(query: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(query.as_bytes())
}

fn wrong<E: std::fmt::Display>(error: serde_path_to_error::Error<E>) -> Problem {
    let path = error.path().to_string();
    let problem = Problem::new(ProblemCode::BadParams, error.inner());
    // A dot stands for the whole.
    let field = Some(path).filter(|path| !matches!(path.as_str(), "." | "?"));
    Problem { field, ..problem }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        count: u8,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Deserialize, PartialEq, Debug)]
    struct Inner {
        name: String,
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named_by_its_path() {
        let read = |value| Params::Json(value).read::<Wanted>();
        assert_eq!(read(json!({ "count": 5 })), Ok(Wanted { count: 5, inner: vec![] }));
        let problem = read(json!({ "count": 5, "inner": [{ "name": "a" }, { "name": 7 }] }));
        let problem = problem.unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("inner[1].name"));
        assert!(problem.message.contains("string"), "{problem}");
        for wrong in [json!({ "count": 500 }), json!({ "count": "5" }), json!({ "count": null })] {
            assert_eq!(read(wrong).unwrap_err().field.as_deref(), Some("count"));
        }
        let unknown = read(json!({ "count": 5, "cuont": 5 })).unwrap_err();
        assert!(unknown.message.contains("cuont"), "{unknown}");
        for wrong in [json!(5), json!([]), json!(null)] {
            assert_eq!(read(wrong).unwrap_err().code, ProblemCode::BadParams);
        }
    }

    #[test]
    fn an_address_is_read_as_text_and_numbers() {
        let read = |query: &str| Params::Query(query.into()).read::<Wanted>();
        assert_eq!(read("count=5"), Ok(Wanted { count: 5, inner: vec![] }));
        assert!(read("count=x").unwrap_err().message.contains("invalid digit"));
        assert!(read("count=5&cuont=5").unwrap_err().message.contains("cuont"));
        assert!(read("").unwrap_err().message.contains("count"));
    }
}
